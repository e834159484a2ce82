"""Asks a datastore in a process that may take little more memory than it has; prints what refuses an index in memory.

python -m tests.builders.limited_child PREFIX INDEX MORE_BYTES QUERIES.npy TARGETS.npy OUT.npy
"""

import resource
import sys
from pathlib import Path

import numpy as np

from fairseq.errors import ConfigError
from fairseq.runtime.resources import free_memory_bytes
from knnlm import KNN_Dstore


def main() -> None:
    """Limits itself, is refused, and asks the mapped index."""
    prefix, index, more, queries, targets, out = sys.argv[1:]
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + int(more), used + int(more)))
    free = free_memory_bytes()
    assert free is not None and free <= int(more), free
    try:
        KNN_Dstore.open(prefix, index)
    except ConfigError as err:
        sys.stdout.write(f"{err}\n")
    mapped = KNN_Dstore.open(prefix, index, k=64, probe=8, map_index=True)
    query_ND, target_N = np.load(queries), np.load(targets)
    few = mapped.log_prob(query_ND[:4], target_N[:4])
    np.save(out, np.concatenate([few, mapped.log_prob(query_ND[4:], target_N[4:])]))


if __name__ == "__main__":
    main()
