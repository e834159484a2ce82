"""Asks a synthetic datastore for log-probabilities, in a process of its own whose memory can be seen; prints JSON.

python benchmarks/query.py PREFIX INDEX --rows N --width D [--own] [--map-index] [--queries 2048] [--k 1024] …
"""

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import VOCABULARY, draw

from fairseq.knn.search.mapped_lists import MappedListSearch
from knnlm import KNN_Dstore

# Seconds between two looks at the memory.
LOOK_EVERY = 0.02


def read_bytes() -> int:
    """Returns how many bytes this process has had from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


class PeakMemory:
    """The most memory that the process has held of its own, mapped files left out, as far as looks have seen."""

    def __init__(self) -> None:
        self.mib, self._is_over = 0.0, threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_EVERY):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.mib = max(self.mib, *(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")))

    def stop(self) -> float:
        """Returns the most so far, in MiB."""
        self._is_over.set()
        return self.mib


def counted_blocks(neighbours: KNN_Dstore) -> list[int]:
    """Returns a list that gets the number of queries of each block that is searched."""
    sizes, found = list[int](), neighbours.found

    def counted(queries_ND: Any, k: int) -> Any:
        sizes.append(len(queries_ND))
        return found(queries_ND, k)

    neighbours.found = counted  # type: ignore[method-assign]
    return sizes


def main() -> None:
    """Opens, asks twice, and prints seconds; the second time is with caches as the first has left them."""
    parser = argparse.ArgumentParser(description="Time queries of a synthetic datastore with float16 keys.")
    parser.add_argument("prefix", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--k", type=int, default=1024)
    parser.add_argument("--probe", type=int, default=32)
    parser.add_argument("--own", action="store_true", help="the index's own distances instead of exact ones")
    parser.add_argument("--map-index", action="store_true", help="leave the index in its file")
    parser.add_argument("--by-query", action="store_true", help="with --map-index: FAISS's search, never list by list")
    parser.add_argument("--times", type=int, default=2, help="ask so often")
    parser.add_argument("--log-prob", type=Path, metavar="FILE", help="write ln p of every query as .npy")
    args = parser.parse_args()
    if args.by_query:
        MappedListSearch.pays = classmethod(lambda *_: False)  # type: ignore[method-assign, assignment]
    memory = PeakMemory()
    more: dict[str, Any] = {"no_load_keys": True, "knn_sim_func": "do_not_recomp_l2"} if args.own else {}
    start = time.perf_counter()
    neighbours = KNN_Dstore.open(
        args.prefix,
        args.index,
        rows=args.rows,
        key_fp16=True,
        k=args.k,
        probe=args.probe,
        map_index=args.map_index,
        **more,
    )
    opened = time.perf_counter()
    queries_ND = draw(args.queries, args.width, 0)
    targets_N = np.random.default_rng(3).integers(0, VOCABULARY, args.queries)
    seconds, read, sizes = [], [], counted_blocks(neighbours)
    for _ in range(args.times):
        before, read_before = time.perf_counter(), read_bytes()
        log_p_N = neighbours.log_prob(queries_ND, targets_N)
        seconds.append(time.perf_counter() - before)
        read.append(read_bytes() - read_before)
    if args.log_prob:
        np.save(args.log_prob, log_p_N)
    found = {"open_s": opened - start, "first_s": seconds[0], "again_s": seconds[-1], "queries": args.queries}
    found |= {"read_bytes": read[0], "block": args.times * args.queries / len(sizes), "own_mib": round(memory.stop())}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
