"""Exact nearest neighbours by reading every key once: what an approximate index is measured against.

Keys come in blocks; of each block the k nearest of every query are found, and merged with the k nearest so far. Memory
is one block and 2·k candidates a query, whatever the size of the datastore.

Legend: N queries · K neighbours · D key width.
"""

import faiss
import numpy as np

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.search.distances import recompute_distances
from fairseq.runtime.progress import Progress

BLOCK_BYTES = 1 << 26


def exact_neighbours(
    keys_ND: Array,
    queries_ND: Float32s,
    k: int,
    progress: Progress,
    *,
    inner_product: bool = False,
    forgotten: RowRanges | None = None,
) -> tuple[Float32s, Int64s]:
    """Returns distances and row ids ``[N, K]``, nearest first, of the ``k`` rows that are nearest to each query.

    Args:
        keys_ND: float32 or float16, every row of the datastore; none may hold NaN.
        queries_ND: float32.
        k: neighbours, no more than rows.
        progress: counts rows.
        inner_product: the distance is minus the inner product, instead of the squared L2 distance.
        forgotten: rows that are nobody's neighbours.
    """
    assert 0 < k <= len(keys_ND), (k, len(keys_ND))
    metric = faiss.METRIC_INNER_PRODUCT if inner_product else faiss.METRIC_L2
    step = max(BLOCK_BYTES // (4 * keys_ND.shape[1]), 1)
    best_NK = np.empty((len(queries_ND), 0), np.float32)
    ids_NK = np.empty((len(queries_ND), 0), np.int64)
    for start in range(0, len(keys_ND), step):
        block_ND = np.ascontiguousarray(keys_ND[start : start + step], dtype=np.float32)
        progress.advance(len(block_ND))
        row_N = np.arange(start, start + len(block_ND))
        if forgotten is not None and forgotten.num_rows:
            kept_N = ~forgotten.mask(start, start + len(block_ND))
            block_ND, row_N = np.ascontiguousarray(block_ND[kept_N]), row_N[kept_N]
        if not len(row_N):
            continue
        near_NK, found_NK = faiss.knn(queries_ND, block_ND, min(k, len(block_ND)), metric=metric)
        near_NK = -near_NK if inner_product else near_NK
        near_NK[found_NK < 0] = np.inf  # nothing comparable in the block
        candidates_NK = np.concatenate([best_NK, near_NK], axis=1)
        candidate_ids_NK = np.concatenate([ids_NK, np.where(found_NK < 0, -1, row_N[found_NK])], axis=1)
        order_NK = np.argsort(candidates_NK, axis=1, kind="stable")[:, :k]
        best_NK = np.take_along_axis(candidates_NK, order_NK, axis=1)
        ids_NK = np.take_along_axis(candidate_ids_NK, order_NK, axis=1)
    return best_NK, ids_NK


def recall_of(
    keys_ND: Array, queries_ND: Float32s, ids_NK: Int64s, exact_NK: Int64s, *, inner_product: bool = False
) -> float:
    """Returns the recall of a search: the share of the k nearest rows that it found, over all queries.

    A row that was found counts if it is one of the k nearest, or as near as the k-th of them: of rows that are equally
    far it does not matter which one is found. A row that was found twice counts once.

    Args:
        keys_ND: every row of the datastore.
        queries_ND: float32.
        ids_NK: what the search found, K at most; −1 for none.
        exact_NK: the k nearest, nearest first (``exact_neighbours``).
        inner_product: how near a row is: its inner product, instead of the squared L2 distance.
    """
    of_exact_NK = np.stack([np.isin(ids, exact) for ids, exact in zip(ids_NK, exact_NK, strict=True)])
    others_NK = np.where(of_exact_NK, -1, ids_NK)  # only these are read from the file
    bound_N = recompute_distances(keys_ND, queries_ND, exact_NK[:, -1:], inner_product=inner_product)
    near_NK = recompute_distances(keys_ND, queries_ND, others_NK, inner_product=inner_product) <= bound_N
    found_NK = np.where(of_exact_NK | near_NK, ids_NK, -1)
    return sum(len(np.unique(ids[ids >= 0])) for ids in found_NK) / exact_NK.size
