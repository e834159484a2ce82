r"""Blocks: how a token stream is cut into the pieces that a model sees.

Sentences lie end to end in the stream; a block is a half-open range ``[start, end)`` of it. The modes, for
sentences of 6, 1, 8 and 6 tokens:

    stream         0     6 7       15    21
    none,5         |----|----|----|----|-|       equal pieces, the last may be short
    complete,8     |------|-------|------|       whole sentences while they fit
    complete_doc,8 |-----| |------|------|       the same, but an empty line ends the document and is skipped
    eos            |-----|-|------|------|       one block per sentence
    isolated,5      |---||---||---||---|      equal pieces that see nothing of each other: the first token of each is
                                              read and not scored, as in transformers' run_clm; here the last piece
                                              is one token, of which nothing is left
    document,5     |----|||----|--|----||     every sentence, which is a whole document, in pieces

A sentence of no tokens (an .idx may hold size 0) adds nothing to the stream: it makes no block and ends no document.
"""

from itertools import pairwise

import numpy as np

from fairseq.arrays import Int64s, Integers
from fairseq.errors import ConfigError


def block_bounds(sizes: Integers, mode: str, block_size: int) -> tuple[Int64s, Int64s]:
    """Returns the starts and ends of all blocks, int64 arrays of equal length, in stream order.

    Args:
        sizes: tokens in each sentence.
        mode: none, complete, complete_doc, eos, isolated or document.
        block_size: most tokens in a block; one longer sentence still makes one block of its own.

    Raises:
        ConfigError: unknown mode, or pieces of one token whose first is not scored.
    """
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    if mode == "none":
        starts = np.arange(0, offsets[-1], block_size, dtype=np.int64)
        return starts, np.minimum(starts + block_size, offsets[-1])
    if mode == "complete":
        return _not_empty(*_greedy(offsets, block_size))
    if mode == "complete_doc":
        return _documents(offsets, np.asarray(sizes), block_size)
    if mode == "eos":
        return _not_empty(offsets[:-1], offsets[1:])
    if mode == "isolated":
        if block_size < 2:
            raise ConfigError(
                f"--tokens-per-sample {block_size} must be at least 2 with --sample-break-mode isolated: the first"
                " token of each block is not scored; give more"
            )
        first = np.arange(0, offsets[-1], block_size, dtype=np.int64)
        return _not_empty(first + 1, np.minimum(first + block_size, offsets[-1]))
    if mode == "document":
        return _pieces(offsets, block_size)
    raise ConfigError(
        f"--sample-break-mode must be none, complete, complete_doc, eos, isolated or document, but is {mode!r}"
    )


def check_window(mode: str | None, context_window: int) -> None:
    """Raises ConfigError where a context window is asked for that the mode cannot have."""
    if mode == "isolated" and context_window:
        raise ConfigError(
            f"--context-window {context_window} must be 0 with --sample-break-mode isolated, whose blocks see"
            " nothing of each other; leave it out, or give --sample-break-mode none"
        )


def joined_ranges(starts: Int64s, lengths: Int64s) -> Int64s:
    """Returns several ranges, joined: starts 5 and 0, lengths 2 and 3 give 5, 6, 0, 1, 2."""
    before = np.cumsum(lengths) - lengths
    joined: Int64s = np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
    return joined


def _not_empty(starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s]:
    kept = ends > starts
    return starts[kept], ends[kept]


def _greedy(offsets: Int64s, block_size: int) -> tuple[Int64s, Int64s]:
    """Returns blocks of as many whole sentences as fit; ``offsets`` are where sentences start, and the end."""
    cuts = [0]
    last = len(offsets) - 1
    while cuts[-1] < last:
        fits = int(np.searchsorted(offsets, offsets[cuts[-1]] + block_size, side="right")) - 1
        cuts.append(max(fits, cuts[-1] + 1))
    bounds = offsets[cuts]
    return bounds[:-1], bounds[1:]


def _pieces(offsets: Int64s, block_size: int) -> tuple[Int64s, Int64s]:
    """Returns every sentence in pieces of ``block_size`` tokens, the last of which may be short."""
    size_S = np.diff(offsets)
    count_S = -(-size_S // block_size)
    first_B = np.repeat(offsets[:-1], count_S)
    starts = first_B + block_size * joined_ranges(np.zeros(len(count_S), np.int64), count_S)
    return starts, np.minimum(starts + block_size, np.repeat(offsets[1:], count_S))


def _documents(offsets: Int64s, sizes: Integers, block_size: int) -> tuple[Int64s, Int64s]:
    """Returns ``_greedy`` blocks of each document (between lines of size 1), without blocks of one token or none."""
    empty = np.concatenate([[-1], np.flatnonzero(sizes == 1), [len(sizes)]])
    runs = [offsets[before + 1 : after + 1] for before, after in pairwise(empty) if after - before > 1]
    blocks = [(np.empty(0, np.int64), np.empty(0, np.int64)), *(_greedy(run, block_size) for run in runs)]
    start, end = (np.concatenate(part) for part in zip(*blocks, strict=True))
    kept = end - start > 1
    return start[kept], end[kept]
