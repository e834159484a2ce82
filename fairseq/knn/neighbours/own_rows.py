"""The rows that the tokens of an evaluated text are themselves: what ``--exclude-own-row`` leaves out.

    block 7, its 3rd target ── token 4711 of the text ── row 3687 of a segment ── id 3687 + its first row's

A datastore that is asked about the text that it was written from holds the answer: the row of the very token. It need
not be the nearest one. Codes may rank another before it, and rows of the same context are as near. So it is known by
its id. How the text is cut now does not matter: a row is of a token, whatever block that stands in.

Legend: N tokens · S segments that are of the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.blocks import joined_ranges
from fairseq.data.dictionary import Dictionary
from fairseq.errors import MismatchError
from fairseq.knn.datastore.provenance import Source
from fairseq.knn.datastore.store import Datastore


@dataclass(frozen=True)
class OwnRows:
    """The rows of a text's tokens, in every segment that was written from it.

    Attributes:
        dataset: the blocks that are evaluated.
        sources: the segments, each with the id of the first row of its datastore.
    """

    dataset: BlockDataset
    sources: Sequence[tuple[Source, int]]

    def of(self, block_idx_N: Int64s) -> Int64s:
        """Returns the ids of the rows that tokens are themselves, ``[N, S]``; −1 for none.

        Args:
            block_idx_N: the block of each token: all scored tokens of each block, one after the other.
        """
        block_R = block_idx_N[np.flatnonzero(np.diff(block_idx_N, prepend=-1))]
        position_N = joined_ranges(self.dataset.starts[block_R], (self.dataset.ends - self.dataset.starts)[block_R])
        assert len(position_N) == len(block_idx_N), (len(position_N), len(block_idx_N))
        ids_NS = np.empty((len(position_N), len(self.sources)), np.int64)
        for number, (source, offset) in enumerate(self.sources):
            row_N = source.map.rows_at(position_N)
            ids_NS[:, number] = np.where(row_N >= 0, row_N + source.first_row + offset, -1)
        return ids_NS


def find_own_rows(
    stores: Sequence[tuple[Datastore, int]], dataset: BlockDataset, prefix: Path, dictionary: Dictionary
) -> OwnRows:
    """Returns the rows of a text in the datastores that were written from it.

    Args:
        stores: the datastores, each with the id of its first row.
        dataset: the blocks that are evaluated.
        prefix: of the text's files.
        dictionary: of the text.

    Raises:
        DatastoreError: a datastore has no manifest, or does not say how the text was cut.
        MismatchError: none was written from this text.
    """
    sha256, sources = dataset.sha256(), []
    for store, offset in stores:
        first_row = 0
        for segment in store.require_manifest().all_segments:
            if segment.settings.get("data_sha256") == sha256:
                sources.append((Source(segment, first_row, prefix, dictionary, None), offset))
            first_row += segment.rows
    if not sources:
        names = " and ".join(str(store.prefix) for store, _ in stores)
        raise MismatchError(
            f"--exclude-own-row: {prefix} is not a text that {names} was written from; leave the flag out, or evaluate"
            " the datastore's own text"
        )
    return OwnRows(dataset, sources)
