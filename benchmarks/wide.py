"""A realistic width: indexes of keys 1,024 wide, float16, on the disk; seconds a query and memory held.

    python benchmarks/wide.py [--rows 1000000] [--width 1024] [--specs "A;B"] [--work DIR]

A table: build seconds and memory, bytes a key, and milliseconds a query with exact distances (from the keys on the
disk) and with the index's own. What the keys are: ``synthetic.py``.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from bench import ROOT
from calibrate import figures
from machine import describe, forget
from runs import Run, run, turn
from synthetic import NOISE, RANK, Store, make_store
from table import aligned

# Rows that an index is trained on; all million would train 4,096 centroids for a quarter of an hour on two cores.
TRAIN_SAMPLE = 131072
SPECS = "IVF4096,PQ64;IVF4096,SQ8;OPQ64_256,IVF4096,PQ64x4fs"
HEAD = ("index", "build s", "peak GiB", "bytes/key", "exact ms/query", "again", "peak GiB", "own ms/query", "peak GiB")


def build(store: Store, index: Path, flags: list[str], lock: Path | None) -> Run:
    """Returns the run that builds an index, from keys that are not in the page cache."""
    index.unlink(missing_ok=True)
    Path(f"{index}.json").unlink(missing_ok=True)
    forget(store.keys_path)
    words: list[str | Path] = [
        sys.executable,
        ROOT / "build_dstore.py",
        *store.build_flags(),
        "--faiss_index",
        index,
        *flags,
    ]
    return run(words, env={"PYTHONPATH": str(ROOT)}, lock=lock, log=index.with_suffix(".log"))


def query(store: Store, index: Path, lock: Path | None, *words: str, own: bool = False) -> tuple[dict[str, float], Run]:
    """Returns what ``query.py`` printed, first with cold keys, and its run."""
    forget(store.keys_path)
    command: list[str | Path] = [
        sys.executable,
        ROOT / "benchmarks" / "query.py",
        store.prefix,
        index,
        "--rows",
        str(store.rows),
    ]
    command += ["--width", str(store.width), *words, *(["--own"] if own else [])]
    done = run(command, env={"PYTHONPATH": str(ROOT)}, lock=lock)
    return (json.loads(done.last_line) if done.code == 0 else {}), done


def row(store: Store, spec: str, work: Path, lock: Path | None) -> list[str]:
    """Returns the printed row of an index specification."""
    index = work / f"wide-{spec.replace(',', '-')}.index"
    built = build(store, index, ["--index-spec", spec, "--train-sample", str(TRAIN_SAMPLE)], lock)
    if built.code:
        return [spec, built.last_line[-80:], *[""] * 7]
    exact, exact_run = query(store, index, lock)
    own, own_run = query(store, index, lock, own=True)

    def per_query(found: dict[str, float], name: str) -> str:
        return f"{1000 * found[name] / found['queries']:.2f}" if found else "failed"

    return [
        spec,
        f"{built.wall_s:.1f}",
        f"{built.peak_rss_gib:.2f}",
        f"{index.stat().st_size / store.rows:.1f}",
        per_query(exact, "first_s"),
        per_query(exact, "again_s"),
        f"{exact_run.peak_rss_gib:.2f}",
        per_query(own, "again_s"),
        f"{own_run.peak_rss_gib:.2f}",
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Print what indexes of wide keys cost.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--specs", default=SPECS, help="FAISS factory strings between semicolons")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), metavar="DIR")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="hold this lock during each run")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    args.work.mkdir(parents=True, exist_ok=True)
    store = Store(args.work.absolute() / f"wide-{args.rows}-{args.width}", args.rows, args.width)
    with turn(args.lock):
        make_store(store)
    print(describe(figures(args.work, facts_only=True).machine))
    print(
        f"{args.rows:,} keys of {args.width}, float16, rank {RANK} (σ_i = i^-½) + {NOISE} of noise; k = 1024, probe 32"
    )
    rows = [row(store, spec, args.work.absolute(), args.lock) for spec in args.specs.split(";")]
    print(aligned([HEAD, *rows]))
    print("Peak memory counts pages of the keys' file that were mapped; the system may take those back.")


if __name__ == "__main__":
    main()
