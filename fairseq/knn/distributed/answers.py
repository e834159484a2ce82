"""What the shards' answers come to: probabilities, and the rows themselves.

With m the smallest distance of all rows and h that of all hits, and S, H the shards' sums relative to their own,

    ln p = ln Σ H_s e^((h − h_s) / T) − ln Σ S_s e^((m − m_s) / T) + (m − h) / T

which is what one machine computes, in another order of additions.

Legend: N queries · K neighbours · V vocabulary.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fairseq.arrays import Float32s, Float64s, Int64s
from fairseq.knn.distributed.messages import Rows, Sums, Words
from fairseq.knn.neighbours.distribution import Votes


def log_prob_and_share(sums: Sequence[Sums], temperature: float) -> tuple[Float64s, Float64s]:
    """Returns ln p_kNN(target), −inf without a hit, and the nearest neighbour's share of p_kNN, float64 ``[N]``."""
    least_N, total_N = _joined([one.least_N for one in sums], [one.total_N for one in sums], temperature)
    hit_N, hits_N = _joined([one.least_hit_N for one in sums], [one.hits_N for one in sums], temperature)
    total_N, log_p_N = np.maximum(total_N, 1), np.full(len(hits_N), -np.inf)  # the nearest neighbour alone is 1
    any_N = hits_N > 0
    gap_N = (hit_N[any_N] - least_N[any_N]) / temperature
    log_p_N[any_N] = np.minimum(np.log(hits_N[any_N]) - gap_N - np.log(total_N[any_N]), 0.0)
    return log_p_N, 1 / total_N


def _joined(least: Sequence[Float64s], total: Sequence[Float64s], temperature: float) -> tuple[Float64s, Float64s]:
    """Returns the smallest distance, and the sums relative to it."""
    least_SN, total_SN = np.stack(least), np.stack(total)
    least_N = least_SN.min(axis=0)
    is_none_SN = np.isinf(least_SN)
    gap_SN = np.where(is_none_SN, 0.0, least_SN - np.where(np.isinf(least_N), 0.0, least_N))
    return least_N, (total_SN * np.exp(-gap_SN / temperature)).sum(axis=0)


def next_log_prob_of(words: Sequence[Words], count: int, vocabulary_size: int) -> Float32s:
    """Returns ln p_kNN of every word, float32 ``[N, V]``; −inf where no neighbour has it as its value.

    Args:
        words: of each shard.
        count: N.
        vocabulary_size: V, larger than any word.
    """
    out_NV = np.full((count, vocabulary_size), -np.inf, np.float32)
    query = np.concatenate([np.repeat(np.arange(count), one.count_N) for one in words])
    place = query * vocabulary_size + np.concatenate([one.word for one in words])
    log_sum = np.concatenate([one.log_sum for one in words])
    order = np.argsort(place, kind="stable")
    place, log_sum = place[order], log_sum[order]
    first = np.flatnonzero(np.diff(place, prepend=-1))
    if len(first):
        place, log_sum = place[first], np.logaddexp.reduceat(log_sum, first)
        query = place // vocabulary_size
        firsts = np.flatnonzero(np.diff(query, prepend=-1))
        log_total = np.repeat(np.logaddexp.reduceat(log_sum, firsts), np.diff(firsts, append=len(query)))
        with np.errstate(over="ignore"):  # below what float32 holds is −inf
            out_NV.reshape(-1)[place] = np.minimum(log_sum - log_total, 0.0)
    return out_NV


def votes_of(rows: Sequence[Rows], count: int, k: int, order_of: Callable[[Int64s], Int64s]) -> Votes:
    """Returns the neighbours ``[N, K]``, nearest first, those equally far by number; −1 for none.

    Args:
        rows: of each shard.
        count: N.
        k: K.
        order_of: numbers by which rows that are equally far come.
    """
    query_P = np.concatenate([np.repeat(np.arange(count), one.count_N) for one in rows])
    id_P = np.concatenate([one.ids for one in rows])
    near_P = np.concatenate([one.distances for one in rows])
    hit_P = np.concatenate([one.hits for one in rows])
    order = np.lexsort((order_of(id_P), near_P, query_P))
    size_N = np.bincount(query_P, minlength=count)
    is_there_NK = np.arange(k) < size_N[:, None]
    near_NK, ids_NK = np.full((count, k), np.inf, np.float32), np.full((count, k), -1, np.int64)
    hits_NK = np.zeros((count, k), bool)
    near_NK[is_there_NK], ids_NK[is_there_NK], hits_NK[is_there_NK] = near_P[order], id_P[order], hit_P[order]
    return Votes(near_NK, ids_NK, hits_NK)
