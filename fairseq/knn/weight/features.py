"""The features of a token that its interpolation weight λ is a function of.

    before the search   how sure the language model is, and how frequent the last token of the context is
    after it            how near the neighbours are, and how far they agree with each other

None of them depends on the target: a weight that did would make the mixture's probabilities sum to something other
than 1. Nor do they depend on the order of neighbours that are equally far.

Legend: N tokens · K neighbours · F features.
"""

import numpy as np

from fairseq.arrays import Bools, Float32s, Float64s, Int64s, Integers
from fairseq.evaluate.mixture import Known
from fairseq.knn.neighbours.distribution import gaps, vote_shares

BEFORE_SEARCH = ("lm_max_log_prob", "lm_entropy", "log_count")
AFTER_SEARCH = ("nearest", "mean_gap", "log_voters", "knn_max_log_prob", "knn_entropy", "log_values", "log_values_near")
FEATURES = (*BEFORE_SEARCH, *AFTER_SEARCH)
# Neighbours that count as near.
NUM_NEAR = 16
# Tokens whose neighbours are described together: what is computed from 1,024 of each stays in the cache.
_ROWS = 32


def context_features(known: Known, counts_V: Int64s) -> Float64s:
    """Returns the features ``BEFORE_SEARCH``, ``[N, F]``; ``counts_V`` is the dictionary's count of each id."""
    columns = (known.max_log_p_N, known.entropy_N, np.log1p(counts_V[known.last_token_N]))
    return np.stack([column.astype(np.float64) for column in columns], axis=1)


def neighbour_features(distances_NK: Float32s, values_NK: Integers, temperature: float) -> Float64s:
    """Returns the features ``AFTER_SEARCH``, ``[N, F]``; all 0 for a token without any neighbour.

    With weights w_i = exp(−d_i / T) / Σ exp(−d / T) and n the number of neighbours:

        nearest, mean_gap   d_1, and the mean of d_i − d_1
        log_voters          the entropy of w, nats: ln of how many neighbours count
        knn_max_log_prob    ln of the largest p_kNN of any token
        knn_entropy         of p_kNN, nats
        log_values(_near)   ln of the number of distinct values, of all neighbours and of the 16 nearest

    Args:
        distances_NK: nearest first; +inf for none.
        values_NK: the neighbours' values; anything where there is none.
        temperature: T.
    """
    described = [np.empty((0, len(AFTER_SEARCH)))]
    for start in range(0, len(distances_NK), _ROWS):
        rows = slice(start, start + _ROWS)
        described.append(_describe(np.asarray(distances_NK[rows]), np.asarray(values_NK[rows]), temperature))
    return np.concatenate(described)


def has_neighbours(distances_NK: Float32s) -> Bools:
    """Returns which tokens have any neighbour, ``[N]``; ``distances_NK`` has the nearest first."""
    return np.isfinite(distances_NK[:, 0])


def _describe(distances_NK: Float32s, values_NK: Integers, temperature: float) -> Float64s:
    there_NK = np.isfinite(distances_NK)
    gap_NK, value_NK = gaps(distances_NK), np.where(there_NK, values_NK, -1)
    share_NK = vote_shares(gap_NK, temperature)
    mass_NG, is_value_NG = _mass_by_value(share_NK, value_NK)
    near_NK = np.sort(value_NK[:, :NUM_NEAR], axis=1)
    num_near_N = 1 + ((near_NK[:, 1:] != near_NK[:, :-1]) & (near_NK[:, :-1] >= 0)).sum(1)
    described_NF = np.stack(
        [
            distances_NK[:, 0],
            np.where(there_NK, gap_NK, 0).sum(1) / np.maximum(there_NK.sum(1), 1),
            _entropy(share_NK),
            np.log(np.maximum(mass_NG.max(1), np.finfo(np.float64).tiny)),
            _entropy(mass_NG),
            np.log(np.maximum(is_value_NG.sum(1), 1)),
            np.log(num_near_N),
        ],
        axis=1,
    )
    described_NF[~there_NK[:, 0]] = 0
    return described_NF


def _mass_by_value(weight_NK: Float64s, values_NK: Integers) -> tuple[Float64s, Bools]:
    """Returns the weight of each distinct value, 0 between them, and where there is one; value −1 is none."""
    n, k = values_NK.shape
    # The value above, the column below: numbers that sort fast and say where they came from.
    packed_NK = np.sort(values_NK.astype(np.int64) << 32 | np.arange(k), axis=1)
    sorted_NK = packed_NK >> 32
    first_NK = np.ones((n, k), bool)
    first_NK[:, 1:] = sorted_NK[:, 1:] != sorted_NK[:, :-1]
    ordered_NK = np.take_along_axis(weight_NK, packed_NK & 0xFFFFFFFF, axis=1)
    mass_NK = np.zeros((n, k))
    mass_NK[first_NK] = np.add.reduceat(ordered_NK.ravel(), np.flatnonzero(first_NK.ravel()))
    return mass_NK, first_NK & (sorted_NK >= 0)


def _entropy(p_NK: Float64s) -> Float64s:
    entropy_N: Float64s = -np.sum(p_NK * np.log(p_NK, where=p_NK > 0, out=np.zeros_like(p_NK)), axis=1)
    return entropy_N
