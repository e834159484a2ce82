"""How long a sweep takes, beside the same settings computed one at a time from the same neighbours.

    python benchmarks/sweep.py --tokens 200000 --k 1024

makes a retrieval of random numbers (distances about as real ones are spread, one neighbour in eight a hit), sweeps 5 λ,
4 k and 5 temperatures, and computes some of these settings alone as an evaluation does once its neighbours are found:
read the distances of the first k, ``log_prob_of`` (fairseq/knn/neighbours/distribution.py), ``interpolate``
(fairseq/evaluate/mixture.py). What a separate run does before that, model and search, is in neither.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fairseq.evaluate.mixture import interpolate
from fairseq.knn.neighbours.distribution import Votes, log_prob_of
from fairseq.knn.retrieval.datastores import StoreRecord
from fairseq.knn.retrieval.format import Identity, Loss, RetrievalManifest, RetrievalSettings, columns_of
from fairseq.knn.retrieval.retrieval import Retrieval, RetrievalWriter
from fairseq.knn.sweep.grid import Grid, Setting
from fairseq.knn.sweep.sweep import Swept, sweep

ROWS_AT_ONCE = 512
ALONE = 4


def write_random(directory: Path, num_tokens: int, k: int) -> None:
    """Writes a retrieval of random numbers."""
    rng = np.random.default_rng(1)
    manifest = RetrievalManifest(
        num_tokens=num_tokens,
        k=k,
        vocabulary_size=50_000,
        split="random",
        data="",
        dictionary="",
        settings=RetrievalSettings(),
        lmbda=0.25,
        knn_temp=1.0,
        identity=Identity(),
        datastore=StoreRecord(prefix=""),
        files={},
    )
    with RetrievalWriter(directory, columns_of(k, 1 << 20), manifest) as writer:
        for start in range(0, num_tokens, 4096):
            rows_N = np.arange(start, min(start + 4096, num_tokens))
            n = len(rows_N)
            distances_NK = rng.random((n, 1), np.float32) * 20 + rng.random((n, k), np.float32) * 30
            hits_NK = rng.random((n, k), np.float32) < 0.25 * rng.random((n, 1), np.float32)
            writer.write(
                rows_N,
                targets=rng.integers(4, 50_000, n),
                positions=rows_N,
                blocks=rows_N // 512,
                lm_log_prob=np.log(rng.random(n) + 1e-4),
                ids=rng.integers(0, 1 << 20, (n, k)),
                distances=np.sort(distances_NK, axis=1),
                hits=np.packbits(hits_NK, axis=1, bitorder="little"),
            )
        writer.finish(Loss(None, None), Loss(None, None))


def loss_alone(retrieval: Retrieval, setting: Setting) -> float:
    """Returns the loss of one setting, computed as an evaluation does."""
    total = 0.0
    for start in range(0, len(retrieval), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        votes = Votes(
            np.array(retrieval.distances_NK[rows, : setting.k]),
            np.array(retrieval.ids_NK[rows, : setting.k]),
            retrieval.hits_NK(rows)[:, : setting.k],
        )
        lm_N, knn_N = np.array(retrieval.lm_log_p_N[rows]), log_prob_of(votes, setting.knn_temp)
        total += float(interpolate(torch.from_numpy(lm_N), torch.from_numpy(knn_N), setting.lmbda).sum())
    return -total / len(retrieval) / float(np.log(2))


def compare(retrieval: Retrieval, grid: Grid) -> None:
    """Prints one table."""
    start, cpu = time.perf_counter(), time.process_time()
    swept = sweep(retrieval, grid)
    together_s, together_cpu_s = time.perf_counter() - start, time.process_time() - cpu
    settings = [Setting(i, k, t) for t in grid.temperatures for k in grid.ks for i in grid.lmbdas]
    differences, alone_s, cpu = [], 0.0, time.process_time()
    for number in np.linspace(0, len(settings) - 1, ALONE).astype(int):
        start = time.perf_counter()
        loss = loss_alone(retrieval, settings[number])
        alone_s += time.perf_counter() - start
        differences.append(abs(loss - loss_of(swept, settings[number])))
    each_s, alone_cpu_s = alone_s / ALONE, time.process_time() - cpu
    print(f"{len(retrieval)} tokens, {retrieval.k} neighbours each, {torch.get_num_threads()} threads")
    print("| | settings | seconds | of processors | seconds a setting |\n|---|---:|---:|---:|---:|")
    for name, count, seconds, cpu_s in (
        ("swept together", len(settings), together_s, together_cpu_s),
        ("one at a time, measured", ALONE, alone_s, alone_cpu_s),
        (
            "one at a time, all (extrapolated)",
            len(settings),
            each_s * len(settings),
            alone_cpu_s / ALONE * len(settings),
        ),
    ):
        print(f"| {name} | {count} | {seconds:.1f} | {cpu_s:.1f} | {seconds / count:.3f} |")
    print(f"largest difference of a loss: {max(differences):.1e} bits")


def loss_of(swept: Swept, setting: Setting) -> float:
    """Returns the loss of a setting that was swept."""
    grid = swept.grid
    t, j, i = grid.temperatures.index(setting.knn_temp), grid.ks.index(setting.k), grid.lmbdas.index(setting.lmbda)
    return float(swept.loss_TJSLM[t, j, 0, i, 0])


def main() -> None:
    """Makes the retrieval and compares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--k", type=int, default=1024)
    parser.add_argument("--dir", type=Path, help="where the retrieval is made, and removed again")
    args = parser.parse_args()
    ks = sorted({max(args.k // part, 1) for part in (128, 16, 4, 1)})
    grid = Grid((0.1, 0.2, 0.3, 0.5, 0.8), tuple(ks), (0.1, 1.0, 3.0, 10.0, 100.0))
    with tempfile.TemporaryDirectory(dir=args.dir) as directory:
        write_random(Path(directory) / "retrieval", args.tokens, args.k)
        compare(Retrieval.open(Path(directory) / "retrieval"), grid)


if __name__ == "__main__":
    main()
