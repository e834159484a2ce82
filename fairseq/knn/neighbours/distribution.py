"""The probability that neighbours give to a token.

A query q finds K rows (k_i, v_i) at distances d_i = ‖q − k_i‖². Each votes for its own value, with the weight of a
softmax over the negative distances at temperature T:

    p_kNN(y) = Σ_{i: v_i = y} exp(−d_i / T) / Σ_i exp(−d_i / T)

Scoring needs the target's probability only, so no vector over the vocabulary is built:

    ln p_kNN(y) = ln Σ_{i: v_i = y} exp((h − d_i) / T) − ln Σ_i exp((m − d_i) / T) + (m − h) / T

where m is the smallest distance and h the smallest among the hits; both sums are at least 1, so a target whose only
neighbours are far off keeps its small probability instead of underflowing to 0. Without a hit it is −inf. An id of −1
(the lists that were searched hold fewer than K rows) is no neighbour and has no mass; a row that is there twice is one
neighbour, at the smaller of its distances. For generating, ``next_log_prob`` does the same for every word.

Source: Khandelwal et al., 2020, equation 2. Legend: N queries · K neighbours.
"""

from dataclasses import dataclass

import numpy as np
import torch

from fairseq.arrays import Bools, Float32s, Int64s, Integers
from fairseq.knn.search.distances import smallest


@dataclass(frozen=True)
class Votes:
    """The neighbours of N queries, in any order, and what they say of the targets.

    Attributes:
        distances_NK: smaller is nearer; +inf for none.
        ids_NK: distinct rows, −1 for none.
        hits_NK: whose value is the target.
    """

    distances_NK: Float32s
    ids_NK: Int64s
    hits_NK: Bools

    def rows(self, rows: slice) -> "Votes":
        """Returns those of some queries."""
        return Votes(self.distances_NK[rows], self.ids_NK[rows], self.hits_NK[rows])

    def nearest_first(self) -> "Votes":
        """Returns them by distance; those equally far in the order that they were in."""
        order_NK = torch.sort(torch.from_numpy(self.distances_NK), dim=1, stable=True).indices.numpy()
        return Votes(
            np.take_along_axis(self.distances_NK, order_NK, axis=1),
            np.take_along_axis(self.ids_NK, order_NK, axis=1),
            np.take_along_axis(self.hits_NK, order_NK, axis=1),
        )


def knn_log_prob(
    distances_NK: Float32s,
    ids_NK: Int64s,
    values_NK: Integers,
    target_N: Integers,
    temperature: float = 1.0,
    *,
    distinct: bool = False,
) -> Float32s:
    """Returns ln p_kNN(target), float32 ``[N]``; −inf where no neighbour has the target as its value.

    Args:
        distances_NK: smaller is nearer.
        ids_NK: row numbers, −1 for none.
        values_NK: the rows' values; anything where the id is −1.
        target_N: token ids.
        temperature: T.
        distinct: no id but −1 is there twice in a row of ``ids_NK``, so that repetitions need not be looked for.
    """
    return log_prob_of(votes_for(distances_NK, ids_NK, values_NK, target_N, distinct=distinct), temperature)


def votes_for(
    distances_NK: Float32s,
    ids_NK: Int64s,
    values_NK: Integers,
    target_N: Integers,
    *,
    distinct: bool = False,
) -> Votes:
    """Returns who votes, and who of them for the targets; the arguments are those of ``knn_log_prob``."""
    if distances_NK.size == 0:
        return Votes(distances_NK, ids_NK, np.zeros(ids_NK.shape, bool))
    counted_NK = (ids_NK >= 0 if distinct else _counted(distances_NK, ids_NK)) & np.isfinite(distances_NK)
    if not counted_NK.all():
        distances_NK, ids_NK = np.where(counted_NK, distances_NK, np.inf), np.where(counted_NK, ids_NK, -1)
    return Votes(distances_NK, ids_NK, (values_NK == target_N[:, None]) & counted_NK)


