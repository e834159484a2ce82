"""Searching an inverted file list by list: what is read of a list serves every query that visits it.

FAISS takes one query after the other and computes a distance at a time. Where thousands of queries visit a few thousand
lists, each list is visited by many, and its distances to all of them are one matrix product:

    1. each query's ``nprobe`` nearest centroids; its pairs (query, list) sorted by list
    2. list by list: decode its rows R; distances to its queries Q:  ‖q‖² + ‖r‖² − 2 q·r, all products by Q Rᵀ
    3. query by query: the distances of its lists side by side, of which the k smallest are taken

With the stored keys at hand, step 2 does the same with them; step 3 still chooses by the index's distances and returns
the exact ones of what it chose, as a search and ``recompute_distances`` would, but each key is read once for all
queries. Queries and rows are taken relative to their list's centroid: the sum loses digits where they are long beside
their distance, and lists may lie far from each other.

It costs memory for the distances of a block of queries (256 MiB, twice that with keys) and some 100 MiB a thread,
whatever the lengths of the lists, and pays where a list is visited by many queries of a block; a large store with
long lists is FAISS's. Worker threads share lists and queries, one product a thread.

Legend: N queries · P lists visited by each · K neighbours · D key width · M queries of a list · R its rows.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq.knn.search import Floats, Ids, check_width, smallest
from fairseq.knn.workers import run_all, worker_threads
from fairseq.resources import share_of_memory

# Distances that are there at once, 4 bytes each, twice where exact ones are wanted; fewer where memory is short.
MOST_DISTANCES = 1 << 26
# Queries of a block that visit a list, on average, from which on reading lists is cheaper than reading rows.
LEAST_VISITS = 8
# Of product codes: what it costs to decode a number of a row, and to multiply one, in bytes of a code that FAISS looks
# up meanwhile. With 1,024 numbers in 64 bytes it takes 100 visits until decoding a list has paid.
DECODE_COST, PRODUCT_COST = 3.4, 0.029
# Queries whose nearest are chosen together: their distances stay in the cache; at most so many, of 9 bytes each.
CHOSEN_AT_ONCE = 128
MOST_CHOSEN_FROM = 1 << 22
# Pairs (query, list) that are sorted at once, some 50 bytes each.
MOST_VISITS = 1 << 20
# Numbers of rows that are decoded at once, 4 bytes each, twice where the keys are read too.
MOST_DECODED = 1 << 22


@dataclass(frozen=True)
class _Visits:
    """Which queries visit which lists, and where their distances lie: one after the other, ordered by list."""

    probe_NP: Ids  # lists of each query
    query_V: Tensor  # queries of all visits, ordered by list
    first_L: list[int]  # first visit of each list, and one more entry: all visits
    place_L: list[int]  # first distance of each list, and one more entry: all distances
    start_NP: Ids  # first distance of each query's visit


class ListSearch:
    """The inverted lists of an index, ready to be searched list by list.

    Threads that search at the same time take turns. The index must not change, since its memory is read in place.

    Args:
        inverted: an ``IndexIVFFlat``, ``IndexIVFScalarQuantizer`` or ``IndexIVFPQ`` of metric L2 (see ``supports``).
    """

    def __init__(self, inverted: Any) -> None:
        import faiss

        self.inverted = inverted
        lists = inverted.invlists
        sizes = [lists.list_size(number) for number in range(inverted.nlist)]
        self.size_L = np.array(sizes, np.int64)
        self.offset_L = np.cumsum(self.size_L) - self.size_L
        self.ids = [_view(lists.get_ids(number), size, faiss) for number, size in enumerate(sizes)]
        self.codes = [
            _view(lists.get_codes(number), size * inverted.code_size, faiss).reshape(size, inverted.code_size)
            for number, size in enumerate(sizes)
        ]
        self.all_ids = np.concatenate(self.ids)
        self.centroid_LD = torch.from_numpy(inverted.quantizer.reconstruct_n(0, inverted.nlist))
        self.mean_D = self.centroid_LD.mean(0)
        # ‖r‖² of the rows in the lists' order, of what the codes say and of the keys, once a row has been read.
        self.norm_N, self.exact_norm_N = (torch.full((len(self.all_ids),), torch.nan) for _ in range(2))
        self.buffers = [torch.empty(0), torch.empty(0)]
        self.threads = torch.get_num_threads()
        self._turn = threading.Lock()
        self.decode: Callable[[npt.NDArray[np.uint8]], Tensor] = _decoder(inverted, faiss)

    @staticmethod
    def pays(index: Any, num_queries: int) -> bool:
        """Returns whether to search so: the index can be (``supports``), and many queries visit each list."""
        if not num_queries or not ListSearch.supports(index):
            return False
        visits_a_query = min(index.nprobe, index.nlist)
        distances_a_query = visits_a_query * index.ntotal / index.nlist
        block = min(num_queries, _most_distances() / max(distances_a_query, 1.0), MOST_VISITS // visits_a_query)
        return bool(block * visits_a_query >= _least_visits(index) * index.nlist)

    @staticmethod
    def supports(index: Any) -> bool:
        """Returns whether an index can be searched so: an inverted file in memory, of codes that decode to vectors."""
        import faiss

        kinds = (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ)
        return (
            type(index) in kinds
            and index.metric_type == faiss.METRIC_L2
            and index.nprobe <= np.iinfo(np.int16).max
            and isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat)
            and isinstance(faiss.downcast_InvertedLists(index.invlists), faiss.ArrayInvertedLists)
        )

    def search(self, queries_ND: Floats, k: int, keys_ND: npt.NDArray[Any] | None = None) -> tuple[Floats, Ids]:
        """Returns distances and ids ``[N, K]`` of the neighbours that the index finds, in no order; −1 for none.

        Args:
            queries_ND: float32.
            k: at least 0.
            keys_ND: every row of the datastore, float32 or float16, for exact distances; the index's own without.

        Raises:
            MismatchError: the queries have another width than the index.
        """
        check_width(self.inverted, queries_ND)
        near_NK = np.full((len(queries_ND), k), np.inf, np.float32)
        ids_NK = np.full((len(queries_ND), k), -1, np.int64)
        at_once = max(MOST_VISITS // min(self.inverted.nprobe, len(self.size_L)), 1)
        with self._turn, worker_threads(self.threads) as workers:
            for part in _slices(len(queries_ND), at_once):
                query_ND = torch.from_numpy(np.array(queries_ND[part], np.float32))
                probe_NP = self._nearest_lists(workers, query_ND)
                for block in _blocks(self.size_L[probe_NP].sum(1)):
                    found = near_NK[part][block], ids_NK[part][block]
                    self._search_block(workers, query_ND[block], self._visits(probe_NP[block]), keys_ND, *found)
        return near_NK, ids_NK

    def _nearest_lists(self, workers: ThreadPoolExecutor, query_ND: Tensor) -> Ids:
        centred_ND, centred_LD = query_ND - self.mean_D, self.centroid_LD - self.mean_D
        norm_L = (centred_LD * centred_LD).sum(1)
        probe_NP = np.empty((len(query_ND), min(self.inverted.nprobe, len(self.size_L))), np.int64)

        def of_queries(part: slice) -> None:
            near_ML = torch.addmm(norm_L, centred_ND[part], centred_LD.t(), alpha=-2).numpy()
            count = probe_NP.shape[1]
            probe_NP[part] = (np.flatnonzero(smallest(near_ML, count)) % near_ML.shape[1]).reshape(-1, count)

        run_all(workers, of_queries, _slices(len(query_ND), CHOSEN_AT_ONCE))
        return probe_NP

    def _visits(self, probe_NP: Ids) -> _Visits:
        lists_V = probe_NP.ravel()
        order_V = np.argsort(lists_V.astype(np.uint16) if len(self.size_L) < 1 << 16 else lists_V, kind="stable")
        lists_V = lists_V[order_V]
        ends_V = np.cumsum(self.size_L[lists_V])
        start_NP = np.empty_like(probe_NP)
        start_NP.ravel()[order_V] = ends_V - self.size_L[lists_V]
        first_L = np.searchsorted(lists_V, np.arange(len(self.size_L) + 1))
        place_L = np.concatenate([[0], ends_V])[first_L]
        query_V = torch.from_numpy(order_V // probe_NP.shape[1])
        return _Visits(probe_NP, query_V, first_L.tolist(), place_L.tolist(), start_NP)

    def _search_block(
        self, workers: ThreadPoolExecutor, query_ND: Tensor, visits: _Visits, keys_ND: npt.NDArray[Any] | None,
        near_NK: Floats, ids_NK: Ids,
    ) -> None:  # fmt: skip
        own = self._buffer(0, visits.place_L[-1])
        exact = self._buffer(1, visits.place_L[-1] if keys_ND is not None else 0)

        def of_list(number: int) -> None:
            first, last = visits.first_L[number], visits.first_L[number + 1]
            size = len(self.ids[number])
            place = slice(visits.place_L[number], visits.place_L[number + 1])
            if place.start == place.stop:
                return
            query_MD = query_ND.index_select(0, visits.query_V[first:last]).sub_(self.centroid_LD[number])
            for rows in _slices(size, max(MOST_DECODED // query_MD.shape[1], 1)):
                row_RD = self.decode(self.codes[number][rows])
                if not self.inverted.by_residual:
                    row_RD -= self.centroid_LD[number]
                known = slice(self.offset_L[number] + rows.start, self.offset_L[number] + rows.stop)
                _distances(query_MD, row_RD, _norms(row_RD, self.norm_N[known]), own[place].view(-1, size)[:, rows])
                if keys_ND is not None:
                    row_RD = torch.from_numpy(np.take(keys_ND, self.ids[number][rows], axis=0)).float()
                    row_RD -= self.centroid_LD[number]
                    norm_R, out_MR = _norms(row_RD, self.exact_norm_N[known]), exact[place].view(-1, size)[:, rows]
                    _distances(query_MD, row_RD, norm_R, out_MR)

        run_all(workers, of_list, range(len(self.size_L)))
        choose = partial(
            self._choose, visits, own.numpy(), exact.numpy() if keys_ND is not None else None, near_NK, ids_NK
        )
        run_all(workers, choose, _chosen_together(self.size_L[visits.probe_NP].sum(1)))

    def _buffer(self, number: int, count: int) -> Tensor:
        """Returns memory for ``count`` distances; fresh memory for every block would cost as much as filling it."""
        if len(self.buffers[number]) < count:
            self.buffers[number] = torch.empty(count)
        return self.buffers[number][:count]

    def _choose(
        self, visits: _Visits, own: Floats, exact: Floats | None, near_NK: Floats, ids_NK: Ids, part: slice
    ) -> None:
        """Writes the nearest of some queries, by the index's distances."""
        probe_NP, start_NP = visits.probe_NP[part], visits.start_NP[part]
        sizes_NP = self.size_L[probe_NP]
        column_NP = np.cumsum(sizes_NP, axis=1)
        count_N, column_NP = column_NP[:, -1], column_NP - sizes_NP
        width = int(count_N.max(initial=0))
        if (k := min(ids_NK.shape[1], width)) == 0:
            return
        distance_NC = np.full((len(count_N), width), np.inf, np.float32)
        for n, (starts, sizes) in enumerate(zip(start_NP.tolist(), sizes_NP.tolist(), strict=True)):
            pieces = [own[start : start + size] for start, size in zip(starts, sizes, strict=True)]
            np.concatenate(pieces, out=distance_NC[n, : count_N[n]])
        # Places in distance_NC, read row by row; from there to the visits' distances and to the rows of their lists.
        chosen_M = np.flatnonzero(smallest(distance_NC, k))
        first_V = (np.arange(len(count_N))[:, None] * width + column_NP).ravel()
        chosen_V = np.diff(np.searchsorted(chosen_M, first_V), append=len(chosen_M))
        row_M = chosen_M + np.repeat(self.offset_L[probe_NP].ravel() - first_V, chosen_V)
        near_M = own_M = distance_NC.take(chosen_M)
        if exact is not None:
            near_M = exact.take(chosen_M + np.repeat(start_NP.ravel() - first_V, chosen_V), mode="clip")
        near_NK[part, :k] = np.maximum(near_M, 0).reshape(-1, k)
        ids_NK[part, :k] = self.all_ids.take(row_M, mode="clip").reshape(-1, k)
        # What is not finite is no neighbour, as FAISS has it; nor is what a query's row was filled up with.
        is_none_NK = ~np.isfinite(own_M).reshape(-1, k)
        near_NK[part, :k][is_none_NK] = np.inf
        ids_NK[part, :k][is_none_NK] = -1


