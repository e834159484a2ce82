"""Which row is which token: against a loop over the blocks, for every way of cutting a text."""

from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.data.block_dataset import BlockDataset
from fairseq.data.blocks import block_bounds
from fairseq.errors import DataError
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.row_map import RowMap, first_position, full_context_rows, joined, source_map
from tests.oracles.life import rows_of_text

cuts = st.tuples(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.sampled_from(["none", "complete", "complete_doc", "eos", "isolated", "document"]),
    st.integers(2, 12),
    st.integers(0, 10),
)


def mapped(cut):
    sizes, mode, block_size, window = cut
    window *= mode != "isolated"  # which has none
    dataset = BlockDataset(np.zeros(sum(sizes), np.int64), np.array(sizes), mode, block_size, window)
    bounds = zip(*block_bounds(np.array(sizes), mode, block_size), strict=True)
    wanted = rows_of_text(sizes, mode, bounds, block_size, window)
    blocks, first_row = full_context_rows(dataset)
    tokens = [list(range(dataset.starts[block], dataset.ends[block])) for block in blocks]
    assert list(chain.from_iterable(tokens)) == wanted
    assert first_row.tolist() == [sum(map(len, tokens[:n])) for n in range(len(tokens) + 1)]
    return source_map(dataset), wanted


@given(cuts, st.data())
@settings(max_examples=60)
def test_rows_are_the_tokens_of_a_loop(cut, data):
    try:
        found, wanted = mapped(cut)
    except DataError:
        return  # no blocks at all
    assert found.rows == len(wanted)
    if not wanted:
        return
    rows = np.arange(len(wanted))
    assert found.positions(rows).tolist() == wanted
    assert found.positions(np.array([[-1, 0]])).tolist() == [[-1, wanted[0]]]
    start, stop = sorted(data.draw(st.tuples(st.integers(0, sum(cut[0])), st.integers(0, sum(cut[0])))))
    assert found.rows_of(start, stop).ids().tolist() == [row for row, at in enumerate(wanted) if start <= at < stop]
    chosen = data.draw(st.lists(st.integers(0, len(wanted) - 1), min_size=1, unique=True).map(sorted))
    part = found.within(RowRanges.of([row, row + 1] for row in chosen))
    assert part.positions(np.arange(len(chosen))).tolist() == [wanted[row] for row in chosen]
    both = joined([found, part], [sum(cut[0]) + 1, sum(cut[0])])
    again = [*wanted, *(wanted[row] + sum(cut[0]) + 1 for row in chosen)]
    assert both.positions(np.arange(len(again))).tolist() == again
    if cut[1] in ("none", "document"):
        written = {"sample_break_mode": cut[1], "tokens_per_sample": cut[2], "context_window": cut[3]}
        assert first_position(written) == wanted[0]


def test_the_row_of_a_token_is_the_inverse_of_its_position() -> None:
    """Pieces of rows 0 to 2 at tokens 5 to 7, 3 and 4 at 9 and 10, and 5 at 20: counted by hand."""
    row_map = RowMap(np.array([0, 3, 5]), np.array([5, 9, 20]), 6)
    rows = [-1, -1, -1, -1, -1, 0, 1, 2, -1, 3, 4, *[-1] * 9, 5, -1, -1]
    assert row_map.rows_at(np.arange(23)).tolist() == rows
    assert row_map.rows_at(row_map.positions(np.arange(6))).tolist() == list(range(6))
