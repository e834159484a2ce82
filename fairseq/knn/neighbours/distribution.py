"""The probability that neighbours give to a token.

A query q finds K rows (k_i, v_i) at distances d_i = ‖q − k_i‖². Each votes for its own value, with the weight of a
softmax over the negative distances at temperature T:

    p_kNN(y) = Σ_{i: v_i = y} exp(−d_i / T) / Σ_i exp(−d_i / T)

Distances enter as gaps to the nearest neighbour, g_i = d_i − d_1. With h the smallest gap of a neighbour whose value is
y,

    ln p_kNN(y) = ln Σ_{i: v_i = y} exp((h − g_i) / T) − h / T − ln Σ_i exp(−g_i / T)

Both sums are at least 1, so a word whose only neighbours are far off keeps its small probability instead of
underflowing to 0. A word that is no neighbour's value has −inf. An id of −1 (the lists that were searched hold fewer
than K rows) is no neighbour and has no mass; a row that is there twice is one neighbour, at the smaller of its
distances.

Source: Khandelwal et al., 2020, equation 2. Legend: N queries · K neighbours · T temperatures · J values of k · H hits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from fairseq.arrays import Bools, Float32s, Float64s, Int64s, Integers
from fairseq.knn.search.distances import smallest, ties_by_id

OrderOf = Callable[[Int64s], Int64s]


def _by_row(ids: Int64s) -> Int64s:
    return ids


@dataclass(frozen=True)
class Votes:
    """The neighbours of N queries, in any order, and which of them have the target as their value.

    Attributes:
        distances_NK: smaller is nearer; +inf for none.
        ids_NK: distinct rows, −1 for none.
        hits_NK: whose value is the target.
    """

    distances_NK: Float32s
    ids_NK: Int64s
    hits_NK: Bools

    def filled_up(self, k: int) -> "Votes":
        """Returns them with places of no neighbour behind them, ``[N, k]``, where there are fewer."""
        missing = ((0, 0), (0, max(k - self.ids_NK.shape[1], 0)))
        return Votes(*filled_up(self.distances_NK, self.ids_NK, k), np.pad(self.hits_NK, missing))

    def rows(self, rows: slice) -> "Votes":
        """Returns those of some queries."""
        return Votes(self.distances_NK[rows], self.ids_NK[rows], self.hits_NK[rows])

    @staticmethod
    def joined(parts: "Sequence[Votes]") -> "Votes":
        """Returns those of all queries, in their order."""
        names = ("distances_NK", "ids_NK", "hits_NK")
        return Votes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def nearest_first(self, order_of: OrderOf = _by_row) -> "Votes":
        """Returns them by distance; those equally far in the order that ``keep_nearest`` has."""
        order_NK = torch.sort(torch.from_numpy(self.distances_NK), dim=1, stable=True).indices.numpy()
        distances_NK = np.take_along_axis(self.distances_NK, order_NK, axis=1)
        ids_NK = np.take_along_axis(self.ids_NK, order_NK, axis=1)
        hits_NK = np.take_along_axis(self.hits_NK, order_NK, axis=1)
        places, order = ties_by_id(distances_NK, order_of(ids_NK))
        np.put(hits_NK, places, hits_NK.take(places)[order])
        np.put(ids_NK, places, ids_NK.take(places)[order])
        return Votes(distances_NK, ids_NK, hits_NK)


def votes_for(
    distances_NK: Float32s,
    ids_NK: Int64s,
    values_NK: Integers,
    target_N: Integers,
    *,
    distinct: bool = False,
) -> Votes:
    """Returns the neighbours, each once, and which of them have the targets as their values.

    Args:
        distances_NK: smaller is nearer.
        ids_NK: row numbers, −1 for none.
        values_NK: the rows' values; anything where the id is −1.
        target_N: token ids.
        distinct: no id but −1 is there twice in a row of ``ids_NK``, so that repetitions need not be looked for.
    """
    distances_NK, ids_NK = _neighbours(distances_NK, ids_NK, distinct=distinct)
    return Votes(distances_NK, ids_NK, (values_NK == target_N[:, None]) & (ids_NK >= 0))


def gaps(distances_NK: Float32s) -> Float64s:
    """Returns how much farther each neighbour is than the nearest one of its query, ``[N, K]``; +inf for none."""
    nearest_N1 = distances_NK.min(axis=1, keepdims=True, initial=np.inf).astype(np.float64)
    nearest_N1[np.isinf(nearest_N1)] = 0.0  # a query without neighbours; keeps inf − inf out
    gap_NK = distances_NK.astype(np.float64)
    gap_NK -= nearest_N1
    return gap_NK


def vote_weights(gap_NK: Float64s, temperature: float) -> Float64s:
    """Returns the softmax before its division, exp(−g / T), ``[N, K]``: 1 for the nearest neighbour, 0 for none."""
    with np.errstate(over="ignore"):  # so far that it weighs nothing
        weight_NK: Float64s = np.exp(-gap_NK / temperature)
    return weight_NK


def vote_shares(gap_NK: Float64s, temperature: float) -> Float64s:
    """Returns the softmax over the neighbours of each query, ``[N, K]``; all 0 for a query without neighbours."""
    share_NK = vote_weights(gap_NK, temperature)
    share_NK /= np.maximum(share_NK.sum(axis=1, keepdims=True), 1)
    return share_NK


def log_prob_of(votes: Votes, temperature: float = 1.0) -> Float32s:
    """Returns ln p_kNN(target), float32 ``[N]``, of all neighbours at one temperature; −inf without a hit."""
    return log_prob_and_nearest(votes, temperature)[0]


def log_prob_and_nearest(votes: Votes, temperature: float = 1.0) -> tuple[Float32s, Float64s]:
    """Returns ``log_prob_of``, and the nearest neighbour's share of p_kNN, ``[N]``; anything where there is none."""
    k = votes.distances_NK.shape[1]
    log_p_TJN, total_TJN = _log_probs_and_totals(votes.distances_NK, votes.hits_NK, (temperature,), (k,))
    with np.errstate(over="ignore"):  # below what float32 holds is −inf
        log_p_N: Float32s = log_p_TJN[0, 0].astype(np.float32)
    return log_p_N, 1 / total_TJN[0, 0]


