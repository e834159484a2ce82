"""Cells of an evaluation: batches that are computed together, whoever computes them.

    batches   b0 b1 b2 | b3 b4 b5 | b6 …        in order, of the whole split
    process 0 └ cell ┘
    process 1            └──────── two ────

Batches are made of the whole split, and the last digits of a neighbour's distance depend on which queries are searched
together. So processes share out whole cells, which depend on the text and the flags alone: any number of processes
computes the same numbers.
"""

from collections.abc import Iterator, Sequence

from fairseq.arrays import Int64s
from fairseq.evaluate.sequence_scorer import TARGETS_AT_ONCE

# A short text has about so many cells, so that as many processes have work; but a search for few queries reads much of
# the index for little, so that no cell has fewer targets than this.
CELLS, LEAST_TARGETS = 16, 1024


def cells_of(batches: Sequence[Int64s], length_B: Int64s) -> Iterator[list[Int64s]]:
    """Yields the batches in groups for which memories are asked at once.

    Args:
        batches: block indices of each.
        length_B: targets of each block.
    """
    targets = [int(length_B[block_idx].sum()) for block_idx in batches]
    least = min(max(sum(targets) // CELLS, LEAST_TARGETS), TARGETS_AT_ONCE)
    cell: list[Int64s] = []
    count = 0
    for batch, number in zip(batches, targets, strict=True):
        cell.append(batch)
        count += number
        if count >= least:
            yield cell
            cell, count = [], 0
    if cell:
        yield cell
