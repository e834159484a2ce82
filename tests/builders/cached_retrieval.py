"""A small saved retrieval with the columns of two caches."""

import json
from pathlib import Path

import numpy as np

from tests.builders.small_retrieval import small_retrieval

CACHES = [{"cache_size": 10, "cache_theta": 0.5}, {"cache_size": 10, "cache_theta": 1.0}]


def cached_retrieval(directory: Path, seed: int = 0, **changes: object) -> dict:
    """Writes it, and returns its columns."""
    columns = small_retrieval(directory, seed=seed)
    p_NS = np.random.default_rng(seed + 100).random((60, 2))
    p_NS[p_NS < 0.4] = 0
    p_NS[:2] = 0
    with np.errstate(divide="ignore"):
        columns["cache_log_prob"] = np.log(p_NS).astype(np.float32)
    np.save(directory / "cache_log_prob.npy", columns["cache_log_prob"])
    edit_manifest(directory, cache={"settings": CACHES, "cache_lmbda": 0.0}, **changes)
    return columns


def edit_manifest(directory: Path, **changes: object) -> None:
    path = directory / "manifest.json"
    record = json.loads(path.read_text())
    record["files"]["cache_log_prob.npy"] = {}
    path.write_text(json.dumps({**record, **changes}))
