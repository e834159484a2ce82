"""The rows that the tokens of an evaluated text are themselves: what ``--exclude-own-row`` leaves out, and who warns.

    block 7, its 3rd target ── token 4711 of the text ── row 3687 of a segment ── id 3687 + its first row's

A datastore that is asked about the text that it was written from holds the answer: the row of the very token. It need
not be the nearest one. Codes may rank another before it, and rows of the same context are as near. So it is known by
its id. How the text is cut now does not matter: a row is of a token, whatever block that stands in.

A text is known by the hash of its token stream, which neither the context window nor the block size changes, nor where
its files lie. ``own_text`` decides whether a datastore holds the evaluated text; whoever shows a result warns by it.

Legend: N tokens · S segments that are of the text.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.blocks import joined_ranges
from fairseq.data.dictionary import Dictionary
from fairseq.errors import MismatchError
from fairseq.knn.datastore.manifest import DatastoreManifest, Segment
from fairseq.knn.datastore.provenance import Source
from fairseq.knn.datastore.store import Datastore
from fairseq.storage.records import Positive, Record


class OwnText(Record, frozen=True):
    """The rows of a datastore that are of the evaluated text.

    Attributes:
        prefix: of the datastore.
        source: name of the text, as the datastore has it.
        rows: how many of them can be found.
    """

    prefix: str
    source: str
    rows: Positive


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
        for segment, first_row in _segments_of(store.require_manifest(), sha256):
            sources.append((Source(segment, first_row, prefix, dictionary, None), offset))
    if not sources:
        names = " and ".join(str(store.prefix) for store, _ in stores)
        raise MismatchError(
            f"--exclude-own-row: {prefix} is not a text that {names} was written from; leave the flag out, or evaluate"
            " the datastore's own text"
        )
    return OwnRows(dataset, sources)


def own_text(stores: Sequence[Datastore], data_sha256: str | None) -> list[OwnText]:
    """Returns the rows of a text that can be found in datastores which were written from it; none if not known.

    Args:
        stores: the datastores, as they are searched.
        data_sha256: hash of the text's token stream.
    """
    found: dict[tuple[str, str], int] = {}
    for store in stores:
        if store.manifest is None or data_sha256 is None:
            continue
        for segment, first_row in _segments_of(store.manifest, data_sha256):
            end = min(first_row + segment.rows, store.rows)
            rows = max(end - first_row, 0) - store.forgotten.within(first_row, max(end, first_row)).num_rows
            if rows:
                name = str(store.prefix), segment.name
                found[name] = found.get(name, 0) + rows
    return [OwnText(prefix, source, rows) for (prefix, source), rows in found.items()]


def own_text_warning(
    found: Sequence[OwnText],
    text: str,
    instead: str = "Evaluate another text, or evaluate with --exclude-own-row",
) -> str:
    """Returns a warning in one line, with what to do."""
    rows = " and ".join(f"{one.rows} rows of {one.prefix}" for one in found)
    forget = " && ".join(
        f"fairseq-knnlm forget {shlex.quote(one.prefix)} --source {shlex.quote(one.source)}" for one in found
    )
    return (
        f"THE DATASTORE HOLDS THE EVALUATED TEXT: {rows} are tokens of {text}. Tokens find themselves, so the"
        f" perplexity means nothing. {instead}; or, if the datastore has other texts as well, forget these"
        f" rows: {forget}"
    )


def _segments_of(manifest: DatastoreManifest, data_sha256: str) -> Iterator[tuple[Segment, int]]:
    """Yields the segments that were written from a text, each with its first row."""
    first_row = 0
    for segment in manifest.all_segments:
        if segment.settings.get("data_sha256") == data_sha256:
            yield segment, first_row
        first_row += segment.rows
