"""What goes into the page, as compact arrays.

Words are numbered anew, only those that the page shows. Of the datastore's text the page holds the windows around the
neighbours that it shows, merged where they overlap, back to back in one array; a neighbour is the place of its value
there. Neighbours take nearly all the room. If those of all tokens are more than the budget, tokens get theirs in the
order of how much changed for them, gains and harms in turn.

    windows of the source text   ──[~~~~V~]────[~~~~~V~V~]──    V: a neighbour's value
    sources                        [~~~~V~][~~~~~V~V~]          and where each piece began

Legend: N tokens · H neighbours shown of each · C tokens that have theirs in the page · V words in the page.
"""

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fairseq.arrays import Array, Float64s, Int64s

Pieces = Sequence[tuple[int, int]]

BEFORE, AFTER = 14, 5  # tokens of the source text before and after a neighbour's value
BASE64 = 4 / 3
COMPRESSION_LEVEL = 6
NONE = 0xFFFFFFFF


@dataclass(frozen=True)
class Windows:
    """Merged windows of a text.

    Attributes:
        start_W: where each begins in the text.
        length_W: tokens in it.
        offset_W: where it begins among all windows' tokens.
    """

    start_W: Int64s
    length_W: Int64s
    offset_W: Int64s

    @property
    def num_tokens(self) -> int:
        """Tokens in all windows."""
        return int(self.length_W.sum())

    def cut(self, text: Array) -> Array:
        """Returns the windows' tokens, back to back."""
        pieces = [text[start : start + size] for start, size in zip(self.start_W, self.length_W, strict=True)]
        return np.concatenate([np.empty(0, text.dtype), *pieces])

    def place(self, positions: Int64s) -> npt.NDArray[np.uint32]:
        """Returns where tokens of the text stand among the windows' tokens; ``NONE`` for −1."""
        placed = np.full(positions.shape, NONE, np.uint32)
        there = positions[positions >= 0]
        window = np.searchsorted(self.start_W, there, side="right") - 1
        placed[positions >= 0] = there - self.start_W[window] + self.offset_W[window]
        return placed


def windows_around(positions: Int64s, pieces: Pieces) -> Windows:
    """Returns the windows of ``BEFORE`` and ``AFTER`` tokens around positions, merged; −1 is none.

    Args:
        positions: where the neighbours' values stand.
        pieces: begin and end of each text that they may stand in, ascending; no window reaches into another one.
    """
    at = np.unique(positions[positions >= 0])
    begin_T, end_T = (np.array([piece[side] for piece in pieces], np.int64) for side in (0, 1))
    text = np.searchsorted(begin_T, at, side="right") - 1
    starts, ends = np.maximum(at - BEFORE, begin_T[text]), np.minimum(at + AFTER + 1, end_T[text])
    apart = (starts[1:] > ends[:-1]) | (text[1:] != text[:-1])
    opens = np.flatnonzero(np.concatenate([[True], apart])) if len(at) else np.empty(0, np.int64)
    closes = np.concatenate([opens[1:] - 1, [len(at) - 1]]) if len(at) else opens
    start_W, length_W = starts[opens], ends[closes] - starts[opens]
    return Windows(start_W, length_W, np.cumsum(length_W) - length_W)


def by_change(gain_N: Float64s) -> Int64s:
    """Returns tokens in the order of how much changed: the largest gain, the largest harm, the next gain, …."""
    order = np.argsort(-gain_N, kind="stable")
    num_gains = int((gain_N > 0).sum())
    turn = np.empty(len(order), np.int64)
    turn[:num_gains] = 2 * np.arange(num_gains)
    turn[num_gains:] = 2 * np.arange(len(order) - num_gains)[::-1] + 1
    chosen: Int64s = order[np.argsort(turn, kind="stable")]
    return chosen


def choose(order_N: Int64s, source_at_NH: Int64s, pieces: Pieces, budget_bytes: float) -> tuple[Int64s, Windows]:
    """Returns the first tokens of ``order_N`` whose neighbours fit the budget, sorted, and the windows they need."""
    low, high = 0, len(order_N)
    tried = high
    while low < high:
        windows = windows_around(source_at_NH[order_N[:tried]], pieces)
        # A place and a distance of four bytes each; a word of the window is two or four.
        num_bytes = tried * source_at_NH.shape[1] * 8 + windows.num_tokens * 4 + len(windows.start_W) * 12
        if num_bytes * BASE64 <= budget_bytes:
            low = tried
        else:
            high = tried - 1
        if high - low <= len(order_N) // 200:
            break
        tried = (low + high + 1) // 2
    chosen_C: Int64s = np.sort(order_N[:low])
    return chosen_C, windows_around(source_at_NH[chosen_C], pieces)


def packed(arrays: Mapping[str, Array]) -> Iterable[tuple[str, str, int, str]]:
    """Yields (name, dtype, length, text) of each array: little-endian, compressed (zlib), base64."""
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array).reshape(-1)
        data = flat.astype(flat.dtype.newbyteorder("<")).tobytes()
        yield name, flat.dtype.name, len(flat), base64.b64encode(zlib.compress(data, COMPRESSION_LEVEL)).decode()
