"""Searching an inverted file list by list: what is read of a list serves every query that visits it.

FAISS takes one query after the other and computes a distance at a time. Where thousands of queries visit a few thousand
lists, each list is visited by many, and its distances to all of them are one matrix product:

    1. each query's ``nprobe`` nearest centroids; its pairs (query, list) sorted by list
    2. list by list: decode its rows R; distances to its queries Q:  ‖q‖² + ‖r‖² − 2 Q Rᵀ
    3. query by query: the distances of its lists side by side, of which the k smallest are taken

With the stored keys at hand, step 2 does the same with them; step 3 still chooses by the index's distances and returns
the exact ones of what it chose, as a search and ``recompute_distances`` would, but each key is read once for all
queries. Queries and rows are taken relative to the centroids' mean, so that long vectors lose no digits.

It costs memory for the distances of a block of queries (128 MiB, twice that with keys), and pays where a list is
visited by several queries of a block; a large store with long lists is FAISS's. Worker threads share lists and
queries, one product a thread.

Legend: N queries · P lists visited by each · K neighbours · D key width · M queries of a list · R its rows.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq.knn.search import Floats, Ids, check_width

# Distances that are there at once: 4 bytes each, twice where exact ones are wanted.
MOST_DISTANCES = 1 << 25
# Queries of a block that visit a list, on average, from which on reading lists is cheaper than reading rows.
LEAST_VISITS = 8
# Queries whose nearest are chosen together: their distances stay in the cache.
CHOSEN_AT_ONCE = 128


@dataclass(frozen=True)
class _Visits:
    """Which queries visit which lists, and where their distances lie: one after the other, ordered by list.

    Attributes:
        probe_NP: lists of each query.
        query_V: queries of all visits, ordered by list.
        first_L: first visit of each list, and one more entry: all visits.
        place_L: first distance of each list, and one more entry: all distances.
        start_NP: first distance of each query's visit.
    """

    probe_NP: Ids
    query_V: Tensor
    first_L: list[int]
    place_L: list[int]
    start_NP: Ids


class ListSearch:
    """The inverted lists of an index, ready to be searched list by list.

    One search at a time; the index must not change meanwhile, since its memory is read in place.

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
        self.ids = [_view(lists.get_ids(number), size) for number, size in enumerate(sizes)]
        self.codes = [
            _view(lists.get_codes(number), size * inverted.code_size).reshape(size, inverted.code_size)
            for number, size in enumerate(sizes)
        ]
        self.all_ids = np.concatenate(self.ids)
        centroid_LD = torch.from_numpy(inverted.quantizer.reconstruct_n(0, inverted.nlist))
        self.mean_D = centroid_LD.mean(0)
        self.centroid_LD = centroid_LD - self.mean_D
        # ‖r‖² of the rows in the lists' order, of what the codes say and of the keys, once a row has been read.
        self.norm_N, self.exact_norm_N = (torch.full((len(self.all_ids),), torch.nan) for _ in range(2))
        self.buffers = [torch.empty(0), torch.empty(0)]
        self.threads = torch.get_num_threads()
        self.decode: Callable[[npt.NDArray[np.uint8]], Tensor] = _decoder(inverted, faiss)

    @staticmethod
    def pays(index: Any, num_queries: int) -> bool:
        """Returns whether to search so: the index can be (``supports``), and many queries visit each list."""
        if not ListSearch.supports(index):
            return False
        visits_a_query = min(index.nprobe, index.nlist)
        distances_a_query = visits_a_query * index.ntotal / index.nlist
        block = min(num_queries, MOST_DISTANCES / max(distances_a_query, 1.0))
        return bool(block * visits_a_query >= LEAST_VISITS * index.nlist)

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
            k: neighbours.
            keys_ND: every row of the datastore, float32 or float16, for exact distances; the index's own without.

        Raises:
            MismatchError: the queries have another width than the index.
        """
        check_width(self.inverted, queries_ND)
        near_NK = np.full((len(queries_ND), k), np.inf, np.float32)
        ids_NK = np.full((len(queries_ND), k), -1, np.int64)
        centred_ND = torch.from_numpy(queries_ND) - self.mean_D
        probe_NP = np.empty((len(queries_ND), min(self.inverted.nprobe, len(self.size_L))), np.int64)
        with ThreadPoolExecutor(self.threads, initializer=one_thread) as workers, OneThread():
            _run(workers, lambda part: self._nearest_lists(centred_ND, probe_NP, part), _slices(len(queries_ND)))
            distances_N = self.size_L[probe_NP].sum(1)
            for block in _blocks(distances_N):
                visits = self._visits(probe_NP[block])
                self._search_block(workers, centred_ND[block], visits, keys_ND, near_NK[block], ids_NK[block])
        near_NK += (centred_ND * centred_ND).sum(1, keepdim=True).numpy()
        return np.maximum(near_NK, 0, out=near_NK), ids_NK

    def _nearest_lists(self, centred_ND: Tensor, probe_NP: Ids, part: slice) -> None:
        norm_L = (self.centroid_LD * self.centroid_LD).sum(1)
        near_ML = torch.addmm(norm_L, centred_ND[part], self.centroid_LD.t(), alpha=-2).numpy()
        count = probe_NP.shape[1]
        probe_NP[part] = np.argpartition(near_ML, count - 1, axis=1)[:, :count]

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
        self, workers: ThreadPoolExecutor, centred_ND: Tensor, visits: _Visits, keys_ND: npt.NDArray[Any] | None,
        near_NK: Floats, ids_NK: Ids,
    ) -> None:  # fmt: skip
        own = self._buffer(0, visits.place_L[-1])
        exact = self._buffer(1, visits.place_L[-1]) if keys_ND is not None else own

        def of_list(number: int) -> None:
            first, last = visits.first_L[number], visits.first_L[number + 1]
            size = len(self.ids[number])
            if first == last or not size:
                return
            place = slice(visits.place_L[number], visits.place_L[number + 1])
            query_MD = centred_ND.index_select(0, visits.query_V[first:last])
            row_RD = self.decode(self.codes[number])
            row_RD += self.centroid_LD[number] if self.inverted.by_residual else -self.mean_D
            rows = slice(int(self.offset_L[number]), int(self.offset_L[number]) + size)
            _distances(query_MD, row_RD, _norms(row_RD, self.norm_N[rows]), own[place])
            if keys_ND is not None:
                row_RD = torch.from_numpy(keys_ND[self.ids[number]]).float().sub_(self.mean_D)
                _distances(query_MD, row_RD, _norms(row_RD, self.exact_norm_N[rows]), exact[place])

        def of_queries(part: slice) -> None:
            self._choose(visits, own.numpy(), exact.numpy(), part, near_NK, ids_NK)

        _run(workers, of_list, range(len(self.size_L)))
        _run(workers, of_queries, _slices(len(centred_ND)))

    def _buffer(self, number: int, count: int) -> Tensor:
        """Returns memory for ``count`` distances; fresh memory for every block would cost as much as filling it."""
        if len(self.buffers[number]) < count:
            self.buffers[number] = torch.empty(count)
        return self.buffers[number][:count]

    def _choose(self, visits: _Visits, own: Floats, exact: Floats, part: slice, near_NK: Floats, ids_NK: Ids) -> None:
        """Writes the nearest of some queries, by the index's distances."""
        probe_NP, start_NP = visits.probe_NP[part], visits.start_NP[part]
        sizes_NP = self.size_L[probe_NP]
        before_NP = np.cumsum(sizes_NP, axis=1)
        count_N = before_NP[:, -1].copy()
        before_NP -= sizes_NP
        distance_NC = np.full((len(count_N), int(count_N.max(initial=0))), np.inf, np.float32)
        visit_NC = np.zeros(distance_NC.shape, np.int16)
        visit_P = np.arange(sizes_NP.shape[1], dtype=np.int16)
        for n, (starts, sizes) in enumerate(zip(start_NP.tolist(), sizes_NP.tolist(), strict=True)):
            pieces = [own[start : start + size] for start, size in zip(starts, sizes, strict=True)]
            np.concatenate(pieces, out=distance_NC[n, : count_N[n]])
            visit_NC[n, : count_N[n]] = np.repeat(visit_P, sizes)
        k = min(ids_NK.shape[1], distance_NC.shape[1])
        if k == 0:
            return
        chosen_NK = np.argpartition(distance_NC, k - 1, axis=1)[:, :k]
        visit_NK = np.take_along_axis(visit_NC, chosen_NK, axis=1)
        visit_NK = visit_NK + np.arange(0, sizes_NP.size, sizes_NP.shape[1])[:, None]
        places_NK = (start_NP - before_NP).ravel()[visit_NK] + chosen_NK
        rows_NK = (self.offset_L[probe_NP] - before_NP).ravel()[visit_NK] + chosen_NK
        is_none_NK = chosen_NK >= count_N[:, None]
        near_NK[part, :k] = np.where(is_none_NK, np.inf, exact.take(places_NK, mode="clip"))
        ids_NK[part, :k] = np.where(is_none_NK, -1, self.all_ids.take(rows_NK, mode="clip"))


