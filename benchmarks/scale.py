"""How cost grows with the datastore: each step at three sizes, a power law through them, and WikiText-103 from it.

    python benchmarks/scale.py [--rows 100000,1000000,4000000] [--width 64] [--work DIR]

    seconds = a · rows^b        (least squares in logarithms)

The index has 4·√rows lists (a multiple of 64) and width ÷ 8 code bytes; k = 1024, probe 32. An extrapolation multiplies
the law at 103,225,485 rows by 1,024 ÷ width: every step reads or multiplies whole keys. Constants (starting Python, the
training of product codes) flatten the law of small sizes, and building turns from training, whose sample is capped, to
adding, which grows as rows^1.5: take the extrapolation of a build for too low, and the floor beside it, its counted
operations over the rate of products, for the surer figure.
"""

import argparse
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from calibrate import figures
from floors import index_floor
from machine import describe, timed_read
from runs import Run, turn
from synthetic import Store, make_store
from table import aligned
from wide import build, query

TARGET_ROWS, TARGET_WIDTH = 103_225_485, 1024
TRAIN_SAMPLE = 1_000_000  # the default of build_dstore.py
BOUNDS = {
    "read the keys": "the disk: rows × width × 2 bytes, once",
    "build the index": "products: training sample × lists × width × rounds, then rows × lists × width",
    "2,048 queries, exact": "random reads of the keys: 1,024 a query, and the codes of 32 lists",
    "2,048 queries, own": "codes visited: 32 lists of √rows ÷ 4",
}


def power_law(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Returns (a, b) of cost = a · size^b, by least squares in logarithms."""
    b, log_a = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(np.exp(log_a)), float(b)


def lists_for(rows: int) -> int:
    """Returns the lists of an index: 4·√rows, rounded to a multiple of 64."""
    return max(64, 64 * round(4 * math.sqrt(rows) / 64))


def checked(done: Run) -> Run:
    """Returns a run that succeeded.

    Raises:
        SystemExit: it did not.
    """
    if done.code:
        raise SystemExit(f"{' '.join(done.command[:3])} …: exit code {done.code}: {done.last_line}")
    return done


def costs_of(store: Store, work: Path, lock: Path | None) -> dict[str, float]:
    """Returns the seconds of every step at one size."""
    with turn(lock):
        make_store(store)
    index = work / f"scale-{store.rows}.index"
    spec = f"IVF{lists_for(store.rows)},PQ{max(store.width // 8, 1)}"
    with turn(lock):
        read_s = timed_read(store.keys_path)
    built = checked(build(store, index, ["--index-spec", spec], lock))
    exact, exact_run = query(store, index, lock)
    checked(exact_run)
    own, own_run = query(store, index, lock, own=True)
    checked(own_run)
    seconds = (read_s, built.wall_s, exact["again_s"], own["again_s"])
    print(
        f"{store.rows:,} rows, {spec}: {', '.join(f'{s:.2f} s' for s in seconds)}; build {built.peak_rss_gib:.2f} GiB"
    )
    return dict(zip(BOUNDS, seconds, strict=True))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Print how cost grows with the rows of a datastore.")
    parser.add_argument("--rows", default="100000,1000000,4000000", metavar="N,N,N")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--work", type=Path, default=Path("bench-work"), metavar="DIR")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="hold this lock during each run")
    parser.add_argument("--out", type=Path, default=Path("bench-work/scale.json"), metavar="JSON")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    work = args.work.absolute() / "scale"
    work.mkdir(parents=True, exist_ok=True)
    machine, sizes = figures(work, facts_only=True).machine, [int(word) for word in args.rows.split(",")]
    print(describe(machine))
    costs = [costs_of(Store(work / f"store-{n}", n, args.width), work, args.lock) for n in sizes]
    lines = [("step", *(f"{n:,}" for n in sizes), "exponent", "WikiText-103, × 1,024", "bound by")]
    for step, bound in BOUNDS.items():
        seconds = [cost[step] for cost in costs]
        a, b = power_law(sizes, seconds)
        there = a * TARGET_ROWS**b * TARGET_WIDTH / args.width
        lines.append((step, *(f"{s:.2f} s" for s in seconds), f"{b:.2f}", f"{there / 3600:.2f} h", bound))
    print(aligned(lines))
    lists = lists_for(TARGET_ROWS)
    floor = index_floor(TARGET_ROWS, TARGET_WIDTH, lists, TARGET_WIDTH // 8, sample=TRAIN_SAMPLE, key_bytes=2)
    print(f"floor of building IVF{lists} there, trained on {TRAIN_SAMPLE:,} rows: {floor.flops:.2e} operations, at")
    print(f"100 GFLOP/s {floor.flops / 1e11 / 3600:.1f} h")
    args.out.write_text(json.dumps({"machine": machine, "width": args.width, "sizes": sizes, "costs": costs}) + "\n")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
