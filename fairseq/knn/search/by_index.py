"""Neighbours as an index finds them: FAISS's own search.

Legend: N queries · K neighbours · D key width.
"""

from functools import partial
from typing import Any

import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.errors import MismatchError
from fairseq.knn.index.faiss_index import inner_index
from fairseq.knn.index.without_rows import SelectingIndex, SkippingIndex
from fairseq.knn.search.list_blocks import slices
from fairseq.knn.search.preassigned import ASSIGN_BLOCK, assign, in_order, inverted_file, search_lists


def search(index: Any, queries_ND: Float32s, k: int) -> tuple[Float32s, Int64s]:
    """Returns the index's own distances and ids, ``[N, K]``, nearest first, those equally far by id; −1 for none.

    A graph returns those that are equally far as it comes upon them.

    Raises:
        MismatchError: the queries have another width than the index.
    """
    check_width(index, queries_ND)
    near_NK, ids_NK = np.empty((len(queries_ND), k), np.float32), np.empty((len(queries_ND), k), np.int64)
    whole, wanted = (index.index, index.selector) if isinstance(index, SelectingIndex) else (index, None)
    inverted = inverted_file(whole)
    for part in slices(len(queries_ND), ASSIGN_BLOCK if inverted is not None else max(len(queries_ND), 1)):
        query_ND = np.ascontiguousarray(queries_ND[part], dtype=np.float32)
        if inverted is not None:
            assigned = assign(whole, query_ND, inverted.nprobe)
            near_NK[part], ids_NK[part] = search_lists(inverted, assigned, k, wanted)
        elif _reads_all(index):
            find = partial(_found, index, query_ND)
            near_NK[part], ids_NK[part] = in_order(find, k, int(index.ntotal))
        else:
            near_NK[part], ids_NK[part] = _found(index, query_ND, slice(None), k)
    return near_NK, ids_NK


def _found(index: Any, query_ND: Float32s, queries_M: Int64s | slice, k: int) -> tuple[Float32s, Int64s]:
    import faiss

    near_MK, ids_MK = index.search(np.ascontiguousarray(query_ND[queries_M]), k)
    distances_MK = -near_MK if index.metric_type == faiss.METRIC_INNER_PRODUCT else near_MK
    distances_MK[ids_MK < 0] = np.inf
    return distances_MK, ids_MK


def _reads_all(index: Any) -> bool:
    """Returns whether a search compares every row, so that it finds the same ones whatever k is."""
    import faiss

    whole = index.index if isinstance(index, SkippingIndex) else index
    return isinstance(whole, faiss.Index) and isinstance(inner_index(whole), faiss.IndexFlatCodes)


def check_width(index: Any, queries_ND: Float32s) -> None:
    """Raises MismatchError for queries of another width than the index's."""
    if queries_ND.ndim != 2 or queries_ND.shape[1] != index.d:
        raise MismatchError(
            f"queries must be of shape (queries, {index.d}) for this index, but are {queries_ND.shape}; the model and"
            " the index do not belong together"
        )
