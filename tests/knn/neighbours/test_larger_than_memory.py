"""A process whose memory does not hold the index: refused, or the same numbers from the mapped file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from knnlm import KNN_Dstore
from tests.builders.small_store import clustered_keys, values_of, write_store

ROWS, WIDTH, MEMORY = 800_000, 32, 65 << 20


@pytest.mark.slow
def test_an_index_larger_than_the_memory_of_its_process(tmp_path: Path) -> None:
    store = write_store(tmp_path, keys=clustered_keys(ROWS, WIDTH), values=values_of(ROWS))
    index = tmp_path / "i"
    build_index(store, BuildConfig("d", "i", index_spec="IVF64,Flat", train_sample=5000), index)
    assert index.stat().st_size > 3 * MEMORY // 2
    queries, targets = clustered_keys(204, WIDTH, seed=4), np.full(204, 40000)
    expected = KNN_Dstore.open(store.prefix, index, k=64, probe=8).log_prob(queries, targets)
    names = {"queries": queries, "targets": targets}
    for name, array in names.items():
        np.save(tmp_path / f"{name}.npy", array)
    words = [store.prefix, index, MEMORY, *(tmp_path / f"{name}.npy" for name in (*names, "out"))]
    command = [sys.executable, "-m", "tests.builders.limited_child", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "leave the index in its file with map_index=True" in done.stdout
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=2e-3)
