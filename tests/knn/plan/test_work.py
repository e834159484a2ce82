"""What each stage has to do, against files of FAISS and NumPy, and the figures that were measured for the wire."""

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from fairseq.knn.distributed.two_phases import first_asked
from fairseq.knn.plan.work import Work

WIKITEXT_103 = Work(103_225_485, 1024, 2, 4096, 64, 1_000_000, 1024, 32)


@pytest.mark.parametrize("key_bytes", [2, 4])
def test_bytes_are_those_of_real_files(key_bytes: int, tmp_path: Path) -> None:
    work = Work(3000, 16, key_bytes, 8, 4, 3000, 8, 2)
    keys_ND = np.random.default_rng(0).standard_normal((work.rows, work.dimension), dtype=np.float32)
    keys_ND.astype(np.float16 if key_bytes == 2 else np.float32).tofile(tmp_path / "keys")
    np.zeros((work.rows, 1), np.int64).tofile(tmp_path / "vals")
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(work.dimension), work.dimension, 8, 4, 8)
    index.train(keys_ND)
    index.add(keys_ND)
    faiss.write_index(index, str(tmp_path / "index"))

    assert work.keys == (tmp_path / "keys").stat().st_size
    assert work.values == (tmp_path / "vals").stat().st_size
    words = 4 * 256 * work.dimension  # of the product codes, which no plan counts
    assert work.index + words == pytest.approx((tmp_path / "index").stat().st_size, rel=0.05)


@pytest.mark.parametrize(("shards", "answer", "sums"), [(4, 5184, 128), (64, 9216, 2048)])
def test_the_wire_has_the_bytes_of_the_proof(shards: int, answer: int, sums: int) -> None:
    """Worked out by hand: 1,024 neighbours, 4 bytes each in phase A and 32 bytes a shard in phase B."""
    there = shards * (4 * 1024 + 12 * 32 + 8 + 8)
    assert shards * 4 * first_asked(1024, shards) == answer
    assert WIKITEXT_103.wire_bytes(shards) == there + answer + sums


def test_one_machine_sends_nothing() -> None:
    assert WIKITEXT_103.wire_bytes(1) == 0
    assert first_asked(1024, 1) == 1024


def test_rows_that_are_visited_are_those_of_the_lists() -> None:
    assert WIKITEXT_103.rows_visited == pytest.approx(32 * 103_225_485 / 4096)
    assert replace(WIKITEXT_103, probe=10_000).rows_visited == 103_225_485
