"""Batches: which blocks go together, as pure functions of lengths, limits and a seed.

A batch costs ``rows × longest`` padded tokens. Rows are taken in order; when the next one would not fit, the first
``max(m·(n // m), n mod m)`` of the n collected rows are emitted (m = the required multiple) and the rest carried on.
"""

import numpy as np
import numpy.typing as npt

from fairseq.data.blocks import Int64s
from fairseq.errors import ConfigError


def by_length(lengths: Int64s, seed: int | None = None) -> Int64s:
    """Returns block indices sorted by length; equal ones stay in order, or in an order drawn from ``seed``."""
    if seed is None:
        return np.argsort(lengths, kind="stable")
    shuffled = np.random.default_rng(seed).permutation(len(lengths))
    return shuffled[np.argsort(lengths[shuffled], kind="stable")]


def batch_by_size(
    order: npt.NDArray[np.integer],
    lengths: Int64s,
    max_tokens: int | None,
    max_sentences: int | None = None,
    multiple: int = 1,
) -> list[Int64s]:
    """Returns batches of block indices in the order given.

    Raises:
        ConfigError: one block alone exceeds ``max_tokens``.
    """
    batches: list[Int64s] = []
    rows: list[int] = []
    longest = 0
    for idx, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if max_tokens is not None and length > max_tokens:
            raise ConfigError(f"--max-tokens {max_tokens} is below the {length} tokens of block {idx}; raise it")
        while rows and _is_full(len(rows), max(longest, length), max_tokens, max_sentences):
            count = max(multiple * (len(rows) // multiple), len(rows) % multiple)
            batches.append(np.array(rows[:count], np.int64))
            rows = rows[count:]
            longest = max((int(lengths[row]) for row in rows), default=0)
        rows.append(idx)
        longest = max(longest, length)
    if rows:
        batches.append(np.array(rows, np.int64))
    return batches


def _is_full(num_rows: int, longest: int, max_tokens: int | None, max_sentences: int | None) -> bool:
    if max_sentences is not None and num_rows >= max_sentences:
        return True
    return max_tokens is not None and (num_rows + 1) * longest > max_tokens


def epoch_batches(batches: list[Int64s], seed: int, epoch: int) -> list[Int64s]:
    """Returns the batches in the order of one epoch, a function of ``seed + epoch`` only."""
    order = np.random.default_rng(seed + epoch).permutation(len(batches))
    return [batches[i] for i in order]
