"""An index and keys that together are five times the memory: what a token reads of the disk, beside the formula.

    python benchmarks/larger_than_memory.py [--rows 12000000] [--width 64] [--spec IVF1024,SQ8] [--times 5] [--work DIR]

A control group gets a fifth of what index and keys take, page cache and all; ``query.py`` asks in it, with the index in
its file (``--map-index``): query by query as FAISS searches, then list by list. Prints the memory that the process held
of its own, the peak of the group, milliseconds and bytes a token, and how far ln p is from that of an index in memory.
Bytes of the disk, of B queries at once:

    index     query by query     nprobe / nlist · rows · (code bytes + 8)
              list by list       rows · (code bytes + 8) · (1 − (1 − nprobe / nlist)^B) / B
    keys      pages · (1 − (1 − 1 / pages)^(B · k)) · page bytes / B

Needs the right to make control groups (version 1 or 2); without it, says so. Takes 3 GB of disk and some minutes.
"""

import argparse
import json
import mmap
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench import ROOT
from calibrate import figures
from limited import limited_group, own_group
from machine import describe, forget, timed_read
from runs import Run, run
from synthetic import Store, make_store
from table import aligned
from wide import TRAIN_SAMPLE, build

K, PROBE = 1024, 32
ID_BYTES = 8


@dataclass(frozen=True)
class Sizes:
    """What the formula needs.

    Attributes:
        rows: of the datastore.
        lists: inverted lists of the index.
        code_bytes: of a row in the index.
        key_bytes: of a row's key.
        probe: lists that a search visits.
        k: neighbours.
    """

    rows: int
    lists: int
    code_bytes: int
    key_bytes: int
    probe: int = PROBE
    k: int = K

    def index_bytes_a_token(self, block: float) -> float:
        """Returns the bytes of lists that a token reads, where each is read once for a block of queries."""
        visited = 1 - (1 - self.probe / self.lists) ** block
        return self.rows * (self.code_bytes + ID_BYTES) * visited / block

    def key_bytes_a_token(self, block: float, page: int = mmap.PAGESIZE) -> float:
        """Returns the bytes of pages that hold a neighbour's key, where each is read once for a block of queries."""
        pages = max(self.rows * self.key_bytes / page, 1.0)
        return float(-pages * np.expm1(block * self.k * np.log1p(-1 / pages)) * page / block) if pages > 1 else page


def asked(store: Store, index: Path, group: Path | None, *words: str) -> tuple[dict[str, Any], Run]:
    """Returns what ``query.py`` printed, in a control group or outside, with nothing in the page cache before."""
    for path in (store.keys_path, index):
        forget(path)
    command = [sys.executable, ROOT / "benchmarks" / "query.py", store.prefix, index, "--rows", store.rows]
    command += ["--width", store.width, "--k", K, "--probe", PROBE, "--times", 1, *words]
    if group is not None:
        command = ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh", *command]
    done = run([str(word) for word in command], env={"PYTHONPATH": str(ROOT)})
    return (json.loads(done.last_line) if done.code == 0 else {}), done


def row(name: str, found: dict[str, Any], peak: int, sizes: Sizes, apart: float, *, by_query: bool) -> list[str]:
    """Returns the printed row of a run."""
    block = float(found["block"])
    index, keys = sizes.index_bytes_a_token(1 if by_query else block), sizes.key_bytes_a_token(block)
    return [
        name,
        f"{found['own_mib']}",
        f"{peak / 2**20:.0f}",
        f"{block:.0f}",
        f"{1000 * found['first_s'] / found['queries']:.1f}",
        f"{found['read_bytes'] / found['queries'] / 1e6:.2f}",
        f"{(index + keys) / 1e6:.2f}",
        f"{index / 1e6:.2f} + {keys / 1e6:.2f}",
        f"{apart:.0e}",
    ]


HEAD = ("search", "own MiB", "peak MiB", "block", "ms/token", "MB/token", "formula", "index + keys", "ln p apart")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Search an index and keys that are larger than memory.")
    parser.add_argument("--rows", type=int, default=12_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--spec", default="IVF1024,SQ8")
    parser.add_argument("--times", type=float, default=5.0, help="index and keys are so many times the limit")
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--few", type=int, default=256, help="queries that are searched query by query")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), metavar="DIR")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the group is removed then, too
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    args.work.mkdir(parents=True, exist_ok=True)
    work = args.work.absolute()
    print(describe(figures(work, facts_only=True).machine))
    with limited_group(2**30):
        pass  # before any work: is it allowed?
    store = Store(work / f"larger-{args.rows}-{args.width}", args.rows, args.width)
    make_store(store)
    index = work / f"larger-{args.rows}-{args.width}-{args.spec.replace(',', '-')}.index"
    if not Path(f"{index}.json").exists():
        built = build(store, index, ["--index-spec", args.spec, "--train-sample", str(TRAIN_SAMPLE)], None)
        if built.code:
            raise SystemExit(f"build_dstore.py: exit code {built.code}: {built.last_line}")
    made = json.loads(Path(f"{index}.json").read_text())
    code_bytes = round(index.stat().st_size / args.rows) - ID_BYTES
    sizes = Sizes(args.rows, made["nlist"], code_bytes, 2 * args.width)
    limit = int((store.num_bytes + index.stat().st_size) / args.times)
    rate = index.stat().st_size / timed_read(index) / 1e9
    print(
        f"{args.rows:,} rows: keys {store.num_bytes / 1e6:.0f} MB, index {index.stat().st_size / 1e6:.0f} MB of"
        f" {made['nlist']} lists; limit {limit / 2**20:.0f} MiB; the disk reads {rate:.2f} GB/s in order"
    )
    lines: list[list[str] | tuple[str, ...]] = [HEAD]
    for name, queries, words in (
        ("query by query", args.few, ["--by-query"]),
        ("list by list", args.queries, []),
    ):
        words = ["--queries", str(queries), *words]
        expected, _ = asked(store, index, None, *words, "--log-prob", str(work / "expected.npy"))
        with limited_group(limit) as group:
            found, done = asked(store, index, group, *words, "--map-index", "--log-prob", str(work / "found.npy"))
            peak = int((group / own_group()[2]).read_text())
        if not (found and expected):
            raise SystemExit(f"query.py: exit code {done.code}: {done.last_line}")
        pair = np.load(work / "found.npy"), np.load(work / "expected.npy")
        apart = float(np.abs(np.subtract(*pair, where=pair[0] != pair[1], out=np.zeros_like(pair[0]))).max())  # −inf
        lines.append(row(name, found, peak, sizes, apart, by_query=bool(words[2:])))
    with limited_group(limit) as group:
        _, refused = asked(store, index, group, "--queries", "8")
    print(aligned(lines))
    print(f"Without --map-index: {refused.last_line.removeprefix('fairseq.errors.ConfigError: ')}")


if __name__ == "__main__":
    main()
