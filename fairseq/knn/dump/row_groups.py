"""The rows of a text in groups: blocks of like length are computed together, and rows put back in their places.

Sentences are of all lengths: in stream order, a batch of them would be mostly padding; sorted by length over the whole
text, rows would come in another order than the text's. So blocks are taken in groups of neighbours, a few thousand rows
each; a group is computed shortest block first, and put in order before it is written:

    stream      7 3 9 3 | 8 2 7 4 | …          lengths of blocks, two groups
    computed    3 3 7 9 | 2 4 7 8 | …

Groups depend on the text and on the limits of a batch, never on where a run begins: one that goes on, or that has only
a range of the rows, computes the same batches, and so the same bytes. Where all blocks are of one length, each batch is
a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.blocks import joined_ranges
from fairseq.evaluate.config import EvalConfig
from fairseq.runtime.shares import shares

# Rows that are computed before they are put in order. Of WikiText-2's sentences, 2,048 positions a batch, 7 % is then
# padding (in stream order 55 %, benchmarks/sentences.py); keys of 1,024 numbers take 128 MiB.
GROUP_ROWS = 32768


@dataclass(frozen=True)
class RowGroup:
    """Rows that stand together.

    Attributes:
        first_row: the first of them.
        num_rows: how many there are.
        batches: the blocks of each batch, and which row of the group each of their targets is, both in one order.
    """

    first_row: int
    num_rows: int
    batches: list[tuple[Int64s, Int64s]]


def row_groups(
    dataset: BlockDataset, block_idx: Int64s, starts: Int64s, config: EvalConfig, rows_done: int
) -> Iterator[RowGroup]:
    """Yields the groups, from the one on in which a run that wrote ``rows_done`` rows has stopped.

    Args:
        dataset: the blocks.
        block_idx: those that give rows, in stream order.
        starts: the first row of each, and one more entry: all rows.
        config: limits of a batch.
        rows_done: rows that are there already.
    """
    sizes = dataset.sizes[block_idx]
    if _are_alike(sizes):
        batches = batch_by_size(np.arange(len(block_idx)), sizes, config.max_tokens, config.max_sentences)
        cuts = np.array([batch[0] for batch in batches])
    else:
        cuts = _cuts(starts)
    first = int(np.searchsorted(starts[cuts], rows_done, side="right")) - 1
    for begin, end in zip(cuts[first:], [*cuts[first + 1 :], len(block_idx)], strict=True):
        order = begin + by_length(sizes[begin:end])
        first_row, batches = int(starts[begin]), batch_by_size(order, sizes, config.max_tokens, config.max_sentences)
        pairs = [
            (block_idx[batch], joined_ranges(starts[batch] - first_row, starts[batch + 1] - starts[batch]))
            for batch in batches
        ]
        yield RowGroup(first_row, int(starts[end]) - first_row, pairs)


def rows_of_ranges(dataset: BlockDataset, block_idx: Int64s, starts: Int64s, rows: int, count: int) -> list[range]:
    """Returns the rows of each of ``count`` ranges of the first ``rows`` rows, about as many each.

    Ranges are cut where blocks begin, or groups where blocks are of several lengths: a range of few rows may be empty.
    The limits of a batch have no say, so that one may be written again with others.

    Args:
        dataset: the blocks.
        block_idx: those that give rows, in stream order.
        starts: the first row of each, and one more entry: all rows.
        rows: how many of the rows are written.
        count: how many ranges there are.
    """
    first_rows = starts if _are_alike(dataset.sizes[block_idx]) else np.append(starts[_cuts(starts)], starts[-1])
    first_rows = np.minimum(first_rows, rows)
    cuts = [first_rows[pieces.start] for pieces in shares(np.diff(first_rows), count)]
    return [range(int(start), int(stop)) for start, stop in zip(cuts, [*cuts[1:], rows], strict=True)]


def _are_alike(sizes: Int64s) -> bool:
    """Returns whether all blocks are of one length, but for a last one that may be shorter."""
    return bool((sizes[:-1] == sizes[0]).all() and sizes[-1] <= sizes[0])


def _cuts(starts: Int64s) -> Int64s:
    """Returns the first block of each group of blocks of several lengths."""
    return np.flatnonzero(np.diff(starts[:-1] // GROUP_ROWS, prepend=-1))
