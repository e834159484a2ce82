"""The order of neighbours: by distance, and of rows that are equally far by row number.

FAISS takes any of the rows that are equally far where there is no room for all. So it is asked for one row more; a
query is open if the last two are as far as each other. Of each open query, all rows that are as near as its k-th are
read, of which the first are taken: one further scan of its lists, and memory for the rows of one query a thread.

They are many where text repeats: with ``--sample-break-mode eos`` the first key of every sentence is the same one.

Legend: N queries · K neighbours · M some queries · R rows that are near enough.
"""

from collections.abc import Callable
from typing import Any, Protocol

import faiss
import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.knn.search.distances import smallest, ties_by_id
from fairseq.knn.threads import run_all, worker_threads


class Scan(Protocol):
    """A search of some queries, of which each can be searched alone as well."""

    def nearest(self, queries_M: Int64s | slice, k: int) -> tuple[Float32s, Int64s]:
        """Returns distances and ids ``[M, K]`` of some queries' nearest rows, by distance; −1 for none."""
        ...

    def within(self, query: int, bound: np.float32) -> tuple[Float32s, Int64s] | None:
        """Returns all rows of a query that are no farther than a bound, and perhaps more, ``[R]``; None if it cannot.

        The distances may be others than those of ``nearest`` in their last digits.
        """
        ...


def in_order(scan: Scan, k: int, rows: int) -> tuple[Float32s, Int64s]:
    """Returns distances and ids ``[N, K]`` of the k nearest by distance and then by id.

    Args:
        scan: of the queries.
        k: neighbours.
        rows: of the index.
    """
    near_NK, ids_NK = scan.nearest(slice(None), k + 1)
    _by_id(near_NK, ids_NK)
    open_M = np.flatnonzero((near_NK[:, k - 1] == near_NK[:, k]) & (ids_NK[:, k] >= 0))
    near_NK, ids_NK = near_NK[:, :k], ids_NK[:, :k]

    def finish(query: int) -> None:
        near_K, ids_K = _first_rows(scan, query, near_NK[query, -1], k) or _asked_for_more(scan, query, k, rows)
        near_NK[query], ids_NK[query] = near_K, ids_K

    if len(open_M):
        with worker_threads() as workers:
            run_all(workers, finish, open_M.tolist())
    return near_NK, ids_NK


def rows_within(search: Callable[[Any], None]) -> tuple[Float32s, Int64s]:
    """Returns what a range search of FAISS's finds of one query.

    Args:
        search: fills FAISS's result.
    """
    found = faiss.RangeSearchResult(1)
    search(found)
    count = int(faiss.rev_swig_ptr(found.lims, 2)[1])
    near_R, ids_R = (faiss.rev_swig_ptr(numbers, count).copy() for numbers in (found.distances, found.labels))
    return near_R, ids_R


def _first_rows(scan: Scan, query: int, bound: np.float32, k: int) -> tuple[Float32s, Int64s] | None:
    """Returns the k nearest of a query by distance and id; None where the rows up to a bound do not tell."""
    within = scan.within(query, bound)
    if within is None or len(within[0]) < k:
        return None
    near_R, ids_R = within
    place_K = smallest(near_R[None], k, lambda _, places: ids_R[places])[0]
    place_K = place_K[np.lexsort((ids_R[place_K], near_R[place_K]))]
    return near_R[place_K], ids_R[place_K]


def _asked_for_more(scan: Scan, query: int, k: int, rows: int) -> tuple[Float32s, Int64s]:
    """Returns the k nearest of a query by asking for more of them until the last is farther than the k-th."""
    asked, is_open = k + 1, True
    while is_open:
        asked = min(8 * asked, rows)
        near_1K, ids_1K = scan.nearest(np.array([query]), asked)
        is_open = bool(near_1K[0, k - 1] == near_1K[0, -1] and ids_1K[0, -1] >= 0) and asked < rows
    _by_id(near_1K, ids_1K)
    return near_1K[0, :k], ids_1K[0, :k]


def _by_id(near_NK: Float32s, ids_NK: Int64s) -> None:
    """Orders rows that are equally far by their ids, in place."""
    place, order = ties_by_id(near_NK, ids_NK)
    np.put(ids_NK, place, ids_NK.take(place)[order])
