"""The coordinator of a search over shards: which rows are the k nearest of all, without ever seeing them.

    A   each shard gives its k′ smallest distances          k′ = k / P + 4 √(k / P) + 4 of P shards
        τ = the k-th smallest of all                        a shard that was cut off at or before τ is asked for more
        prefix of each shard = how many of its rows count   those at τ by row number, asked for where several have some
    B   whoever holds the prefixes asks for their sums      ``Chosen``

Where more rows are asked for than vote (``--rerank``, ``--drop-top1``, own rows left out), the shards put their
prefixes into the order of exact distances (B′), and the k nearest are chosen once more by these, of equal ones the
first rows.

It is exact. A row of the k nearest that is not among the first k of its shard would have k rows before it, so the lists
together hold the k nearest of all; and a list that ends behind τ holds all of its shard's.

Queries are searched for in blocks of a fixed size, several of them under way at once; results depend on neither.

Legend: N queries of a block · M some of them · K neighbours · S shards · P places.
"""

import itertools
import math
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fairseq.arrays import Bools, Float32s, Int64s
from fairseq.knn.distributed.backend import ShardBackend
from fairseq.knn.distributed.conversation import Conversation, Traffic
from fairseq.knn.distributed.messages import Queries, Rows, Sums, Wanted, Words
from fairseq.knn.search.preassigned import ASSIGN_BLOCK, assign


@dataclass(frozen=True)
class Asked:
    """How many rows are wanted.

    Attributes:
        found: by the index's distance.
        kept: the nearest of these, which vote.
        drop_nearest: the nearest of all does not.
        own_NS: rows that each query must not find, −1 for none.
    """

    found: int
    kept: int
    drop_nearest: bool = False
    own_NS: Int64s | None = None

    @property
    def by_exact(self) -> bool:
        """Whether p_kNN's distances decide which rows are kept."""
        return self.found > self.kept or self.drop_nearest or self.own_NS is not None


@dataclass(frozen=True)
class Chosen:
    """The nearest rows of a block of queries, which lie at the shards.

    Attributes:
        queries: which of the queries.
        key: of the request.
        talks: with each shard.
        prefixes: for each shard, how many of its rows count, ``[N]``.
        firsts: for each shard, how many of the first do not; None for none.
        by_exact: in which order.
    """

    queries: slice
    key: str
    talks: Sequence[Conversation]
    prefixes: Sequence[Int64s]
    firsts: Sequence[Int64s] | None
    by_exact: bool

    @cached_property
    def counts(self) -> Int64s:
        """How many rows each query has found, ``[N]``."""
        found_N: Int64s = np.sum(self.prefixes, axis=0)
        return found_N - np.sum(self.firsts, axis=0) if self.firsts is not None else found_N

    def sums(self, target_N: Int64s, temperature: float) -> list[Sums]:
        """Returns what each shard's rows weigh, of those that have any."""
        return self._all("sums", temperature, target_N)

    def words(self, temperature: float) -> list[Words]:
        """Returns what each shard's rows of each value weigh."""
        return self._all("words", temperature, None)

    def rows(self, target_N: Int64s | None = None) -> list[Rows]:
        """Returns the rows themselves."""
        return self._all("rows", 1.0, target_N)

    def _all(self, method: str, temperature: float, target_N: Int64s | None) -> list[Any]:
        answers = []
        for number, (talk, prefix_N) in enumerate(zip(self.talks, self.prefixes, strict=True)):
            first_N = self.firsts[number] if self.firsts is not None else None
            wanted = Wanted(self.key, prefix_N, temperature, target_N, first_N, self.by_exact)
            answers.append(talk.ask(method, wanted))
        return [answer() for answer in answers]


@dataclass(frozen=True)
class _Begun:
    """A block whose phase A is under way."""

    queries: slice
    asked: Asked
    key: str
    talks: Sequence[Conversation]
    answers: Sequence[Callable[[], Float32s]]


