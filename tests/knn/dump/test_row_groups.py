"""Which rows each range has: every row once, cut where blocks or groups begin."""

import numpy as np
import pytest

from fairseq.data.block_dataset import BlockDataset
from fairseq.knn.datastore.row_map import full_context_rows
from fairseq.knn.dump import row_groups
from fairseq.knn.dump.row_groups import rows_of_ranges

SENTENCES = np.array([3, 9, 1, 7] * 50)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40, 400])
@pytest.mark.parametrize("rows", [None, 500, 1])
@pytest.mark.parametrize(("mode", "window"), [("none", 0), ("none", 13), ("eos", 0)])
def test_every_row_is_in_one_range(mode, window, rows, count, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 40)
    dataset = BlockDataset(np.zeros(SENTENCES.sum(), np.int64), SENTENCES, mode, 10, window)
    block_idx, starts = full_context_rows(dataset)
    total = int(starts[-1]) if rows is None else rows
    ranges = rows_of_ranges(dataset, block_idx, starts, total, count)
    assert len(ranges) == count
    assert [row for one in ranges for row in one] == list(range(total))
    assert {one.start for one in ranges} <= {*starts.tolist(), total}
    longest_piece = 10 if mode == "none" else 40 + SENTENCES.max()
    assert max(map(len, ranges)) <= total / count + longest_piece
