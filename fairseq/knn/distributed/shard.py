"""A shard of an index: it finds the nearest of its own rows, and adds up what they vote for.

    nearest, deeper   phase A: distances by the index, sorted; the rows stay here
    ids               row numbers, where rows of several shards are equally far
    exact             phase B′: exact distances of a prefix, and the order by these
    sums words rows   phase B: what the prefix votes for, in three forms
    values_of keys_of of rows by number

What it remembers of a request is a few arrays; of a request that it does not know it answers ``None``. It knows nothing
of other shards, and nothing of where it runs.

Legend: N queries · M some of them · K neighbours · P pairs of a query and a neighbour · D key width.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fairseq.arrays import Array, Bools, Float32s, Float64s, Int64s
from fairseq.errors import DatastoreError
from fairseq.knn.datastore.format import keys_path
from fairseq.knn.distributed.messages import Queries, Rows, ShardIdentity, Sums, Wanted, Words
from fairseq.knn.distributed.shard_files import ShardFiles, ShardSettings
from fairseq.knn.index.without_rows import SelectingIndex, selector
from fairseq.knn.search.distances import pair_distances
from fairseq.knn.search.preassigned import Assigned, inverted_file, search_lists


@dataclass
class _Found:
    """What a shard remembers of a request.

    Attributes:
        queries: as they came.
        near_NK: phase A's distances, ascending; +inf for none.
        ids_NK: and the rows; −1 for none.
        exact_NK: phase B′'s distances, ascending; None before it.
        exact_ids_NK: and the rows.
    """

    queries: Queries
    near_NK: Float32s
    ids_NK: Int64s
    exact_NK: Float32s | None = None
    exact_ids_NK: Int64s | None = None

    def order(self, by_exact: bool) -> tuple[Float32s, Int64s] | None:
        """Returns distances and rows in one of the two orders; None where that is not known."""
        if not by_exact:
            return self.near_NK, self.ids_NK
        return None if self.exact_NK is None or self.exact_ids_NK is None else (self.exact_NK, self.exact_ids_NK)


@dataclass(frozen=True)
class _Pairs:
    """Neighbours that count, of all queries one after the other.

    Attributes:
        query_P: ascending.
        row_P: row numbers of the datastore.
        near_P: distances, finite.
    """

    query_P: Int64s
    row_P: Int64s
    near_P: Float32s

    def which(self, chosen_P: Bools) -> "_Pairs":
        """Returns some of them."""
        return _Pairs(self.query_P[chosen_P], self.row_P[chosen_P], self.near_P[chosen_P])


class Shard:
    """A shard that is open on this machine.

    Args:
        prefix: of the datastore's files.
        files: the shard's.
        settings: how it is asked.

    Attributes:
        rows_read: keys that were read for exact distances so far.
    """

    def __init__(self, prefix: str | Path, files: ShardFiles, settings: ShardSettings) -> None:
        self.prefix, self.files, self.settings = Path(prefix), files, settings
        self.rows_read = 0
        self._inverted = inverted_file(files.index)
        forgotten = files.forgotten
        if forgotten.num_rows and not SelectingIndex.supports(files.index):
            raise DatastoreError(
                f"{prefix} has {forgotten.num_rows} forgotten rows, which FAISS cannot leave out of an"
                f" {type(self._inverted).__name__}; build shards of another --index-spec, IVF with Flat, SQ or PQ"
            )
        self._wanted: Any = faiss.IDSelectorNot(selector(forgotten)) if forgotten.num_rows else None
        self._found: OrderedDict[str, _Found] = OrderedDict()

    @classmethod
    def open(cls, prefix: str | Path, index: str | Path, number: int, settings: ShardSettings) -> "Shard":
        """Returns a shard of an index; the arguments and what is raised are those of ``ShardFiles.open``."""
        return cls(prefix, ShardFiles.open(prefix, index, number, settings), settings)

    def identity(self) -> ShardIdentity:
        """Returns what tells this shard from any other."""
        return self.files.identity

    def nearest(self, queries: Queries, k: int) -> Float32s:
        """Returns the index's distances ``[N, K]`` of the k nearest of its rows, ascending; +inf where there are fewer.

        Args:
            queries: remembered under their key.
            k: neighbours; at most as many as the shard has rows are given.
        """
        near_NK, ids_NK = self._search(queries, slice(None), k)
        self._found[queries.key] = _Found(queries, near_NK, ids_NK)
        self._found.move_to_end(queries.key)
        while len(self._found) > self.settings.remembered:
            self._found.popitem(last=False)
        return near_NK

    def deeper(self, key: str, at_M: Int64s, k: int) -> Float32s | None:
        """Returns what ``nearest`` does, ``[M, K]``, of some queries of a request, with a larger k; these count now."""
        found = self._found.get(key)
        if found is None:
            return None
        near_MK, ids_MK = self._search(found.queries, at_M, k)
        wider = ((0, 0), (0, max(near_MK.shape[1] - found.near_NK.shape[1], 0)))
        found.near_NK = np.pad(found.near_NK, wider, constant_values=np.inf)
        found.ids_NK = np.pad(found.ids_NK, wider, constant_values=-1)
        found.near_NK[at_M, : near_MK.shape[1]], found.ids_NK[at_M, : near_MK.shape[1]] = near_MK, ids_MK
        return near_MK

    def _search(self, queries: Queries, which: Int64s | slice, k: int) -> tuple[Float32s, Int64s]:
        k = min(k, max(self.files.rows.num_rows, 1))
        assigned = Assigned(queries.moved_NE, queries.list_NP, queries.coarse_NP).of(which)
        return search_lists(self._inverted, assigned, k, self._wanted)

    def ids(self, key: str, at_M: Int64s, start_M: Int64s, stop_M: Int64s, by_exact: bool) -> Int64s | None:
        """Returns the row numbers of some queries' neighbours from one place to another, one query after the other."""
        found = self._found.get(key)
        order = found.order(by_exact) if found is not None else None
        if order is None:
            return None
        return order[1][at_M][_places(order[1].shape[1], start_M, stop_M)]

    def exact(self, key: str, prefix_N: Int64s, own_NS: Int64s | None = None) -> Float32s | None:
        """Returns p_kNN's distances ``[N, K]`` of a prefix, ascending; +inf where there are fewer.

        Rows that are equally far are by number. Order and distances are remembered beside phase A's.

        Args:
            key: of the request.
            prefix_N: how many of the first.
            own_NS: rows that each query must not find; −1 for none.
        """
        found = self._found.get(key)
        if found is None:
            return None
        pairs = self._measured(found.queries, found.near_NK, found.ids_NK, np.zeros_like(prefix_N), prefix_N)
        if own_NS is not None:
            pairs = pairs.which(~(pairs.row_P[:, None] == own_NS[pairs.query_P]).any(axis=1))
        order = np.lexsort((pairs.row_P, pairs.near_P, pairs.query_P))
        count_N = np.bincount(pairs.query_P, minlength=len(prefix_N))
        width = int(count_N.max(initial=0))
        is_there_NK = _places(width, np.zeros_like(count_N), count_N)
        found.exact_NK = np.full(is_there_NK.shape, np.inf, np.float32)
        found.exact_ids_NK = np.full(is_there_NK.shape, -1, np.int64)
        found.exact_NK[is_there_NK], found.exact_ids_NK[is_there_NK] = pairs.near_P[order], pairs.row_P[order]
        return found.exact_NK

    def sums(self, wanted: Wanted) -> Sums | None:
        """Returns what the wanted rows weigh, and what those with the target as their value do."""
        assert wanted.target_N is not None
        pairs = self._pairs(wanted)
        if pairs is None:
            return None
        is_hit_P = self.values_of(pairs.row_P) == wanted.target_N[pairs.query_P]
        size = len(wanted.prefix_N)
        hits = pairs.which(is_hit_P)
        return Sums(
            *_weighed(pairs.query_P, pairs.near_P, size, wanted.temperature),
            *_weighed(hits.query_P, hits.near_P, size, wanted.temperature),
        )

    def words(self, wanted: Wanted) -> Words | None:
        """Returns what the wanted rows of each value weigh."""
        pairs = self._pairs(wanted)
        if pairs is None:
            return None
        value_P = self.values_of(pairs.row_P)
        order = np.lexsort((value_P, pairs.query_P))
        query_P, value_P, near_P = pairs.query_P[order], value_P[order], pairs.near_P[order]
        is_first_P = np.ones(len(order), bool)
        is_first_P[1:] = (query_P[1:] != query_P[:-1]) | (value_P[1:] != value_P[:-1])
        group_P = np.cumsum(is_first_P) - 1
        least, total = _weighed(group_P, near_P, int(is_first_P.sum()), wanted.temperature)
        count_N = np.bincount(query_P[is_first_P], minlength=len(wanted.prefix_N))
        return Words(count_N, value_P[is_first_P], np.log(total) - least / wanted.temperature)

    def rows(self, wanted: Wanted) -> Rows | None:
        """Returns the wanted rows."""
        pairs = self._pairs(wanted)
        if pairs is None:
            return None
        value_P = self.values_of(pairs.row_P)
        target_N = wanted.target_N
        is_hit_P = np.zeros(len(value_P), bool) if target_N is None else value_P == target_N[pairs.query_P]
        count_N = np.bincount(pairs.query_P, minlength=len(wanted.prefix_N))
        return Rows(count_N, pairs.row_P, pairs.near_P, value_P, is_hit_P)

    def values_of(self, ids: Int64s) -> Int64s:
        """Returns the values of rows that the shard has."""
        return self.files.values_N[self._place_of(ids)].astype(np.int64)

    def keys_of(self, ids: Int64s) -> Float32s:
        """Returns the stored keys of rows that the shard has, float32, those of the file where none are needed else."""
        place = ids if self.files.keys_ND is None else self._place_of(ids)
        return np.asarray(self._stored_keys[place], np.float32)

    @cached_property
    def _stored_keys(self) -> Array:
        return self.files.stored_keys()

    def _place_of(self, ids: Int64s) -> Int64s:
        return self.files.rows.place_of(ids) if self.files.has_own_rows else ids

    def _pairs(self, wanted: Wanted) -> _Pairs | None:
        """Returns the wanted neighbours; None where the request is not known any more."""
        found = self._found.get(wanted.key)
        order = found.order(wanted.by_exact) if found is not None else None
        if found is None or order is None:
            return None
        first_N = np.zeros_like(wanted.prefix_N) if wanted.first_N is None else wanted.first_N
        if not wanted.by_exact:
            return self._measured(found.queries, *order, first_N, wanted.prefix_N)
        return _chosen(*order, first_N, wanted.prefix_N)

    def _measured(
        self, queries: Queries, near_NK: Float32s, ids_NK: Int64s, first_N: Int64s, prefix_N: Int64s
    ) -> _Pairs:
        """Returns neighbours with p_kNN's distances, as far as these are finite."""
        pairs, keys_ND = _chosen(near_NK, ids_NK, first_N, prefix_N), self.files.keys_ND
        if not self.settings.needs_keys:
            return pairs
        assert keys_ND is not None
        self.rows_read += len(pairs.row_P)
        place_P, dot = self._place_of(pairs.row_P), self.settings.measure == "dot"
        near_P = pair_distances(keys_ND, queries.query_ND, pairs.query_P, place_P, inner_product=dot)
        pairs = _Pairs(pairs.query_P, pairs.row_P, near_P)
        is_finite_P = np.isfinite(near_P)
        if is_finite_P.all():
            return pairs
        for number in np.flatnonzero(~is_finite_P):  # a distance beyond float32 is no mass; a bad key is an error
            if np.isfinite(queries.query_ND[pairs.query_P[number]]).all():
                self._check_key(pairs.row_P[number : number + 1])
        return pairs.which(is_finite_P)

    def _check_key(self, id_1: Int64s) -> None:
        if not np.isfinite(self.keys_of(id_1)).all():
            raise DatastoreError(
                f"{keys_path(self.prefix)}: row {id_1[0]} is not finite; fairseq-knnlm check lists such rows, write the"
                " datastore again"
            )


