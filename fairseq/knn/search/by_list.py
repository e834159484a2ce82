"""Searching an inverted file list by list: what is read of a list serves every query that visits it.

FAISS takes one query after the other and computes a distance at a time. Where thousands of queries visit a few thousand
lists, each list is visited by many, and its distances to all of them are one matrix product:

    1. each query's ``nprobe`` nearest centroids; its pairs (query, list) sorted by list
    2. a few lists at a time: decode their rows; list by list the distances of its rows R to its queries Q:
       ‖q‖² + ‖r‖² − 2 q·r, all products by Q Rᵀ
    3. a few queries at a time: the distances of each one's lists side by side, of which the k smallest are taken

With the stored keys at hand, step 2 does the same with them; step 3 still chooses by the index's distances and returns
the exact ones of what it chose, as a search and ``recompute_distances`` would, but each key is read once for all
queries. Queries and rows are taken relative to their list's centroid, since the sum loses digits where they are long
beside their distance. Rows that are far from their own centroid all the same are compared number by number
(list_rows.py); where they are many, FAISS searches instead (``rows_are_near``).

It costs memory for the distances of a block of queries (512 MiB, twice that with keys) and some 70 MiB a thread, and
pays where a list is visited by many queries of a block. Worker threads share lists and queries, one product a thread;
between two products a thread makes few calls, each for several lists or queries, since Python runs one at a time.

Legend: N queries · P lists visited by each · K neighbours · D key width · M queries of a list, or chosen together ·
S rows of a few lists, each list's padded to whole blocks · B blocks of distances.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.knn.search.by_index import check_width
from fairseq.knn.search.distances import smallest
from fairseq.knn.search.list_blocks import BLOCK, Group, Visits, groups_of, ranges, slices
from fairseq.knn.search.list_rows import GroupRows, ListRows
from fairseq.knn.threads import run_all, worker_threads
from fairseq.runtime.resources import share_of_memory

# Distances that are there at once, 4 bytes each, twice where exact ones are wanted; fewer where memory is short.
MOST_DISTANCES = 1 << 27
# Queries of a block that visit a list, on average, from which on reading lists is cheaper than reading rows.
LEAST_VISITS = 8
# Of product codes: what it costs to decode a number of a row, and to multiply one, in bytes of a code that FAISS looks
# up meanwhile. With 1,024 numbers in 64 bytes it takes 100 visits until decoding a list has paid.
DECODE_COST, PRODUCT_COST = 3.4, 0.029
# Queries whose nearest are chosen together: their distances stay in the cache; at most so many, of 9 bytes each.
CHOSEN_AT_ONCE = 64
MOST_CHOSEN_FROM = 1 << 22
# Pairs (query, list) that are sorted at once, some 50 bytes each.
MOST_VISITS = 1 << 20
# Numbers of rows that are decoded at once, of several lists or of a part of one, and of queries that meet them at once.
MOST_DECODED, MOST_COPIED = 1 << 19, 1 << 22


class ListSearch:
    """The inverted lists of an index, ready to be searched list by list.

    Threads that search at the same time take turns. The index must not change, since its memory is read in place.

    Args:
        inverted: an ``IndexIVFFlat``, ``IndexIVFScalarQuantizer`` or ``IndexIVFPQ`` of metric L2 (see ``supports``).
        rows: of its lists, where these are not in memory.
    """

    # Lists whose rows can be read where they lie.
    LISTS: tuple[type, ...] = (faiss.ArrayInvertedLists,)

    def __init__(self, inverted: Any, rows: ListRows | None = None) -> None:
        self.inverted, self.rows = inverted, rows if rows is not None else ListRows(inverted)
        self.blocks_L, self.start_L = self.rows.blocks_L, self.rows.start_L
        self.groups = groups_of(self.blocks_L, max(MOST_DECODED // inverted.d // BLOCK, 1))
        self.centroid_LD = self.rows.centroid_LD
        self.mean_D = self.centroid_LD.mean(0)
        self.buffers = [torch.empty(0), torch.empty(0)]

    @cached_property
    def rows_are_near(self) -> bool:
        """Whether rows lie near their centroids, by a sample: others are right as well, but take longer."""
        numbers = np.flatnonzero(self.blocks_L)
        return self.rows.are_near(numbers[:: max(len(numbers) * self.inverted.d // MOST_DECODED, 1)])

    @classmethod
    def pays(cls, index: Any, num_queries: int) -> bool:
        """Returns whether to search so: the index can be (``supports``), and many queries visit each list."""
        if not num_queries or not cls.supports(index):
            return False
        visits_a_query = min(index.nprobe, index.nlist)
        distances_a_query = visits_a_query * index.ntotal / index.nlist
        block = min(num_queries, most_distances() / max(distances_a_query, 1.0), MOST_VISITS // visits_a_query)
        return bool(block * visits_a_query >= least_visits(index) * index.nlist)

    @classmethod
    def supports(cls, index: Any) -> bool:
        """Returns whether an index can be searched so: an inverted file in memory, of codes that decode to vectors."""
        kinds = (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ)
        return (
            type(index) in kinds
            and index.metric_type == faiss.METRIC_L2
            and index.nprobe <= np.iinfo(np.int16).max
            and isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat)
            and isinstance(faiss.downcast_InvertedLists(index.invlists), cls.LISTS)
        )

    def search(self, queries_ND: Float32s, k: int, keys_ND: Array | None = None) -> tuple[Float32s, Int64s]:
        """Returns distances and ids ``[N, K]`` of the neighbours that the index finds, in no order; −1 for none.

        Args:
            queries_ND: float32.
            k: at least 0.
            keys_ND: every row of the datastore, float32 or float16, for exact distances; the index's own without.

        Raises:
            MismatchError: the queries have another width than the index.
        """
        check_width(self.inverted, queries_ND)
        near_NK = np.empty((len(queries_ND), k), np.float32)
        ids_NK = np.empty((len(queries_ND), k), np.int64)
        at_once = max(MOST_VISITS // min(self.inverted.nprobe, self.inverted.nlist), 1)
        with worker_threads() as workers:  # the only ones: the buffers are theirs
            for part in slices(len(queries_ND), at_once):
                query_ND = torch.from_numpy(np.array(queries_ND[part], np.float32))
                probe_NP = self._nearest_lists(workers, query_ND)
                for block in parts_of(self.blocks_L[probe_NP].sum(1)):
                    visits = Visits.of(probe_NP[block], self.blocks_L)
                    results = near_NK[part][block], ids_NK[part][block]
                    self._search_block(workers, query_ND[block], visits, self.groups, keys_ND, *results)
        return near_NK, ids_NK

    def _nearest_lists(self, workers: ThreadPoolExecutor, query_ND: Tensor) -> Int64s:
        centred_LD = self.centroid_LD - self.mean_D
        norm_L = (centred_LD * centred_LD).sum(1)
        probe_NP = np.empty((len(query_ND), min(self.inverted.nprobe, self.inverted.nlist)), np.int64)

        def of_queries(part: slice) -> None:
            near_ML = torch.addmm(norm_L, query_ND[part] - self.mean_D, centred_LD.t(), alpha=-2).numpy()
            probe_NP[part] = smallest(near_ML, probe_NP.shape[1]) % near_ML.shape[1]

        run_all(workers, of_queries, slices(len(query_ND), CHOSEN_AT_ONCE))
        return probe_NP

    def _search_block(
        self,
        workers: ThreadPoolExecutor,
        query_ND: Tensor,
        visits: Visits,
        groups: Sequence[Group],
        keys_ND: Array | None,
        near_NK: Float32s,
        ids_NK: Int64s,
    ) -> None:
        # One block more, of no distances, fills up a query's blocks.
        buffers = [self._buffer(0, visits.place_L[-1] + 1)]
        if keys_ND is not None:
            buffers.append(self._buffer(1, visits.place_L[-1] + 1))
        buffers[0][-1] = torch.inf

        def of_group(group: Group) -> None:
            visited = range(visits.first_L[group.lists.start], visits.first_L[group.lists.stop])
            if not visited or group.rows.start == group.rows.stop:
                return
            kinds = self.rows.read(group, keys_ND)
            for some in slices(len(visited), max(MOST_COPIED // query_ND.shape[1], 1)):
                of_visits(visited[some], group, kinds)

        def of_visits(visited: range, group: Group, kinds: Sequence[GroupRows]) -> None:
            whole = slice(visited.start, visited.stop)
            query_MD = query_ND[visits.query_V[whole]].sub_(self.centroid_LD[visits.list_V[whole]])
            has_far = any(len(rows.far_F) for rows in kinds)
            given_MD = query_ND[visits.query_V[whole]] if has_far else query_MD
            norm_M1 = (query_MD * query_MD).sum(1, keepdim=True)
            for number, part, place in group.pieces:
                first, end = visits.first_L[number], visits.first_L[number + 1]
                start, stop = max(first, visited.start), min(end, visited.stop)
                if start >= stop or place.start == place.stop:
                    continue
                own = slice(start - visited.start, stop - visited.start)
                for rows, buffer in zip(kinds, buffers, strict=True):
                    of_list = buffer[visits.place_L[number] : visits.place_L[number + 1]].view(end - first, -1)
                    out_MS = of_list[start - first : stop - first, part]
                    rows.distances(place, given_MD[own], query_MD[own], norm_M1[own], out_MS)

        run_all(workers, of_group, groups)
        blocks_N = self.blocks_L[visits.probe_NP].sum(1)
        # Queries with about as many distances together, to be filled up little.
        order_N = np.argsort(blocks_N, kind="stable")
        choose = partial(self._choose, visits, [buffer.numpy() for buffer in buffers], near_NK, ids_NK)
        run_all(workers, choose, [order_N[part] for part in _chosen_together(blocks_N[order_N])])

    def _buffer(self, number: int, blocks: int) -> Tensor:
        """Returns memory for blocks of distances; fresh memory for every search would cost as much as filling it.

        It is taken for as many as there may be, since what is never written to costs nothing.
        """
        if len(self.buffers[number]) < blocks:
            self.buffers[number] = torch.empty(0)
            self.buffers[number] = torch.empty(max(blocks, most_distances() // BLOCK + 1), BLOCK)
        return self.buffers[number][:blocks]

    def _choose(
        self, visits: Visits, distances: Sequence[Float32s], near_NK: Float32s, ids_NK: Int64s, queries_M: Int64s
    ) -> None:
        """Writes the nearest of some queries, by the index's distances, which come first of all."""
        probe_MP = visits.probe_NP[queries_M]
        blocks_MP = self.blocks_L[probe_MP]
        count_M = blocks_MP.sum(1)
        width = int(count_M.max(initial=0))
        k = min(ids_NK.shape[1], width * BLOCK)
        near_NK[queries_M, k:], ids_NK[queries_M, k:] = np.inf, -1
        if k == 0:
            return
        # Blocks of each query: where its distances lie, and the ids of their rows.
        is_there_MB = np.arange(width) < count_M[:, None]
        place_MB = np.full(is_there_MB.shape, len(distances[0]) - 1)
        row_MB = np.zeros_like(place_MB)
        place_MB[is_there_MB] = ranges(visits.start_NP[queries_M].ravel(), blocks_MP.ravel())
        row_MB[is_there_MB] = ranges(self.start_L[probe_MP].ravel(), blocks_MP.ravel())
        own_MC = distances[0].take(place_MB, axis=0, mode="clip").reshape(len(queries_M), -1)

        def ids_of(m: int, places_C: Int64s) -> Int64s:
            return self.rows.ids(row_MB[m, places_C // BLOCK] * BLOCK + places_C % BLOCK)

        chosen_MK = smallest(own_MC, k, ids_of)
        block_MK, within_MK = np.divmod(chosen_MK, BLOCK)
        near_MK = own_MK = own_MC.take(chosen_MK, mode="clip")
        if len(distances) > 1:
            near_MK = distances[1].take(place_MB.take(block_MK, mode="clip") * BLOCK + within_MK, mode="clip")
        id_MK = self.rows.ids(row_MB.take(block_MK, mode="clip") * BLOCK + within_MK)
        near_MK = np.maximum(near_MK, 0)
        if not (is_near_MK := np.isfinite(own_MK)).all():
            # What is not finite is no neighbour, as FAISS has it; nor is what blocks were filled up with.
            near_MK, id_MK = np.where(is_near_MK, near_MK, np.inf), np.where(is_near_MK, id_MK, -1)
        near_NK[queries_M, :k], ids_NK[queries_M, :k] = near_MK, id_MK


def least_visits(index: Any) -> float:
    """Returns how many queries must visit a list: FAISS looks codes up for each, here rows are decoded once for all."""
    return least_visits_of_codes(index.pq.M, index.d) if hasattr(index, "pq") else LEAST_VISITS


def least_visits_of_codes(code_bytes: int, dimension: int) -> float:
    """Returns the same of product codes of so many bytes."""
    saved = code_bytes - PRODUCT_COST * dimension
    return max(DECODE_COST * dimension / saved, LEAST_VISITS) if saved > 0 else float("inf")


def most_distances() -> int:
    """Returns how many distances may be there at once: an eighth of the free memory, and as much for exact ones."""
    return share_of_memory(8, 4 * MOST_DISTANCES) // 4


def parts_of(blocks_N: Int64s) -> list[slice]:
    """Returns the queries in parts of at most so many distances, or of one query."""
    parts, start, total, most = [], 0, 0, most_distances() // BLOCK
    for n, count in enumerate(blocks_N.tolist()):
        if n > start and total + count > most:
            parts.append(slice(start, n))
            start, total = n, 0
        total += count
    return [*parts, slice(start, len(blocks_N))]


def _chosen_together(blocks_N: Int64s) -> list[slice]:
    """Returns queries, ordered by their blocks, in parts that are not too large when filled up; or of one query."""
    parts, start = [], 0
    for n, count in enumerate(blocks_N.tolist()):
        if n > start and (n - start == CHOSEN_AT_ONCE or (n - start + 1) * count * BLOCK > MOST_CHOSEN_FROM):
            parts.append(slice(start, n))
            start = n
    return [*parts, slice(start, len(blocks_N))]
