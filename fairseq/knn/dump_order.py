"""The order in which a datastore's rows are computed: blocks of like length together, rows back in their places.

Sentences are of all lengths. In stream order, a batch of them would be mostly padding; sorted by length over the whole
text, rows would come in another order than the text's. So the blocks are taken in groups of neighbours, a few thousand
rows each; a group is computed shortest block first, and put in order before it is written:

    stream      7 3 9 3 | 8 2 7 4 | …          lengths of blocks, two groups
    computed    3 3 7 9 | 2 4 7 8 | …

Groups depend on the text alone, never on where a run begins: one that goes on computes the same batches, and so the
same bytes. Where all blocks are of one length, each batch is a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.blocks import Int64s, joined_ranges
from fairseq.run_config import EvalConfig

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
    lengths = dataset.lengths[block_idx]
    if (lengths[:-1] == lengths[0]).all() and lengths[-1] <= lengths[0]:
        batches = batch_by_size(np.arange(len(block_idx)), lengths, config.max_tokens, config.max_sentences)
        cuts = np.array([batch[0] for batch in batches])
    else:
        cuts = np.flatnonzero(np.diff(starts[:-1] // GROUP_ROWS, prepend=-1))
    first = int(np.searchsorted(starts[cuts], rows_done, side="right")) - 1
    for begin, end in zip(cuts[first:], [*cuts[first + 1 :], len(block_idx)], strict=True):
        order = begin + by_length(lengths[begin:end])
        first_row, batches = int(starts[begin]), batch_by_size(order, lengths, config.max_tokens, config.max_sentences)
        rows = [joined_ranges(starts[batch] - first_row, starts[batch + 1] - starts[batch]) for batch in batches]
        pairs = [(block_idx[batch], row_N) for batch, row_N in zip(batches, rows, strict=True)]
        yield RowGroup(first_row, int(starts[end]) - first_row, pairs)