class TwoPhases:
    """Searches the shards of an index.

    Args:
        backend: that has the shards.
        rows: of each shard.
        trained: the index without rows, which chooses the lists.
        nprobe: lists that a search visits.
        sends_queries: shards compute distances from stored keys.
        in_flight: blocks that are under way at once.

    Attributes:
        traffic: what was sent and received so far.
    """

    def __init__(
        self,
        backend: ShardBackend,
        rows: Sequence[int],
        trained: Any,
        nprobe: int,
        *,
        sends_queries: bool = True,
        in_flight: int = 2,
    ) -> None:
        self.backend, self.rows, self.trained, self.nprobe = backend, tuple(rows), trained, nprobe
        self.sends_queries, self.in_flight = sends_queries, in_flight
        self.traffic = Traffic()
        self._keys = (f"{os.getpid()}-{uuid.uuid4().hex[:8]}-{number}" for number in itertools.count())

    def search(self, queries_ND: Float32s, asked: Asked) -> Iterator[Chosen]:
        """Yields the nearest rows, a block of queries at a time."""
        under_way: deque[_Begun] = deque()
        for start in range(0, len(queries_ND), ASSIGN_BLOCK):
            under_way.append(self._begin(queries_ND, slice(start, min(start + ASSIGN_BLOCK, len(queries_ND))), asked))
            if len(under_way) >= self.in_flight:
                yield self._finish(under_way.popleft())
        while under_way:
            yield self._finish(under_way.popleft())

    def _begin(self, queries_ND: Float32s, part: slice, asked: Asked) -> _Begun:
        query_ND = np.ascontiguousarray(queries_ND[part], np.float32)
        assigned, key = assign(self.trained, query_ND, self.nprobe), next(self._keys)
        sent_ND = query_ND if self.sends_queries else query_ND[:, :0]
        queries = Queries(key, sent_ND, assigned.moved_NE, assigned.list_NP, assigned.coarse_NP)
        talks = [Conversation(self.backend, number, self.traffic) for number in range(len(self.rows))]
        most = first_asked(asked.found, len(self.rows))
        self.traffic.queries += len(query_ND)
        return _Begun(part, asked, key, talks, [talk.ask("nearest", queries, most) for talk in talks])

    def _finish(self, begun: _Begun) -> Chosen:
        asked, talks = begun.asked, begun.talks
        near = self._complete(begun, [answer() for answer in begun.answers])
        prefixes = self._prefixes(begun, near, asked.found, by_exact=False)
        if not asked.by_exact:
            return Chosen(begun.queries, begun.key, talks, prefixes, None, by_exact=False)
        own_NS = asked.own_NS[begun.queries] if asked.own_NS is not None else None
        answers = [
            talk.ask("exact", begun.key, prefix_N, own_NS) for talk, prefix_N in zip(talks, prefixes, strict=True)
        ]
        exact = [answer() for answer in answers]
        firsts = self._prefixes(begun, exact, 1, by_exact=True) if asked.drop_nearest else None
        prefixes = self._prefixes(begun, exact, asked.kept + asked.drop_nearest, by_exact=True)
        return Chosen(begun.queries, begun.key, talks, prefixes, firsts, by_exact=True)

    def _complete(self, begun: _Begun, near: list[Float32s]) -> list[Float32s]:
        """Returns phase A's distances of each shard, with more where a shard was cut off before it was certain."""
        bound_N = _bound(near, begun.asked.found)
        answers = []
        for number, (near_NK, talk) in enumerate(zip(near, begun.talks, strict=True)):
            width = near_NK.shape[1]
            if width < min(begun.asked.found, self.rows[number]):
                last_N = near_NK[:, -1]
                at_M = np.flatnonzero((last_N <= bound_N) & np.isfinite(last_N))
                if len(at_M):
                    answers.append((number, at_M, talk.ask("deeper", begun.key, at_M, begun.asked.found)))
        for number, at_M, answer in answers:
            more_MK = answer()
            missing = max(more_MK.shape[1] - near[number].shape[1], 0)
            near[number] = np.pad(near[number], ((0, 0), (0, missing)), constant_values=np.inf)
            near[number][at_M, : more_MK.shape[1]] = more_MK
        return near

    def _prefixes(self, begun: _Begun, near: Sequence[Float32s], count: int, *, by_exact: bool) -> list[Int64s]:
        """Returns how many rows of each shard are among the ``count`` nearest, of those equally far the first rows.

        Args:
            begun: the request.
            near: distances of each shard, ascending; +inf for none.
            count: neighbours.
            by_exact: the order that the distances are of.
        """
        bound_N = _bound(near, count)
        before_SN = np.stack([(near_NK < bound_N[:, None]).sum(axis=1) for near_NK in near])
        is_tied = [(near_NK == bound_N[:, None]) & np.isfinite(near_NK) for near_NK in near]
        tied_SN = np.stack([is_tied_NK.sum(axis=1) for is_tied_NK in is_tied])
        room_N = count - before_SN.sum(axis=0)
        tied_SN = np.minimum(tied_SN, room_N)
        is_open_N: Bools = (tied_SN.sum(axis=0) > room_N) & np.isfinite(bound_N)
        if is_open_N.any():
            at_M = np.flatnonzero(is_open_N)
            tied_SN[:, at_M] = self._first_rows(begun, at_M, before_SN, tied_SN, room_N[at_M], by_exact=by_exact)
        return list(before_SN + tied_SN)

    def _first_rows(
        self, begun: _Begun, at_M: Int64s, before_SN: Int64s, tied_SN: Int64s, room_M: Int64s, *, by_exact: bool
    ) -> Int64s:
        """Returns how many of each shard's rows that are equally far are among the first by row number, ``[S, M]``."""
        answers = []
        for number, talk in enumerate(begun.talks):
            start_M, size_M = before_SN[number, at_M], tied_SN[number, at_M]
            if size_M.any():
                place_P = np.repeat(np.arange(len(at_M)), size_M)
                answer = talk.ask("ids", begun.key, at_M, start_M, start_M + size_M, by_exact)
                answers.append((np.full(len(place_P), number), place_P, answer))
        id_P = np.concatenate([answer() for _, _, answer in answers])
        shard_P, place_P = (np.concatenate([one[which] for one in answers]) for which in (0, 1))
        order = np.lexsort((id_P, place_P))
        shard_P, place_P = shard_P[order], place_P[order]
        size_M = np.bincount(place_P, minlength=len(at_M))
        rank_P = np.arange(len(order)) - np.repeat(np.cumsum(size_M) - size_M, size_M)
        is_in_P = rank_P < room_M[place_P]
        taken_SM = np.zeros((len(begun.talks), len(at_M)), np.int64)
        np.add.at(taken_SM, (shard_P[is_in_P], place_P[is_in_P]), 1)
        return taken_SM


def first_asked(k: int, shards: int) -> int:
    """Returns k′, rows that each shard is asked for first: dealt at random, one seldom has more of the k nearest."""
    share = k / shards
    return k if shards == 1 else min(k, math.ceil(share + 4 * math.sqrt(share) + 4))


def _bound(near: Sequence[Float32s], count: int) -> Float32s:
    """Returns the distance of the ``count``-th nearest row of all shards, ``[N]``; +inf where there are fewer."""
    all_NC = np.concatenate(near, axis=1)
    if all_NC.shape[1] < count:
        return np.full(len(all_NC), np.inf, np.float32)
    bound_N: Float32s = np.partition(all_NC, count - 1, axis=1)[:, count - 1]
    return bound_N