def _distances(query_MD: Tensor, row_RD: Tensor, norm_R: Tensor, out_MR: Tensor) -> None:
    """Writes ‖q‖² + ‖r‖² − 2 q·r, which rounding may leave below 0."""
    torch.add((query_MD * query_MD).sum(1, keepdim=True), norm_R, out=out_MR)
    torch.addmm(out_MR, query_MD, row_RD.t(), alpha=-2, out=out_MR)


def _norms(row_RD: Tensor, known_R: Tensor) -> Tensor:
    """Returns ‖r‖² of the rows of a list, computed when it is first read."""
    if known_R[0].isnan():
        torch.sum(row_RD * row_RD, 1, out=known_R)
    return known_R


def _decoder(inverted: Any, faiss: Any) -> Callable[[npt.NDArray[np.uint8]], Tensor]:
    if isinstance(inverted, faiss.IndexIVFFlat):
        return lambda codes: torch.tensor(codes.view(np.float32))
    coder = inverted.pq if isinstance(inverted, faiss.IndexIVFPQ) else inverted.sq
    return lambda codes: torch.from_numpy(coder.decode(codes))


def _view(pointer: Any, count: int, faiss: Any) -> npt.NDArray[Any]:
    return faiss.rev_swig_ptr(pointer, count) if count else np.empty(0, np.uint8)


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _least_visits(index: Any) -> float:
    """Returns how many queries must visit a list: FAISS looks codes up for each, here rows are decoded once for all."""
    if not hasattr(index, "pq"):
        return LEAST_VISITS
    saved = index.pq.M - PRODUCT_COST * index.d
    return max(DECODE_COST * index.d / saved, LEAST_VISITS) if saved > 0 else float("inf")


def _most_distances() -> int:
    """Returns how many distances may be there at once: an eighth of the free memory, and as much for exact ones."""
    return share_of_memory(8, 4 * MOST_DISTANCES) // 4


def _blocks(distances_N: Ids) -> list[slice]:
    """Returns the queries in blocks of at most so many distances, or of one query."""
    blocks, start, total, most = [], 0, 0, _most_distances()
    for n, count in enumerate(distances_N.tolist()):
        if n > start and total + count > most:
            blocks.append(slice(start, n))
            start, total = n, 0
        total += count
    return [*blocks, slice(start, len(distances_N))]


def _chosen_together(distances_N: Ids) -> list[slice]:
    """Returns the queries in parts that, each filled up to its longest, are not too large; or of one query."""
    parts, start, longest = [], 0, 0
    for n, count in enumerate(distances_N.tolist()):
        longest = max(longest, count)
        if n > start and (n - start == CHOSEN_AT_ONCE or (n - start + 1) * longest > MOST_CHOSEN_FROM):
            parts.append(slice(start, n))
            start, longest = n, count
    return [*parts, slice(start, len(distances_N))]
