"""Searching inverted lists that lie in a file, list by list: what is read of it serves many queries.

FAISS takes one query after the other and reads the lists of each. Where the file is larger than memory, a list that
another query has read is gone again:

    bytes of the index that a token reads      query by query    (nprobe / nlist) · rows · (code bytes + 8)
                                               list by list      rows · (code bytes + 8) / queries of a block

The second is the smaller one where a block has more than nlist / nprobe queries. ``ListSearch`` holds the distances of
a block to all the rows that it visits, and where memory is short a block has few queries. So here lists come in
windows, as many at a time as have distances that fit; of each window the k nearest of every query are kept. And nothing
is held in memory for each row: ids are read where they lie, those of the chosen alone, and norms are computed anew.

Legend: N queries · P lists visited by each · K neighbours · M queries that visit a window, or of one thread ·
G groups of rows · L lists · S rows of a group.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.index.faiss_index import view
from fairseq.knn.index.without_rows import forgetful
from fairseq.knn.search.by_index import check_width
from fairseq.knn.search.by_list import (
    CHOSEN_AT_ONCE,
    LEAST_VISITS,
    MOST_VISITS,
    ListSearch,
    least_visits,
    most_distances,
    parts_of,
)
from fairseq.knn.search.distances import smallest
from fairseq.knn.search.list_blocks import BLOCK, Group, Visits, slices
from fairseq.knn.search.list_rows import ListRows, norms_of
from fairseq.knn.threads import run_all, worker_threads
from fairseq.runtime.resources import fits_memory

ID_BYTES = 8
# Lists of which a row is read to see whether rows lie near their centroids.
SAMPLED_LISTS = 64


class MappedRows(ListRows):
    """The rows of an inverted file whose lists are mapped, codes and ids, from one file.

    Args:
        inverted: it.
        forgotten: rows that are nobody's neighbours: as far away as padding.
    """

    def __init__(self, inverted: Any, forgotten: RowRanges) -> None:
        self.forgotten = forgotten
        super().__init__(inverted)

    def keep_rows(self) -> None:
        """Finds where the ids of each list begin; of a row nothing is kept."""
        self._first_id_L = np.zeros(len(self.size_L), np.int64)
        for number in np.flatnonzero(self.size_L).tolist():
            self._first_id_L[number] = int(self.lists.get_ids(number))
        last = self._first_id_L + ID_BYTES * (self.size_L - 1)
        self._base = int(self._first_id_L[self.size_L > 0].min(initial=last.max(initial=0)))
        # Lists begin at any byte of the file: all its bytes, each as the first of an id.
        self._id_at_byte = np.asarray(_Bytes(self._base, int(last.max(initial=0)) - self._base + 1))

    def codes(self, number: int) -> Array:
        """Returns the codes of a list's rows, where they lie."""
        return self._codes_of(number)

    def ids(self, places: Int64s) -> Int64s:
        """Returns the ids of rows at some places of the lists' order; −1 for padding."""
        number = np.searchsorted(self.start_L, places // BLOCK, side="right") - 1
        within = places - self.start_L[number] * BLOCK
        is_row = within < self.size_L[number]
        found: Int64s = self._id_at_byte[np.where(is_row, self._first_id_L[number] - self._base + ID_BYTES * within, 0)]
        return np.where(is_row, found, -1)

    def norms(self, kind: int, group: Group, row_SD: Tensor) -> tuple[Tensor, Int64s]:
        """Returns ‖r‖² of a group's rows, +inf for padding, and which of them are far."""
        return norms_of(row_SD, torch.from_numpy(self._is_padding(group)))

    def _is_padding(self, group: Group) -> Array:
        padding_S = np.ones(group.rows.stop - group.rows.start, bool)
        for number, part, place in group.pieces:
            rows = range(part.start, min(part.stop, int(self.size_L[number])))
            is_out = np.zeros(len(rows), bool)
            if self.forgotten.num_rows and rows:
                is_out = self.forgotten.holds(view(self.lists.get_ids(number), int(self.size_L[number]))[part])
            padding_S[place.start : place.start + len(rows)] = is_out
        return padding_S


class _Bytes:
    """Memory as NumPy takes it: an int64 that begins at each byte."""

    def __init__(self, address: int, count: int) -> None:
        typestr = np.dtype(np.int64).str
        shape = {"shape": (count,), "strides": (1,)}
        self.__array_interface__ = {"data": (address, True), "typestr": typestr, "version": 3, **shape}


class MappedListSearch(ListSearch):
    """The inverted lists of a mapped index, ready to be searched list by list.

    Args:
        index: an inverted file that ``supports`` accepts, or one that passes over forgotten rows.
    """

    LISTS = (faiss.ArrayInvertedLists, faiss.OnDiskInvertedLists)

    def __init__(self, index: Any) -> None:
        inverted, forgotten = forgetful(index)
        super().__init__(inverted, MappedRows(inverted, forgotten))
        # One list more, without rows: what a query visits outside of a window.
        self.blocks_L, self.start_L = np.append(self.blocks_L, 0), np.append(self.start_L, 0)

    @cached_property
    def rows_are_near(self) -> bool:
        """Whether rows lie near their centroids, by a small sample."""
        numbers = np.flatnonzero(self.blocks_L)
        return self.rows.are_near(numbers[:: -(-len(numbers) // SAMPLED_LISTS) or 1])

    @classmethod
    def pays(cls, index: Any, num_queries: int) -> bool:
        """Returns whether to search so: many queries visit each list, fewer where the disk must be read for each."""
        inverted, _ = forgetful(index)
        if not num_queries or not cls.supports(inverted):
            return False
        visits_a_query = min(inverted.nprobe, inverted.nlist)
        fits = fits_memory(inverted.ntotal * (inverted.code_size + ID_BYTES))
        visits = min(num_queries, MOST_VISITS // visits_a_query) * visits_a_query
        return bool(visits >= (least_visits(inverted) if fits else LEAST_VISITS) * inverted.nlist)

    def search(self, queries_ND: Float32s, k: int, keys_ND: Array | None = None) -> tuple[Float32s, Int64s]:
        """Returns the index's own distances and ids ``[N, K]``, in no order, of what the index finds; −1 for none.

        Args:
            queries_ND: float32.
            k: at least 0.
            keys_ND: None; exact distances are computed from keys in the order of their file.

        Raises:
            MismatchError: the queries have another width than the index.
        """
        assert keys_ND is None, "rows of a list lie anywhere in the file of the keys"
        check_width(self.inverted, queries_ND)
        near_NK = np.full((len(queries_ND), k), np.inf, np.float32)
        ids_NK = np.full((len(queries_ND), k), -1, np.int64)
        at_once = max(MOST_VISITS // min(self.inverted.nprobe, self.inverted.nlist), 1)
        with worker_threads() as workers:
            for part in slices(len(queries_ND), at_once):
                query_ND = torch.from_numpy(np.array(queries_ND[part], np.float32))
                probe_NP = self._nearest_lists(workers, query_ND)
                for groups in self._windows(probe_NP):
                    self._search_window(workers, query_ND, probe_NP, groups, near_NK[part], ids_NK[part])
        return near_NK, ids_NK

    def _windows(self, probe_NP: Int64s) -> Iterator[list[Group]]:
        """Yields groups of whole lists, as many together as have distances that fit, or one list's."""
        blocks_L = np.bincount(probe_NP.ravel(), minlength=len(self.blocks_L)) * self.blocks_L
        most, window, total = most_distances() // BLOCK, list[Group](), 0
        for whole in _whole_lists(self.groups):
            blocks = int(blocks_L[whole[0].lists.start : whole[-1].lists.stop].sum())
            if window and total + blocks > most:
                yield window
                window, total = [], 0
            if blocks:  # else nobody visits these lists
                window, total = [*window, *whole], total + blocks
        if window:
            yield window

    def _search_window(
        self,
        workers: ThreadPoolExecutor,
        query_ND: Tensor,
        probe_NP: Int64s,
        groups: list[Group],
        near_NK: Float32s,
        ids_NK: Int64s,
    ) -> None:
        """Searches some lists, and merges what they have with what was found before."""
        is_here_NP = (groups[0].lists.start <= probe_NP) & (probe_NP < groups[-1].lists.stop)
        query_M = np.flatnonzero(is_here_NP.any(1))
        probe_MP = np.where(is_here_NP[query_M], probe_NP[query_M], len(self.blocks_L) - 1)
        near_MK, ids_MK = np.empty((len(query_M), near_NK.shape[1]), np.float32), ids_NK[query_M]
        for part in parts_of(self.blocks_L[probe_MP].sum(1)):  # one, unless many queries visit a long list
            visits = Visits.of(probe_MP[part], self.blocks_L)
            some_MD = query_ND[torch.from_numpy(query_M[part])]
            self._search_block(workers, some_MD, visits, groups, None, near_MK[part], ids_MK[part])

        def merge(part: slice) -> None:
            some_M = query_M[part]
            near_MC = np.concatenate([near_NK[some_M], near_MK[part]], axis=1)
            ids_MC = np.concatenate([ids_NK[some_M], ids_MK[part]], axis=1)
            nearest_MK = smallest(near_MC, near_NK.shape[1], lambda m, places_C: ids_MC[m, places_C])
            near_NK[some_M], ids_NK[some_M] = near_MC.take(nearest_MK), ids_MC.take(nearest_MK)

        if near_NK.shape[1]:
            run_all(workers, merge, slices(len(query_M), CHOSEN_AT_ONCE))


def _whole_lists(groups: list[Group]) -> Iterator[list[Group]]:
    """Yields groups, those together that share a list."""
    together: list[Group] = []
    for group in groups:
        if together and group.lists.start > together[-1].lists[-1]:
            yield together
            together = []
        together.append(group)
    if together:
        yield together
