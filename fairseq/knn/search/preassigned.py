"""Searching inverted lists in two steps: which lists each query visits, then the rows of those lists.

    1  assign          the index's transforms, and each query's nearest centroids: in fixed blocks of queries
    2  search_lists    the k nearest rows of these lists, by FAISS

FAISS's distances to centroids, and with product codes those to rows, change in their last digits with the number of
queries that are searched together. In two steps they depend on the first one alone, which is the same for an index in
one file and for its shards: so a row is as far from a query in either.

The order of neighbours is by distance, and of rows that are equally far by row number. FAISS takes any of those where
there is no room for all; so it is asked for one row more, and for further ones as long as the last two are as far.

Legend: N queries · D key width · E width behind the index's transforms · P lists visited · K neighbours · M some
queries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.knn.index.faiss_index import inner_index
from fairseq.knn.search.distances import ties_by_id

# Queries that are assigned together.
ASSIGN_BLOCK = 1024


@dataclass(frozen=True)
class Assigned:
    """Queries, and the inverted lists that they visit.

    Attributes:
        moved_NE: the queries behind the index's transforms (OPQ, PCA); themselves without any.
        list_NP: lists, −1 for none.
        coarse_NP: distances to their centroids.
    """

    moved_NE: Float32s
    list_NP: Int64s
    coarse_NP: Float32s

    def of(self, queries_M: Int64s | slice) -> "Assigned":
        """Returns those of some queries."""
        return Assigned(
            np.ascontiguousarray(self.moved_NE[queries_M], np.float32),
            np.ascontiguousarray(self.list_NP[queries_M], np.int64),
            np.ascontiguousarray(self.coarse_NP[queries_M], np.float32),
        )


def inverted_file(index: Any) -> Any | None:
    """Returns the inverted file of an index, behind its transforms; None where its lists cannot be searched alone."""
    if not isinstance(index, faiss.Index):
        return None
    inner = inner_index(index)
    return inner if isinstance(inner, faiss.IndexIVF) else None


def assign(index: Any, queries_ND: Float32s, nprobe: int) -> Assigned:
    """Returns at most a block of queries with the lists that they visit.

    Args:
        index: an inverted file, behind transforms or not; it need not have any rows.
        queries_ND: float32, at most ``ASSIGN_BLOCK``, and as many wherever the same distances are wanted.
        nprobe: lists to visit; all if there are fewer.
    """
    assert len(queries_ND) <= ASSIGN_BLOCK, len(queries_ND)
    moved_NE = np.ascontiguousarray(queries_ND, np.float32)
    outer: Any = faiss.downcast_index(index)
    while isinstance(outer, faiss.IndexPreTransform):
        chain: Any = outer.chain
        for number in range(chain.size()):
            moved_NE = chain.at(number).apply(moved_NE)
        outer = faiss.downcast_index(outer.index)
    coarse_NP, list_NP = outer.quantizer.search(moved_NE, min(nprobe, outer.nlist))
    return Assigned(moved_NE, list_NP, coarse_NP)


def search_lists(inverted: Any, assigned: Assigned, k: int, wanted: Any = None) -> tuple[Float32s, Int64s]:
    """Returns the index's own distances and ids ``[N, K]``, by distance and then by id; −1 for none.

    Args:
        inverted: an inverted file, in memory or mapped.
        assigned: the queries.
        k: neighbours.
        wanted: FAISS's choice of ids; None for all.
    """
    parameters: Any = faiss.SearchParametersIVF
    how = parameters(nprobe=assigned.list_NP.shape[1], sel=wanted)
    sign = -1 if inverted.metric_type == faiss.METRIC_INNER_PRODUCT else 1

    def find(queries_M: Int64s | slice, most: int) -> tuple[Float32s, Int64s]:
        some = assigned.of(queries_M)
        near_MK = np.empty((len(some.list_NP), most), np.float32)
        ids_MK = np.empty(near_MK.shape, np.int64)
        given = (faiss.swig_ptr(array) for array in (some.list_NP, some.coarse_NP, near_MK, ids_MK))
        # FAISS's own function, since its Python takes no choice of ids.
        inverted.search_preassigned_c(len(near_MK), faiss.swig_ptr(some.moved_NE), most, *given, False, how)
        near_MK *= sign
        near_MK[ids_MK < 0] = np.inf
        return near_MK, ids_MK

    return in_order(find, k, int(inverted.ntotal))


def in_order(
    find: Callable[[Int64s | slice, int], tuple[Float32s, Int64s]], k: int, rows: int
) -> tuple[Float32s, Int64s]:
    """Returns distances and ids ``[N, K]`` of the k nearest by distance and then by id.

    Args:
        find: gives so many of some queries' nearest rows, by distance, those equally far in any order.
        k: neighbours.
        rows: of the index.
    """
    near_NK, ids_NK = find(slice(None), k + 1)
    _by_id(near_NK, ids_NK)
    open_M = np.flatnonzero((near_NK[:, k - 1] == near_NK[:, k]) & (ids_NK[:, k] >= 0))
    near_NK, ids_NK = near_NK[:, :k], ids_NK[:, :k]
    asked = k + 1
    while len(open_M):  # whose last rows are as far as others that were left out
        asked = min(2 * asked, rows)
        near_MK, ids_MK = find(open_M, asked)
        _by_id(near_MK, ids_MK)
        near_NK[open_M], ids_NK[open_M] = near_MK[:, :k], ids_MK[:, :k]
        is_open_M = (near_MK[:, k - 1] == near_MK[:, -1]) & (ids_MK[:, -1] >= 0)
        open_M = open_M[is_open_M] if asked < rows else open_M[:0]
    return near_NK, ids_NK


def _by_id(near_NK: Float32s, ids_NK: Int64s) -> None:
    """Orders rows that are equally far by their ids, in place."""
    place, order = ties_by_id(near_NK, ids_NK)
    np.put(ids_NK, place, ids_NK.take(place)[order])
