"""Cells: every batch once, in order; enough targets in each; enough cells for several processes."""

import numpy as np
import pytest

from fairseq.evaluate.cells import CELLS, LEAST_TARGETS, cells_of
from fairseq.evaluate.sequence_scorer import TARGETS_AT_ONCE


@pytest.mark.parametrize("blocks", [1, 40, 900, 40_000])
@pytest.mark.parametrize("blocks_of_a_batch", [1, 7, 5000])
def test_cells_are_batches_with_enough_targets(blocks: int, blocks_of_a_batch: int) -> None:
    length_B = np.random.default_rng(blocks).integers(1, 60, blocks)
    batches = np.array_split(np.random.default_rng(0).permutation(blocks), -(-blocks // blocks_of_a_batch))
    cells = list(cells_of(batches, length_B))
    assert [batch.tolist() for cell in cells for batch in cell] == [batch.tolist() for batch in batches]
    targets = [sum(int(length_B[batch].sum()) for batch in cell) for cell in cells]
    total, least = int(length_B.sum()), min(targets[:-1], default=TARGETS_AT_ONCE)
    assert least >= min(LEAST_TARGETS, total)
    largest_batch = max(int(length_B[batch].sum()) for batch in batches)
    assert max(targets) < min(max(total // CELLS, LEAST_TARGETS), TARGETS_AT_ONCE) + largest_batch


def test_no_batches_are_no_cells() -> None:
    assert list(cells_of([], np.empty(0, np.int64))) == []
