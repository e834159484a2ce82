"""Asks a synthetic datastore for log-probabilities, in a process of its own whose memory can be seen; prints JSON.

python benchmarks/query.py PREFIX INDEX --rows N --width D [--own] [--queries 2048] [--k 1024] [--probe 32]
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from synthetic import VOCABULARY, draw

from knnlm import KNN_Dstore


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
    args = parser.parse_args()
    more = {"no_load_keys": True, "knn_sim_func": "do_not_recomp_l2"} if args.own else {}
    start = time.perf_counter()
    neighbours = KNN_Dstore.open(
        args.prefix, args.index, rows=args.rows, key_fp16=True, k=args.k, probe=args.probe, **more
    )
    opened = time.perf_counter()
    queries_ND = draw(args.queries, args.width, 0)
    targets_N = np.random.default_rng(3).integers(0, VOCABULARY, args.queries)
    seconds = []
    for _ in range(2):
        before = time.perf_counter()
        neighbours.log_prob(queries_ND, targets_N)
        seconds.append(time.perf_counter() - before)
    print(json.dumps({"open_s": opened - start, "first_s": seconds[0], "again_s": seconds[1], "queries": args.queries}))


if __name__ == "__main__":
    main()