def log_prob_of(votes: Votes, temperature: float = 1.0) -> Float32s:
    """Returns ln p_kNN(target), float32 ``[N]``, of the votes; −inf without a hit."""
    n = len(votes.distances_NK)
    if votes.distances_NK.size == 0:
        return np.full(n, -np.inf, np.float32)
    cost_NK = votes.distances_NK.astype(np.float64)
    cost_NK /= temperature
    nearest_N = cost_NK.min(axis=1)
    # A query without any neighbour has no hit either; 0 keeps inf − inf out of the sums.
    nearest_N[np.isinf(nearest_N)] = 0.0
    places = np.flatnonzero(votes.hits_NK)
    log_p_N = np.full(n, -np.inf)
    if len(places):
        hit_cost = cost_NK.take(places)
        rows = places // cost_NK.shape[1]
        firsts = np.flatnonzero(np.diff(rows, prepend=-1))
        hit_rows = rows[firsts]
        nearest_hit = np.minimum.reduceat(hit_cost, firsts)
        counts = np.diff(firsts, append=len(rows))
        hits = np.add.reduceat(np.exp(np.repeat(nearest_hit, counts) - hit_cost), firsts)
        np.subtract(nearest_N[:, None], cost_NK, out=cost_NK)
        total_N = torch.from_numpy(cost_NK).exp_().sum(1).numpy()  # NumPy's exp takes several times as long
        log_p_N[hit_rows] = np.log(hits) - np.log(total_N[hit_rows]) + (nearest_N[hit_rows] - nearest_hit)
    rounded_N: Float32s = np.minimum(log_p_N, 0.0).astype(np.float32)
    return rounded_N


def next_log_prob(
    distances_NK: Float32s,
    ids_NK: Int64s,
    values_NK: Integers,
    vocabulary_size: int,
    temperature: float = 1.0,
    *,
    distinct: bool = False,
) -> Float32s:
    """Returns ln p_kNN of every word, float32 ``[N, V]``; −inf where no neighbour has it as its value.

    The other arguments are those of ``knn_log_prob``, and a target's entry is what that returns, up to rounding.
    """
    out_NV = np.full((len(ids_NK), vocabulary_size), -np.inf, np.float32)
    if distances_NK.size == 0:
        return out_NV
    counted_NK = (ids_NK >= 0 if distinct else _counted(distances_NK, ids_NK)) & np.isfinite(distances_NK)
    cost_NK = np.where(counted_NK, distances_NK, np.inf).astype(np.float64) / temperature
    nearest_N = cost_NK.min(axis=1)
    nearest_N[np.isinf(nearest_N)] = 0.0  # a query without any neighbour; keeps inf − inf out of the sums
    log_total_N = np.log(np.maximum(np.exp(nearest_N[:, None] - cost_NK).sum(axis=1), np.finfo(np.float64).tiny))
    # Votes of one query for one word lie side by side once they are sorted by the place of both in the result.
    place = (np.arange(len(ids_NK))[:, None] * vocabulary_size + values_NK.astype(np.int64))[counted_NK]
    order = np.argsort(place, kind="stable")
    place, cost = place[order], cost_NK[counted_NK][order]
    firsts = np.flatnonzero(np.diff(place, prepend=-1))
    if len(firsts):
        nearest_vote = np.minimum.reduceat(cost, firsts)
        counts = np.diff(firsts, append=len(place))
        votes = np.add.reduceat(np.exp(np.repeat(nearest_vote, counts) - cost), firsts)
        rows = place[firsts] // vocabulary_size
        log_p = np.log(votes) - log_total_N[rows] + (nearest_N[rows] - nearest_vote)
        out_NV.reshape(-1)[place[firsts]] = np.minimum(log_p, 0.0)
    return out_NV


def _counted(distances_NK: Float32s, ids_NK: Int64s) -> Bools:
    """Returns which entries are neighbours: an id that is a row, and the nearest of equal ids."""
    counted_NK = ids_NK >= 0
    sorted_NK = np.sort(ids_NK, axis=1)
    repeated_N = ((sorted_NK[:, 1:] == sorted_NK[:, :-1]) & (sorted_NK[:, 1:] >= 0)).any(axis=1)
    for n in np.flatnonzero(repeated_N):
        by_id = np.lexsort((distances_NK[n], ids_NK[n]))
        counted_NK[n, by_id[1:][np.diff(ids_NK[n][by_id]) == 0]] = False
    return counted_NK


def drop_nearest(distances_NK: Float32s, ids_NK: Int64s) -> tuple[Float32s, Int64s]:
    """Returns distances and ids ``[N, K−1]`` without the nearest neighbour of each query."""
    n, k = ids_NK.shape
    kept_NK = np.ones((n, k), bool)
    kept_NK[np.arange(n), np.argmin(distances_NK, axis=1)] = False
    return distances_NK[kept_NK].reshape(n, k - 1), ids_NK[kept_NK].reshape(n, k - 1)


def keep_nearest(distances_NK: Float32s, ids_NK: Int64s, k: int) -> tuple[Float32s, Int64s]:
    """Returns distances and ids of the k nearest neighbours of each query, in the order that they were in."""
    if k >= ids_NK.shape[1]:
        return distances_NK, ids_NK
    place_NK = smallest(distances_NK, k)
    return distances_NK.take(place_NK), ids_NK.take(place_NK)
