"""Which rows each shard has: blocks of rows, dealt at random.

    rows     0        65536     131072    196608    …
    block    |   0    |    1    |    2    |   3   |
    shard        2         0         1        2           as many blocks to each, or one more

Neighbours of a query are rows of one text, side by side in the file. Dealt in blocks at random, each of P shards has
about k / P of the k nearest, so that each can answer with little more than that. The rows of every shard are written
down in the manifest, so that no other version of NumPy can deal them otherwise.
"""

import numpy as np

from fairseq.knn.datastore.ranges import RowRanges

# Rows of a block; fewer of a small datastore, so that each shard has some blocks.
BLOCK_ROWS, LEAST_BLOCKS = 1 << 16, 64


def block_rows_for(rows: int, num_shards: int) -> int:
    """Returns how many rows a block has: 65,536, or a lower power of two where a shard would have fewer than 64."""
    most = max(min(BLOCK_ROWS, rows // (num_shards * LEAST_BLOCKS)), 1)
    return 1 << (most.bit_length() - 1)  # so that cells of rows that are added together lie within a block


def deal(rows: int, num_shards: int, block_rows: int, seed: int) -> list[RowRanges]:
    """Returns the rows of each shard, which together are all rows, each once.

    Args:
        rows: of the datastore.
        num_shards: at most as many as there are blocks.
        block_rows: rows of a block; the last one may have fewer.
        seed: of the dealing.
    """
    blocks = np.random.default_rng(seed).permutation(-(-rows // block_rows))
    return [
        RowRanges.of([[block * block_rows, min((block + 1) * block_rows, rows)] for block in sorted(own.tolist())])
        for own in (blocks[number::num_shards] for number in range(num_shards))
    ]
