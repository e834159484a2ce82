"""The rows of transformers' ``run_clm``, and of the kNN-LMs made of it (knn-transformers, knnlm-limits).

A window of L tokens moves on by a stride of S, and scores the last S; what it scores is a row.

    S < L    every token but the text's first       L 4, S 2   0 [1 2 3] [4 5] [6 7] …
    S = L    every token but each window's first    L 4, S 4   0 [1 2 3] 4 [5 6 7] …

Texts are tokenized one by one and joined; a tokenizer that begins a text with a token does so within the stream. What
fills no window at the end is left out, behind every 1,000 texts where there are more. Values are the tokenizer's ids.

Legend: N rows · T tokens.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fairseq.arrays import Array, Int64s, Integers
from fairseq.data.block_dataset import Batch
from fairseq.data.dictionary import PAD
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.text.model_tokenizer import SHIFT

BLOCK, STRIDE = 1024, 512  # that run_clm has where nothing is typed
TEXTS_TOGETHER = 1000  # that run_clm joins; what fills no block behind them it drops
_COMPARED_ROWS = 1 << 22


@dataclass(frozen=True)
class Windows:
    """Windows of a text.

    Attributes:
        block: L, None where the rows do not tell: S is smaller, and every L gives them.
        stride: S, None likewise.
    """

    block: int | None = None
    stride: int | None = None

    def positions(self, first: int, stop: int) -> Int64s:
        """Returns which token of the text each of some rows is."""
        row_N = np.arange(first, stop)
        return row_N + 1 if self.block is None else row_N + row_N // (self.block - 1) + 1

    def spans(self, rows: int) -> RowRanges:
        """Returns the tokens that the first rows are."""
        if self.block is None:
            return RowRanges.of([[1, rows + 1]])
        starts = np.arange(0, self.positions(rows - 1, rows)[0] + 1, self.block)
        return RowRanges.of(zip((starts + 1).tolist(), (starts + self.block).tolist(), strict=True))

    def in_words(self) -> str:
        """Returns which tokens the rows are."""
        return "every token but the first" + (f" of each {self.block}" if self.block is not None else "")


def find_windows(values_N: Array, tokens_T: Integers) -> Windows | None:
    """Returns the windows whose rows the values are; None where they are not this text's.

    Args:
        values_N: ids of the tokenizer.
        tokens_T: ids here.
    """
    first = _first_difference(values_N, tokens_T, Windows())
    if first is None:
        return Windows()
    # The first token that is no row begins the second window; equal tokens there are found out later.
    for block in range(first + 1, max(first - 62, 1), -1):
        if len(values_N) % (block - 1) == 0:
            windows = Windows(block, block)
            if _first_difference(values_N, tokens_T, windows) is None:
                return windows
    return None


def _first_difference(values_N: Array, tokens_T: Integers, windows: Windows) -> int | None:
    """Returns the first row whose value is not the text's token, None where there is none."""
    for start in range(0, len(values_N), _COMPARED_ROWS):
        stop = min(start + _COMPARED_ROWS, len(values_N))
        at_N = windows.positions(start, stop)
        there = np.searchsorted(at_N, len(tokens_T))  # rows behind the end of the text differ
        same = np.asarray(values_N[start : start + there]).astype(np.int64) + SHIFT == tokens_T[at_N[:there]]
        if not same.all():
            return start + int(np.argmin(same))
        if there < stop - start:
            return start + int(there)
    return None


def kept_tokens(sizes_D: Integers, block: int) -> list[Int64s]:
    """Returns which tokens of a text are in windows, of each ``TEXTS_TOGETHER`` documents: a whole number of blocks."""
    stops = np.cumsum(sizes_D, dtype=np.int64)[TEXTS_TOGETHER - 1 :: TEXTS_TOGETHER].tolist()
    total = int(np.sum(sizes_D, dtype=np.int64))
    edges = [0, *stops, *([total] if not stops or stops[-1] < total else [])]
    return [np.arange(a, a + (b - a) // block * block) for a, b in pairwise(edges)]


def begun_texts(tokens_T: Integers, sizes_D: Integers, bos: int) -> Int64s:
    """Returns the stream with a token in front of each text, int64.

    Args:
        tokens_T: of all texts.
        sizes_D: tokens of each text.
        bos: id here of that token.
    """
    starts_D = np.cumsum(sizes_D, dtype=np.int64) - sizes_D
    return np.insert(np.asarray(tokens_T).astype(np.int64), starts_D, bos)


def window_batch(tokens_T: Integers, block: int, stride: int, number: int) -> tuple[Batch, Int64s]:
    """Returns a window as a batch of one row, and which tokens of the text it scores."""
    end = min(number * stride + stride, len(tokens_T))
    begin = max(number * stride + stride - block, 0)
    scored_N = np.arange(max(number * stride, begin + 1), end)
    source_1T = np.asarray(tokens_T[begin : end - 1]).astype(np.int64)[None]
    context = source_1T.shape[1] - len(scored_N)
    target_1T, is_scored_1T = np.full_like(source_1T, PAD), np.zeros(source_1T.shape, bool)
    target_1T[0, context:], is_scored_1T[0, context:] = tokens_T[scored_N], True
    return Batch(np.array([number]), source_1T, target_1T, np.array([context]), is_scored_1T), scored_N
