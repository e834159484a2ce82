"""Exact nearest neighbours by reading every key once: what an approximate index is measured against.

Keys come in blocks; of each block the k nearest of every query are found, and merged with the k nearest so far. Memory
is one block and 2·k candidates a query, whatever the size of the datastore.

Legend: N queries · K neighbours · D key width.
"""

import faiss
import numpy as np

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.knn.datastore.ranges import RowRanges
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
