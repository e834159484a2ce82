"""From rows to tokens of a text and back: pieces in which both count on together.

    rows       0 ─────── 900 | 900 ───── 2000
    positions  10 ────── 910 | 1500 ──── 2600      what stands between was never a row, or has been taken out

Rows are the targets of every block whose context window is full (fairseq/knn/dump/dump.py). Cut without regard
to sentences, they are one piece, from the first such block to the end of the text. Cut by document, every token is a
row.

Legend: P pieces · B blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Int64s, Integers
from fairseq.data.block_dataset import BlockDataset
from fairseq.knn.datastore.ranges import RowRanges


@dataclass(frozen=True)
class RowMap:
    """Rows of a text.

    Attributes:
        row_P: the first row of each piece, ascending from 0.
        at_P: the token that it is, counted from the text's first.
        rows: how many rows there are; None where that is not known.
    """

    row_P: Int64s
    at_P: Int64s
    rows: int | None

    def positions(self, ids: Integers) -> Int64s:
        """Returns which token each row is, in the shape of ``ids``; −1 for the row −1, which is none."""
        piece = np.maximum(np.searchsorted(self.row_P, ids, side="right") - 1, 0)
        at: Int64s = self.at_P[piece] + (ids - self.row_P[piece])
        return np.where(ids >= 0, at, -1)

    def rows_at(self, positions: Integers) -> Int64s:
        """Returns the row of each token, in the shape of ``positions``; −1 for one that has none."""
        assert self.rows is not None
        length_P = np.append(self.row_P, self.rows)[1:] - self.row_P
        piece = np.maximum(np.searchsorted(self.at_P, positions, side="right") - 1, 0)
        within = positions - self.at_P[piece]
        return np.where((within >= 0) & (within < length_P[piece]), self.row_P[piece] + within, -1)

    def rows_of(self, start: int, stop: int) -> RowRanges:
        """Returns the rows of the tokens ``[start, stop)``."""
        assert self.rows is not None
        length_P = np.append(self.row_P, self.rows)[1:] - self.row_P
        first_P, last_P = np.maximum(self.at_P, start), np.minimum(self.at_P + length_P, stop)
        shift_P = self.row_P - self.at_P
        return RowRanges.of(zip((first_P + shift_P).tolist(), (last_P + shift_P).tolist(), strict=True))

    def within(self, spans: RowRanges) -> "RowMap":
        """Returns the map of some of the rows, numbered anew from 0."""
        inside_P = spans.holds(self.row_P)
        start = np.unique(np.concatenate([spans.start_R, self.row_P[inside_P]]))
        return RowMap(spans.place_of(start), self.positions(start), spans.num_rows)


def first_position(written: Mapping[str, Any]) -> int | None:
    """Returns which token of its text row 0 of a source is, so that row r is token ``first_position + r``.

    None where the blocks were not cut from the bare stream, or nothing is known of them. Cut by document, every token
    is a row, unless blocks were longer than the model.
    """
    if written.get("sample_break_mode") == "document" and written.get("longest_block") is None:
        return 0
    window, block_size = written.get("context_window"), written.get("tokens_per_sample")
    if written.get("sample_break_mode") != "none" or not isinstance(window, int) or not isinstance(block_size, int):
        return None
    if block_size < 1 or written.get("add_bos_token"):
        return None
    return -(-window // block_size) * block_size


def full_context_rows(dataset: BlockDataset) -> tuple[Int64s, Int64s]:
    """Returns the blocks whose context window is full, and the first row of each; last, how many rows there are."""
    blocks = np.flatnonzero(dataset.has_full_context())
    return blocks, np.concatenate([[0], np.cumsum(dataset.ends[blocks] - dataset.starts[blocks])])


def source_map(dataset: BlockDataset) -> RowMap:
    """Returns the map of all rows that a text gives."""
    blocks, first_row = full_context_rows(dataset)
    start_B, end_B = dataset.starts[blocks], dataset.ends[blocks]
    opens_B = np.ones(len(blocks), bool)
    opens_B[1:] = start_B[1:] != end_B[:-1]
    return RowMap(first_row[:-1][opens_B], start_B[opens_B], int(first_row[-1]))


def joined(maps: Sequence[RowMap], lengths: Sequence[int]) -> RowMap:
    """Returns one map of several texts, put one behind the other, from the rows of each, likewise.

    Args:
        maps: of each text.
        lengths: tokens of each text.
    """
    rows, at, row_P, at_P = 0, 0, [], []
    for part, length in zip(maps, lengths, strict=True):
        row_P.append(part.row_P + rows)
        at_P.append(part.at_P + at)
        assert part.rows is not None or len(maps) == 1
        rows, at = rows + (part.rows or 0), at + length
    return RowMap(np.concatenate(row_P), np.concatenate(at_P), rows if maps[0].rows is not None else None)