def log_probs(distances_NK: Float32s, hits_NK: Bools, temperatures: Sequence[float], ks: Sequence[int]) -> Float64s:
    """Returns ln p_kNN(target), float64 ``[T, J, N]``, of the first k neighbours, for each temperature and k.

    Args:
        distances_NK: smaller is nearer, +inf for none; nearest first, unless the only k is K.
        hits_NK: which neighbours have the target as their value; none that is at +inf.
        temperatures: the values of T.
        ks: the values of k, ascending.
    """
    return _log_probs_and_totals(distances_NK, hits_NK, temperatures, ks)[0]


def _log_probs_and_totals(
    distances_NK: Float32s, hits_NK: Bools, temperatures: Sequence[float], ks: Sequence[int]
) -> tuple[Float64s, Float64s]:
    """Returns ``log_probs``, and Σ exp(−g / T) of the first k, of which the nearest is 1, ``[T, J, N]``."""
    # The sums of k neighbours are those of the k before, and of the segment between.
    segments = [slice(*edges) for edges in pairwise((0, *ks))]
    distances_NK, hits_NK = distances_NK[:, : ks[-1]], hits_NK[:, : ks[-1]]
    gap_NK = gaps(distances_NK)
    place_H = np.flatnonzero(hits_NK)
    gap_H = gap_NK.take(place_H)
    end_NJ = np.searchsorted(place_H, np.arange(len(hits_NK))[:, None] * ks[-1] + np.array(ks))
    count_NJ = np.diff(end_NJ.ravel(), prepend=0).reshape(end_NJ.shape)
    first_NJ = end_NJ - count_NJ
    has_hit_NJ, count_N = count_NJ > 0, count_NJ.sum(axis=1)
    nearest_N, mass_NJ = np.zeros(len(gap_NK)), np.zeros(count_NJ.shape)
    if len(gap_H):
        nearest_N[count_N > 0] = np.minimum.reduceat(gap_H, first_NJ[count_N > 0, 0])
    gap_H -= np.repeat(nearest_N, count_N)
    # torch's exp: without AVX-512, NumPy's takes 2.6 times as long. For a single temperature it is done in place.
    gap, gap_of_hit, nearest = (torch.from_numpy(array) for array in (gap_NK, gap_H, nearest_N))
    weight, weight_of_hit = (x if len(temperatures) == 1 else torch.empty_like(x) for x in (gap, gap_of_hit))
    log_p_TJN = torch.empty((len(temperatures), len(ks), len(gap_NK)), dtype=torch.float64)
    total_TJN = torch.empty_like(log_p_TJN)
    for t, temperature in enumerate(temperatures):
        torch.div(gap, -temperature, out=weight).exp_()
        torch.div(gap_of_hit, -temperature, out=weight_of_hit).exp_()
        if len(gap_H):
            mass_NJ[has_hit_NJ] = np.add.reduceat(weight_of_hit.numpy(), first_NJ[has_hit_NJ])
        log_mass_JN = torch.from_numpy(mass_NJ).cumsum(1).log_().t() - nearest / temperature
        total_JN = torch.stack([weight[:, segment].sum(1) for segment in segments]).cumsum_(0)
        total_TJN[t] = total_JN.clamp_(min=1)  # the nearest neighbour alone is 1
        log_p_TJN[t] = log_mass_JN - total_JN.log_()
    return log_p_TJN.clamp_(max=0).numpy(), total_TJN.numpy()


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

    The other arguments are those of ``votes_for``; a target's entry is what ``log_prob_of`` returns, up to rounding.
    """
    distances_NK, ids_NK = _neighbours(distances_NK, ids_NK, distinct=distinct)
    out_NV = np.full((len(ids_NK), vocabulary_size), -np.inf, np.float32)
    gap_NK, there_NK = gaps(distances_NK), ids_NK >= 0
    log_total_N = np.log(np.maximum(vote_weights(gap_NK, temperature).sum(axis=1), 1))
    # Neighbours of one query with one value lie side by side once they are sorted by the place of both in the result.
    place = (np.arange(len(ids_NK))[:, None] * vocabulary_size + values_NK.astype(np.int64))[there_NK]
    order = np.argsort(place, kind="stable")
    place, gap = place[order], gap_NK[there_NK][order]
    firsts = np.flatnonzero(np.diff(place, prepend=-1))
    if len(firsts):
        nearest = np.minimum.reduceat(gap, firsts)
        gap -= np.repeat(nearest, np.diff(firsts, append=len(place)))
        mass = np.add.reduceat(vote_weights(gap, temperature), firsts)
        with np.errstate(over="ignore"):  # below what float32 holds is −inf
            log_p = np.log(mass) - nearest / temperature - log_total_N[place[firsts] // vocabulary_size]
            out_NV.reshape(-1)[place[firsts]] = np.minimum(log_p, 0.0)
    return out_NV


def _neighbours(distances_NK: Float32s, ids_NK: Int64s, *, distinct: bool) -> tuple[Float32s, Int64s]:
    """Returns distances and ids, each row once, with +inf and −1 for what is no neighbour."""
    if not distinct:
        distances_NK, ids_NK = each_once(distances_NK, ids_NK)
    there_NK = (ids_NK >= 0) & np.isfinite(distances_NK)
    if there_NK.all():
        return distances_NK, ids_NK
    return np.where(there_NK, distances_NK, np.float32(np.inf)), np.where(there_NK, ids_NK, -1)


def each_once(distances_NK: Float32s, ids_NK: Int64s) -> tuple[Float32s, Int64s]:
    """Returns distances and ids where a row that is there twice is left once, the nearest; −1 in place of others."""
    sorted_NK = np.sort(ids_NK, axis=1)
    twice_N = ((sorted_NK[:, 1:] == sorted_NK[:, :-1]) & (sorted_NK[:, 1:] >= 0)).any(axis=1)
    if twice_N.any():
        distances_NK, ids_NK = distances_NK.copy(), ids_NK.copy()
    for n in np.flatnonzero(twice_N):
        by_id_K = np.lexsort((distances_NK[n], ids_NK[n]))
        again = by_id_K[1:][np.diff(ids_NK[n, by_id_K]) == 0]
        distances_NK[n, again], ids_NK[n, again] = np.inf, -1
    return distances_NK, ids_NK


def drop_nearest(distances_NK: Float32s, ids_NK: Int64s, order_of: OrderOf = _by_row) -> tuple[Float32s, Int64s]:
    """Returns distances and ids ``[N, K−1]`` without the nearest neighbour of each query.

    The arguments are those of ``keep_nearest``.
    """
    n, k = ids_NK.shape
    kept_NK = np.ones((n, k), bool)
    kept_NK.ravel()[smallest(distances_NK, 1, lambda n, places: order_of(ids_NK[n, places]))] = False
    return distances_NK[kept_NK].reshape(n, k - 1), ids_NK[kept_NK].reshape(n, k - 1)


def drop_own(distances_NK: Float32s, ids_NK: Int64s, own_NS: Int64s) -> tuple[Float32s, Int64s]:
    """Returns distances and ids where some rows of each query are none of its neighbours: −1 in their place."""
    is_own_NK = np.zeros(ids_NK.shape, bool)
    for own_N in own_NS.T:
        is_own_NK |= ids_NK == own_N[:, None]
    return np.where(is_own_NK, np.float32(np.inf), distances_NK), np.where(is_own_NK, -1, ids_NK)


def keep_nearest(
    distances_NK: Float32s, ids_NK: Int64s, k: int, order_of: OrderOf = _by_row
) -> tuple[Float32s, Int64s]:
    """Returns distances and ids of the k nearest neighbours of each query, in the order that they were in.

    Args:
        distances_NK: smaller is nearer.
        ids_NK: −1 for none.
        k: how many.
        order_of: numbers by which rows that are equally far come, the smallest first; by default the ids themselves.
    """
    if k >= ids_NK.shape[1]:
        return distances_NK, ids_NK
    place_NK = smallest(distances_NK, k, lambda n, places: order_of(ids_NK[n, places]))
    return distances_NK.take(place_NK), ids_NK.take(place_NK)


def filled_up(distances_NK: Float32s, ids_NK: Int64s, k: int) -> tuple[Float32s, Int64s]:
    """Returns distances and ids with places of no neighbour behind them, ``[N, k]``, where there are fewer."""
    missing = k - ids_NK.shape[1]
    if missing <= 0:
        return distances_NK, ids_NK
    places = ((0, 0), (0, missing))
    return np.pad(distances_NK, places, constant_values=np.inf), np.pad(ids_NK, places, constant_values=-1)
