"""Neighbours as an index finds them: FAISS's own search.

Legend: N queries · K neighbours · D key width.
"""

from typing import Any

import faiss
import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.errors import MismatchError
from fairseq.knn.index.faiss_index import inner_index
from fairseq.knn.index.without_rows import SelectingIndex, SkippingIndex, forgetful
from fairseq.knn.search.equally_far import Scan, in_order, rows_within
from fairseq.knn.search.list_blocks import slices
from fairseq.knn.search.preassigned import ASSIGN_BLOCK, assign, inverted_file, search_lists


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
            near_NK[part], ids_NK[part] = in_order(_RowScan(index, query_ND), k, int(index.ntotal))
        else:
            near_NK[part], ids_NK[part] = _RowScan(index, query_ND).nearest(slice(None), k)
    return near_NK, ids_NK


class _RowScan(Scan):
    """FAISS's search of an index of any kind; all rows within a radius are told where it compares every row."""

    # Distances of one query and of many, of nearest rows and of those within a radius, differ by less than this
    # share of ‖q‖² and of themselves.
    DIGITS = 1e-5

    def __init__(self, index: Any, query_ND: Float32s) -> None:
        self.index, self.query_ND = index, query_ND
        self.sign = -1 if index.metric_type == faiss.METRIC_INNER_PRODUCT else 1

    def nearest(self, queries_M: Int64s | slice, k: int) -> tuple[Float32s, Int64s]:
        """Returns distances and ids ``[M, K]`` of some queries' nearest rows, by distance; −1 for none."""
        near_MK, ids_MK = self.index.search(np.ascontiguousarray(self.query_ND[queries_M]), k)
        near_MK *= self.sign
        near_MK[ids_MK < 0] = np.inf
        return near_MK, ids_MK

    def within(self, query: int, bound: np.float32) -> tuple[Float32s, Int64s] | None:
        """Returns the rows of a query that are no farther than a bound, and some more; None for other kinds."""
        whole, forgotten = forgetful(self.index)
        if not isinstance(inner_index(whole), faiss.IndexFlat):  # of codes it takes a hundred times as long as a search
            return None
        query_1D = self.query_ND[query : query + 1]
        slack = self.DIGITS * (abs(bound) + np.square(query_1D).sum())
        radius, query_D = self.sign * float(bound + slack), faiss.swig_ptr(query_1D)
        near_R, ids_R = rows_within(lambda found: whole.range_search_c(1, query_D, radius, found))
        is_left_R = ~forgotten.holds(ids_R)
        return self.sign * near_R[is_left_R], ids_R[is_left_R]


def _reads_all(index: Any) -> bool:
    """Returns whether a search compares every row, so that it finds the same ones whatever k is."""
    whole = index.index if isinstance(index, SkippingIndex) else index
    return isinstance(whole, faiss.Index) and isinstance(inner_index(whole), faiss.IndexFlatCodes)


def check_width(index: Any, queries_ND: Float32s) -> None:
    """Raises MismatchError for queries of another width than the index's."""
    if queries_ND.ndim != 2 or queries_ND.shape[1] != index.d:
        raise MismatchError(
            f"queries must be of shape (queries, {index.d}) for this index, but are {queries_ND.shape}; the model and"
            " the index do not belong together"
        )
