"""What ``fairseq-knnlm plan`` says beside what real runs take, at three sizes.

    python benchmarks/plan.py [--rows 100000,200000,400000] [--width 256] [--work DIR] [--lock FILE]

Rates are measured once. For each size a datastore is written by a model with random weights, another of synthetic keys
(``synthetic.py``) is indexed and searched, and each stage's seconds, disk and peak memory stand beside the plan's.
Starting Python and opening files is not in the plan, nor in these seconds: they run from the first line of work to the
last. The last column is the worst of the stage's ratios, measured to planned.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from bench import ROOT
from calibrate import figures
from machine import describe
from runs import Run, run, turn
from scale import lists_for
from synthetic import Store, make_store
from table import aligned
from wide import build, query

QUERIES, K, PROBE = 16384, 1024, 32
MODEL = "--arch transformer_lm --decoder-layers 4 --decoder-attention-heads 4 --criterion cross_entropy"

UPDATE = "--optimizer adam --lr 0.001 --max-tokens 2048 --max-update 1 --disable-validation"


def say(command: str, *words: object, lock: Path | None = None) -> Run:
    """Returns the run of one of the project's commands.

    Raises:
        SystemExit: it failed.
    """
    done = run([sys.executable, "-m", command, *map(str, words)], env={"PYTHONPATH": str(ROOT)}, lock=lock)
    if done.code:
        raise SystemExit(f"{command}: exit code {done.code}: {done.text[-500:]}")
    return done


def make_model(work: Path, rows: int, width: int) -> None:
    """Makes a text of so many words, binarised, and a model of random weights."""
    if (work / "model" / "checkpoint_last.pt").exists():
        return
    words = np.random.default_rng(0).zipf(1.3, rows) % 9973
    lines = [" ".join(f"w{word}" for word in line) for line in np.array_split(words, max(rows // 20, 1))]
    (work / "train.txt").write_text("\n".join(lines) + "\n")
    (work / "valid.txt").write_text("\n".join(lines[:1000]) + "\n")
    texts = ["--only-source", "--trainpref", work / "train.txt", "--validpref", work / "valid.txt"]
    say("fairseq_cli.preprocess", *texts, "--destdir", work / "data")
    shape = ["--decoder-embed-dim", width, "--decoder-ffn-embed-dim", 4 * width, "--tokens-per-sample", 256]
    say("fairseq_cli.train", work / "data", "--save-dir", work / "model", *MODEL.split(), *shape, *UPDATE.split())


def line_at(done: Run, text: str) -> float:
    """Returns when the first line with a text came, in seconds from the start."""
    return next(seconds for seconds, line in done.lines if text in line)


def measured(work: Path, store: Store, lock: Path | None) -> dict[str, tuple[float, float, float]]:
    """Returns seconds, bytes of disk and of memory of each stage, as real runs have them."""
    dstore = work / f"plan-{store.rows}"
    model = ["--path", work / "model" / "checkpoint_last.pt", "--gen-subset", "train", "--context-window", 64]
    where = ["--save-knnlm-dstore", "--dstore-mmap", dstore, "--dstore-size", store.rows]
    where += ["--dstore-fp16", "--overwrite"]
    wrote = say("fairseq_cli.eval_lm", work / "data", *model, *where, lock=lock)
    kept = sum(Path(f"{dstore}_{part}.npy").stat().st_size for part in ("keys", "vals"))
    with turn(lock):
        make_store(store)
    index = work / f"plan-{store.rows}.index"
    spec = f"IVF{lists_for(store.rows)},PQ{store.width // 8}"
    for ending in (".trained", ".trained.json"):  # of an earlier run, which would be taken
        Path(f"{index}{ending}").unlink(missing_ok=True)
    built = build(store, index, ["--index-spec", spec], lock)
    if built.code:
        raise SystemExit(f"build_dstore.py: {built.last_line}")
    read, trained, done = (line_at(built, text) for text in ("rows to train on", "trained in", "bytes per key"))
    found, searched = query(store, index, lock, "--queries", str(QUERIES))
    gib, size = 2**30, index.stat().st_size
    return {
        "write datastore": (wrote.wall_s - line_at(wrote, "skipped the first"), kept, wrote.peak_rss_gib * gib),
        "train index": (trained - read, 4 * lists_for(store.rows) * store.width, built.peak_rss_gib * gib),
        "add rows": (done - trained, size, built.peak_rss_gib * gib),
        "search": (found["again_s"], 0, searched.peak_rss_gib * gib),
    }


def planned(rows: int, width: int, work: Path, rates: Path) -> dict[str, tuple[float, float, float]]:
    """Returns the same as ``fairseq-knnlm plan`` has it."""
    from fairseq.knn.plan.rates import read_rates
    from fairseq.knn.plan.stages import Machine, stages
    from fairseq.knn.plan.work import Work
    from fairseq.runtime.resources import total_memory_bytes

    wanted = Work(rows, width, 2, lists_for(rows), width // 8, 1_000_000, K, PROBE)
    machine = Machine(total_memory_bytes(), 1e15, 1e9)
    made = stages(wanted, read_rates(rates, wanted), machine, 1, QUERIES)
    # Pages of the keys' file count as memory of the process that has mapped it, as long as there is room.
    mapped = {"add rows": wanted.keys, "search": wanted.keys}
    return {stage.name: (stage.seconds or 0.0, stage.disk, stage.memory + mapped.get(stage.name, 0)) for stage in made}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Print plans beside real runs.")
    parser.add_argument("--rows", default="100000,200000,400000", metavar="N,N,N")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--work", type=Path, default=Path("bench-work"), metavar="DIR")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="hold this lock during each run")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    work = args.work.absolute() / "plan"
    work.mkdir(parents=True, exist_ok=True)
    sizes = [int(word) for word in args.rows.split(",")]
    print(describe(figures(work, facts_only=True).machine))
    make_model(work, max(sizes) * 11 // 10, args.width)
    rates = work / "rates.json"
    named = ["--tokens", sizes[0], "--code-size", args.width // 8, "--probe", PROBE, "--dstore-fp16", "--work", work]
    model = [work / "data", "--path", work / "model" / "checkpoint_last.pt", "--context-window", 64]
    say("fairseq_cli.knnlm", "plan", *model, *named, "--save-rates", rates, "--overwrite", lock=args.lock)
    lines = [("rows", "stage", "s planned", "s", "MiB disk planned", "MiB", "GiB memory planned", "GiB", "ratio")]
    for rows in sizes:
        real = measured(work, Store(work / f"store-{rows}", rows, args.width), args.lock)
        plan = planned(rows, args.width, work, rates)
        # One process trains and adds: its peak is the larger of the two.
        peak = max(plan[stage][2] for stage in ("train index", "add rows"))
        for stage, (seconds, disk, memory) in real.items():
            plan_s, plan_disk, plan_memory = plan[stage]
            plan_memory = peak if stage in ("train index", "add rows") else plan_memory
            pairs = [(seconds, plan_s), (memory, plan_memory), *([(disk, plan_disk)] if disk else [])]
            ratios = [got / wanted for got, wanted in pairs]
            worst = max(ratios, key=lambda ratio: abs(np.log(ratio)))
            line = (plan_s, seconds), (plan_disk / 2**20, disk / 2**20), (plan_memory / 2**30, memory / 2**30)
            shown = [f"{number:.{places}f}" for pair, places in zip(line, (1, 1, 2), strict=True) for number in pair]
            lines.append((f"{rows:,}", stage, *shown, f"{worst:.2f}"))
    print(aligned(lines))


if __name__ == "__main__":
    main()
