"""A datastore larger than memory: queries in a control group too small for the page cache to hold the keys.

    python benchmarks/limited.py [--rows 2000000] [--width 1024] [--limits-mib 768,1536] [--queries 8192] [--work DIR]

A child of this process's own control group gets the limit, anonymous memory and page cache together; it holds the query
process alone and is removed afterwards. Prints milliseconds a query, the GiB that came from the disk and the rate,
beside the disk's own rate for a file read in order. Needs the right to make control groups (version 1 or 2); without
it, says so.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import ROOT
from calibrate import figures
from machine import describe, forget, timed_read
from runs import Run, run, turn
from synthetic import Store, make_store
from table import aligned
from wide import TRAIN_SAMPLE, build

CGROUP = Path("/sys/fs/cgroup")


def own_group() -> tuple[Path, str, str]:
    """Returns this process's memory control group, and the names of its limit's and its peak's files."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            return CGROUP / "memory" / path.lstrip("/"), "memory.limit_in_bytes", "memory.max_usage_in_bytes"
    path = next((path for _, controllers, path in lines if not controllers), "/")
    return CGROUP / path.lstrip("/"), "memory.max", "memory.peak"


@contextmanager
def limited_group(limit_bytes: int) -> Iterator[Path]:
    """Makes a child control group with a limit, and removes it.

    Raises:
        SystemExit: the system does not allow it.
    """
    parent, limit, _ = own_group()
    group = parent / f"benchmark-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as err:
        raise SystemExit(f"no control group can be made in {parent} ({err.strerror}): not measured") from err
    try:
        if not (group / limit).exists():
            raise SystemExit(f"{parent} gives its children no memory limits: not measured")
        (group / limit).write_text(str(limit_bytes))
        yield group
    finally:
        group.rmdir()


def query_within(group: Path, store: Store, index: Path, queries: int, lock: Path | None) -> Run:
    """Returns the run of ``query.py`` by a shell that has entered the group."""
    words = [sys.executable, ROOT / "benchmarks" / "query.py", store.prefix, index, "--rows", store.rows]
    words += ["--width", store.width, "--queries", queries]
    enter = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
    command = ["sh", "-c", enter, "sh", *map(str, words)]
    return run(command, env={"PYTHONPATH": str(ROOT)}, lock=lock)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Query a datastore that is larger than memory.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--spec", default="IVF1024,PQ64")
    parser.add_argument("--limits-mib", default="768,1536", metavar="MIB,MIB", help="one run under each")
    parser.add_argument("--queries", type=int, default=8192)
    parser.add_argument("--work", type=Path, default=Path("bench-work"), metavar="DIR")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="hold this lock during each run")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the group is removed then, too
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    args.work.mkdir(parents=True, exist_ok=True)
    work = args.work.absolute()
    print(describe(figures(work, facts_only=True).machine))
    limits = [int(word) * 2**20 for word in args.limits_mib.split(",")]
    with limited_group(limits[0]):
        pass  # before any work: is it allowed?
    store = Store(work / f"limited-{args.rows}-{args.width}", args.rows, args.width)
    with turn(args.lock):
        make_store(store)
    index = work / "limited.index"
    built = build(store, index, ["--index-spec", args.spec, "--train-sample", str(TRAIN_SAMPLE)], args.lock)
    if built.code:
        raise SystemExit(f"build_dstore.py: exit code {built.code}: {built.last_line}")
    in_order = store.num_bytes / timed_read(store.keys_path) / 1e9
    print(f"{store.num_bytes / 1e9:.1f} GB of keys, index {index.stat().st_size / 2**20:.0f} MiB", end="")
    print(f"; the disk reads {in_order:.2f} GB/s in order")
    lines = [("limit MiB", "peak MiB", "exit code", "first ms/query", "again", "GiB from disk", "GB/s")]
    for limit in limits:
        with limited_group(limit) as group:
            forget(store.keys_path)
            forget(index)
            done = query_within(group, store, index, args.queries, args.lock)
            peak = int((group / own_group()[2]).read_text())
        found = json.loads(done.last_line) if done.code == 0 else {}
        seconds = [found[name] for name in ("first_s", "again_s") if found]
        lines.append(
            (
                f"{limit / 2**20:.0f}",
                f"{peak / 2**20:.0f}",
                str(done.code),
                *([f"{1000 * s / args.queries:.2f}" for s in seconds] or ["", ""]),
                f"{done.read_gib:.1f}",
                f"{done.read_gib * 2**30 / 1e9 / sum(seconds):.2f}" if seconds else "",
            )
        )
    print(aligned(lines))


if __name__ == "__main__":
    main()
