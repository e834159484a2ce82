"""The formula of what a token reads from the disk, beside counts of lists and pages of queries drawn at random."""

import numpy as np
import pytest
from larger_than_memory import Sizes

SIZES = Sizes(rows=4000, lists=50, code_bytes=24, key_bytes=64, probe=5, k=20)


def test_one_query_reads_its_lists_and_a_page_for_each_key() -> None:
    assert SIZES.index_bytes_a_token(1) == pytest.approx(5 / 50 * 4000 * 32)
    assert Sizes(10**9, 50, 24, 2048, k=20).key_bytes_a_token(1) == pytest.approx(20 * 4096, rel=1e-5)


def test_many_queries_read_everything_once() -> None:
    assert SIZES.index_bytes_a_token(10_000) == pytest.approx(4000 * 32 / 10_000)
    assert SIZES.key_bytes_a_token(10_000) == pytest.approx(4000 * 64 / 10_000)


@pytest.mark.parametrize("block", [2, 10, 40])
def test_a_block_of_queries_beside_counting(block: int) -> None:
    rng = np.random.default_rng(0)
    lists, pages = [], []
    for _ in range(400):
        visited = np.concatenate([rng.permutation(SIZES.lists)[: SIZES.probe] for _ in range(block)])
        lists.append(len(np.unique(visited)))
        page = rng.integers(0, SIZES.rows, (block, SIZES.k)) * SIZES.key_bytes // 4096
        pages.append(len(np.unique(page)))
    rows_a_list = SIZES.rows / SIZES.lists
    assert SIZES.index_bytes_a_token(block) == pytest.approx(np.mean(lists) * rows_a_list * 32 / block, rel=0.02)
    assert SIZES.key_bytes_a_token(block, 4096) == pytest.approx(np.mean(pages) * 4096 / block, rel=0.03)
