"""Searching inverted lists in two steps: which lists each query visits, then the rows of those lists.

    1  assign          the index's transforms, and each query's nearest centroids: in fixed blocks of queries
    2  search_lists    the k nearest rows of these lists, by FAISS

FAISS's distances to centroids, and with product codes those to rows, change in their last digits with the number of
queries that are searched together. In two steps they depend on the first one alone, which is the same for an index in
one file and for its shards: so a row is as far from a query in either.

Rows that are equally far come by number (equally_far.py).

Legend: N queries · D key width · E width behind the index's transforms · P lists visited · K neighbours · M some
queries.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.knn.index.faiss_index import inner_index, transformed
from fairseq.knn.search.equally_far import Scan, in_order, rows_within

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
    inverted = inner_index(index)
    moved_NE = transformed(index, np.ascontiguousarray(queries_ND, np.float32))
    coarse_NP, list_NP = inverted.quantizer.search(moved_NE, min(nprobe, inverted.nlist))
    return Assigned(moved_NE, list_NP, coarse_NP)


def search_lists(inverted: Any, assigned: Assigned, k: int, wanted: Any = None) -> tuple[Float32s, Int64s]:
    """Returns the index's own distances and ids ``[N, K]``, by distance and then by id; −1 for none.

    Args:
        inverted: an inverted file, in memory or mapped.
        assigned: the queries.
        k: neighbours.
        wanted: FAISS's choice of ids; None for all.
    """
    return in_order(_ListScan(inverted, assigned, wanted), k, int(inverted.ntotal))


class _ListScan(Scan):
    """FAISS's search of the lists that queries visit, by its own functions, since its Python takes no choice of ids."""

    # Of these, a search within a radius computes distances as the other one does, to the last digit.
    KINDS = (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ)

    def __init__(self, inverted: Any, assigned: Assigned, wanted: Any) -> None:
        self.inverted, self.assigned = inverted, assigned
        parameters: Any = faiss.SearchParametersIVF
        self.parameters = parameters(nprobe=assigned.list_NP.shape[1], sel=wanted)
        self.sign = -1 if inverted.metric_type == faiss.METRIC_INNER_PRODUCT else 1

    def nearest(self, queries_M: Int64s | slice, k: int) -> tuple[Float32s, Int64s]:
        """Returns distances and ids ``[M, K]`` of some queries' nearest rows, by distance; −1 for none."""
        some = self.assigned.of(queries_M)
        near_MK, ids_MK = np.empty((len(some.list_NP), k), np.float32), np.empty((len(some.list_NP), k), np.int64)
        given = (faiss.swig_ptr(array) for array in (some.list_NP, some.coarse_NP, near_MK, ids_MK))
        query_ME = faiss.swig_ptr(some.moved_NE)
        self.inverted.search_preassigned_c(len(near_MK), query_ME, k, *given, False, self.parameters)
        near_MK *= self.sign
        near_MK[ids_MK < 0] = np.inf
        return near_MK, ids_MK

    def within(self, query: int, bound: np.float32) -> tuple[Float32s, Int64s] | None:
        """Returns the rows of a query that are no farther than a bound, ``[R]``; None for other kinds of codes."""
        if type(self.inverted) not in self.KINDS:
            return None
        some = self.assigned.of(slice(query, query + 1))
        radius = self.sign * float(np.nextafter(bound, np.float32(np.inf)))  # rows at the radius itself are left out
        pointers = (faiss.swig_ptr(array) for array in (some.list_NP, some.coarse_NP))
        query_E = faiss.swig_ptr(some.moved_NE)

        def search(found: Any) -> None:
            self.inverted.range_search_preassigned_c(1, query_E, radius, *pointers, found, False, self.parameters)

        near_R, ids_R = rows_within(search)
        return self.sign * near_R, ids_R
