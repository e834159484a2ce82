"""Neighbours as FAISS, NumPy and torch have them, batch by batch, without anything of ours; prints JSON.

    python benchmarks/plain.py PREFIX INDEX QUERIES [--exact] [--queries 4096] [--k 1024] [--probe 32]

FAISS searches for a batch's queries; for exact distances, the keys of what it found are gathered from the mapped file
and subtracted; a softmax over all neighbours, of which those count whose value is the target. PREFIX and QUERIES name
datastores of float32 keys: the one that is searched, and the one whose keys ask and whose values are the targets.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

BATCH = 256  # queries: four blocks of 64 targets, as the golden commands have them


def log_prob(
    index: Any, keys_ND: np.ndarray | None, values_N: np.ndarray, queries_MD: np.ndarray, target_M: np.ndarray, k: int
) -> Tensor:
    """Returns ln p_kNN(target), ``[M]``; by the index's own distances without keys."""
    distances, ids_MK = index.search(queries_MD, k)
    distances_MK = torch.from_numpy(distances)
    if keys_ND is not None:
        difference_MKD = torch.from_numpy(keys_ND[ids_MK]) - torch.from_numpy(queries_MD)[:, None]
        distances_MK = difference_MKD.square().sum(2)
    log_p_MK = (-distances_MK).log_softmax(1)
    is_target_MK = torch.from_numpy(values_N[ids_MK] == target_M[:, None])
    return log_p_MK.masked_fill(~is_target_MK, -torch.inf).logsumexp(1)


def main() -> None:
    """Asks evenly spaced batches after one that is not counted, and prints the seconds of all queries by those."""
    parser = argparse.ArgumentParser(description="Time neighbours as FAISS, NumPy and torch have them.")
    parser.add_argument("prefix", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("asking", type=Path)
    parser.add_argument("--exact", action="store_true", help="distances from the keys, not the index's own")
    parser.add_argument("--queries", type=int, default=4096, help="that are asked, of all [default: 4096]")
    parser.add_argument("--k", type=int, default=1024)
    parser.add_argument("--probe", type=int, default=32)
    args = parser.parse_args()
    index = faiss.read_index(str(args.index))
    index.nprobe = args.probe
    keys_ND, queries_ND = (
        np.memmap(f"{prefix}_keys.npy", np.float32, "r").reshape(-1, index.d) for prefix in (args.prefix, args.asking)
    )
    values_N, target_N = (np.memmap(f"{prefix}_vals.npy", np.int64, "r") for prefix in (args.prefix, args.asking))
    starts = np.linspace(0, len(queries_ND) - BATCH, max(args.queries // BATCH, 1), dtype=int)
    begun = 0.0
    for number, start in enumerate([starts[0], *starts]):
        if number == 1:
            begun = time.perf_counter()
        part = slice(start, start + BATCH)
        queries_MD, target_M = np.array(queries_ND[part]), np.array(target_N[part])
        log_prob(index, keys_ND if args.exact else None, values_N, queries_MD, target_M, args.k)
    seconds = (time.perf_counter() - begun) * len(queries_ND) / (len(starts) * BATCH)
    print(json.dumps({"seconds": seconds, "asked": len(starts) * BATCH, "queries": len(queries_ND)}))


if __name__ == "__main__":
    main()
