"""How rows are dealt to shards."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fairseq.knn.shards.deal import BLOCK_ROWS, block_rows_for, deal


@given(st.integers(1, 3000), st.integers(1, 40), st.integers(1, 70), st.integers(0, 9))
def test_every_row_is_in_one_shard_and_shards_differ_by_a_block(
    rows: int, shards: int, block_rows: int, seed: int
) -> None:
    dealt = deal(rows, shards, block_rows, seed)
    assert len(dealt) == shards
    together = np.concatenate([own.ids() for own in dealt])
    assert np.array_equal(np.sort(together), np.arange(rows))
    blocks = [len(np.unique(own.ids() // block_rows)) for own in dealt]
    assert sum(blocks) == -(-rows // block_rows), "a block is in one shard"
    assert max(blocks) - min(blocks) <= 1
    sizes = [own.num_rows for own in dealt]
    assert max(sizes) - min(sizes) <= 2 * block_rows  # the last block may be shorter


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 12))
def test_blocks_are_as_long_as_64_of_them_for_each_shard_allow(rows: int, shards: int) -> None:
    size = block_rows_for(rows, shards)
    assert 1 <= size <= BLOCK_ROWS and BLOCK_ROWS % size == 0
    assert size == 1 or size * shards * 64 <= rows
    assert size == BLOCK_ROWS or 2 * size * shards * 64 > rows


def test_another_seed_deals_otherwise() -> None:
    assert [own.pairs for own in deal(1000, 3, 10, 1)] == [own.pairs for own in deal(1000, 3, 10, 1)]
    assert [own.pairs for own in deal(1000, 3, 10, 1)] != [own.pairs for own in deal(1000, 3, 10, 2)]