def _places(width: int, start_N: Int64s, stop_N: Int64s) -> Bools:
    """Returns which places ``[N, width]`` lie from one to another."""
    place_K = np.arange(width)
    return (place_K >= start_N[:, None]) & (place_K < stop_N[:, None])


def _chosen(near_NK: Float32s, ids_NK: Int64s, first_N: Int64s, prefix_N: Int64s) -> _Pairs:
    """Returns the neighbours from one place to another."""
    query_P, place_P = np.nonzero(_places(ids_NK.shape[1], first_N, prefix_N))
    return _Pairs(query_P, ids_NK[query_P, place_P], near_NK[query_P, place_P])


def _weighed(group_P: Int64s, near_P: Float32s, count: int, temperature: float) -> tuple[Float64s, Float64s]:
    """Returns the smallest distance of each group, +inf without any, and Σ exp((smallest − d) / T) of each.

    Args:
        group_P: ascending.
        near_P: finite.
        count: groups.
        temperature: T.
    """
    size_G = np.bincount(group_P, minlength=count)
    least_G, total_G = np.full(count, np.inf), np.zeros(count)
    if len(group_P):
        any_G = size_G > 0
        start_G = (np.cumsum(size_G) - size_G)[any_G]
        distance_P = near_P.astype(np.float64)
        least_G[any_G] = np.minimum.reduceat(distance_P, start_G)
        total_G[any_G] = np.add.reduceat(np.exp((np.repeat(least_G, size_G) - distance_P) / temperature), start_G)
    return least_G, total_G
