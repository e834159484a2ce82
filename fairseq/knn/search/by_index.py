"""Neighbours as an index finds them: FAISS's own search.

Legend: N queries · K neighbours · D key width.
"""

from typing import Any

import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.errors import MismatchError


def search(index: Any, queries_ND: Float32s, k: int) -> tuple[Float32s, Int64s]:
    """Returns the index's own distances and ids, ``[N, K]``, nearest first.

    Raises:
        MismatchError: the queries have another width than the index.
    """
    import faiss

    check_width(index, queries_ND)
    if len(queries_ND) == 0:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    near_NK, ids_NK = index.search(np.ascontiguousarray(queries_ND, dtype=np.float32), k)
    distances_NK = -near_NK if index.metric_type == faiss.METRIC_INNER_PRODUCT else near_NK
    distances_NK[ids_NK < 0] = np.inf
    return distances_NK, ids_NK


def check_width(index: Any, queries_ND: Float32s) -> None:
    """Raises MismatchError for queries of another width than the index's."""
    if queries_ND.ndim != 2 or queries_ND.shape[1] != index.d:
        raise MismatchError(
            f"queries must be of shape (queries, {index.d}) for this index, but are {queries_ND.shape}; the model and"
            " the index do not belong together"
        )
