"""Batches: which blocks go together, as pure functions of lengths, limits and a seed.

A batch costs ``rows × longest`` padded tokens. Rows are taken in order; when the next one would not fit, the first
``max(m·(n // m), n mod m)`` of the n collected rows are emitted (m = the required multiple) and the rest carried on.
"""

import numpy as np

from fairseq.arrays import Int64s, Integers
from fairseq.errors import ConfigError


def by_length(lengths: Int64s, seed: int | None = None) -> Int64s:
    """Returns block indices sorted by length; equal ones stay in order, or in an order drawn from ``seed``."""
    if seed is None:
        return np.argsort(lengths, kind="stable")
    shuffled = np.random.default_rng(seed).permutation(len(lengths))
    return shuffled[np.argsort(lengths[shuffled], kind="stable")]


def batch_by_size(
    order: Integers,
    lengths: Int64s,
    max_tokens: int | None,
    max_sentences: int | None = None,
    multiple: int = 1,
    *,
    split: str | None = None,
    bound: str = "--max-tokens",
) -> list[Int64s]:
    """Returns batches of block indices in the order given.

    Args:
        order: block indices.
        lengths: tokens of each block.
        max_tokens: most of a batch, padding counted.
        max_sentences: most blocks of a batch.
        multiple: of which the number of blocks is one where possible.
        split: whose blocks they are, for the message.
        bound: the flag that ``max_tokens`` comes from, likewise.

    Raises:
        ConfigError: one block alone exceeds ``max_tokens``.
    """
    ordered: Int64s = np.asarray(order, np.int64)
    length_N = lengths[ordered]
    if max_tokens is not None and (length_N > max_tokens).any():
        of_split = f" of the split '{split}'" if split is not None else ""
        raise ConfigError(
            f"{bound} {max_tokens} is below the {length_N.max()} tokens of the longest block{of_split}; give at least"
            f" {length_N.max()}"
        )
    batches: list[Int64s] = []
    start = 0
    while start < len(ordered):
        count = _rows_that_fit(length_N[start : start + (max_sentences or len(ordered))], max_tokens)
        if start + count < len(ordered):
            count = max(multiple * (count // multiple), count % multiple)
        batches.append(ordered[start : start + count])
        start += count
    return batches


def _rows_that_fit(length_N: Int64s, max_tokens: int | None) -> int:
    """Returns how many of the first rows make a full batch; a row costs as much as the longest before or after it."""
    if max_tokens is None:
        return len(length_N)
    length_N = length_N[: max_tokens // max(int(length_N[0]), 1)]  # more of the first alone would be too many
    cost_N = np.maximum.accumulate(length_N) * np.arange(1, len(length_N) + 1)
    return int(np.searchsorted(cost_N, max_tokens, side="right"))


def epoch_batches(batches: list[Int64s], seed: int, epoch: int) -> list[Int64s]:
    """Returns the batches in the order of one epoch, a function of ``seed + epoch`` only."""
    order = np.random.default_rng(seed + epoch).permutation(len(batches))
    return [batches[i] for i in order]