def _distances(query_MD: Tensor, row_RD: Tensor, norm_R: Tensor, out: Tensor) -> None:
    """Writes ‖r‖² − 2 q·r, query by query; ‖q‖² does not change a query's order."""
    torch.addmm(norm_R, query_MD, row_RD.t(), alpha=-2, out=out.view(len(query_MD), len(row_RD)))


def _norms(row_RD: Tensor, known_R: Tensor) -> Tensor:
    """Returns ‖r‖² of the rows of a list, computed when it is first read."""
    if known_R[0].isnan():
        torch.sum(row_RD * row_RD, 1, out=known_R)
    return known_R


def _decoder(inverted: Any, faiss: Any) -> Callable[[npt.NDArray[np.uint8]], Tensor]:
    if isinstance(inverted, faiss.IndexIVFFlat):
        return lambda codes: torch.from_numpy(codes.view(np.float32).copy())
    coder = inverted.pq if isinstance(inverted, faiss.IndexIVFPQ) else inverted.sq
    return lambda codes: torch.from_numpy(coder.decode(codes))


def _view(pointer: Any, count: int) -> npt.NDArray[Any]:
    import faiss

    return faiss.rev_swig_ptr(pointer, count) if count else np.empty(0, np.uint8)


def _slices(count: int) -> list[slice]:
    return [slice(start, min(start + CHOSEN_AT_ONCE, count)) for start in range(0, count, CHOSEN_AT_ONCE)]


def _blocks(distances_N: Ids) -> list[slice]:
    """Returns the queries in blocks of at most ``MOST_DISTANCES`` distances, or of one query."""
    blocks, start, total = [], 0, 0
    for n, count in enumerate(distances_N.tolist()):
        if n > start and total + count > MOST_DISTANCES:
            blocks.append(slice(start, n))
            start, total = n, 0
        total += count
    return [*blocks, slice(start, len(distances_N))]


def _run(workers: ThreadPoolExecutor, work: Callable[[Any], None], items: Iterable[Any]) -> None:
    for future in [workers.submit(work, item) for item in items]:
        future.result()


def one_thread() -> None:
    """In a worker: its products and FAISS's decoding use this thread only."""
    import faiss

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


class OneThread:
    """While it holds, a matrix product of any thread uses one thread."""

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)
