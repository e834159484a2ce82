"""A datastore whose index lies in shards, as a source of neighbours.

What an evaluation needs of a token, four numbers of each shard tell. Rows themselves are asked for where they are
shown, saved, weighed or searched for together with another datastore's: numbers, distances and values then travel.

    log_prob                     sums
    next_log_prob                words, one for each value
    votes, search, found         rows
    values_of, keys_of           of rows by number

Legend: N queries · K neighbours · D key width · V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fairseq.arrays import Float32s, Int64s, Integers
from fairseq.evaluate.mixture import MemoryReport
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.distributed.answers import log_prob_and_share, next_log_prob_of, votes_of
from fairseq.knn.distributed.backend import ShardBackend
from fairseq.knn.distributed.conversation import Traffic
from fairseq.knn.distributed.two_phases import Asked, Chosen, TwoPhases
from fairseq.knn.neighbours.arguments import (
    A,
    AnyArray,
    checked_queries,
    checked_targets,
    checked_vocabulary,
    like,
)
from fairseq.knn.neighbours.distribution import Votes
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.parts import StorePart
from fairseq.knn.neighbours.tally import Lists, Tally
from fairseq.knn.neighbours.temperature import measure_unit
from fairseq.knn.shards.manifest import ShardsManifest
from fairseq.runtime.exact_sum import ExactSum


@dataclass(frozen=True)
class ShardedPart(StorePart):
    """A datastore whose rows lie at shards.

    Attributes:
        backend: that has the shards.
        rows_of_shards: which rows each has.
    """

    backend: ShardBackend
    rows_of_shards: tuple[RowRanges, ...]

    def values_of(self, rows: Integers) -> Integers:
        """Returns the values of rows, of any shape; 0 for what is no row of it."""
        found: Int64s = self._gathered("values_of", rows, np.zeros(rows.shape, np.int64))
        return found

    def keys_of(self, rows: Int64s) -> Float32s:
        """Returns the stored keys of rows, float32."""
        shape = (len(rows), self.datastore.dimension)
        found: Float32s = self._gathered("keys_of", rows, np.empty(shape, np.float32))
        return found

    def _gathered(self, method: str, rows: Integers, found: Any) -> Any:
        """Returns what the shards say of their rows, in the rows' order."""
        is_own = [own.holds(rows) for own in self.rows_of_shards]
        answers = [
            (here, self.backend.call(number, method, rows[here].astype(np.int64)))
            for number, here in enumerate(is_own)
            if here.any()
        ]
        for here, answer in answers:
            found[here] = answer.result()
        return found


class ShardedStore(NeighbourSource):
    """A datastore with an index in shards; what it answers, and how it is asked, is a ``NeighbourSource``'s.

    Args:
        datastore: its manifest, identity and forgotten rows; it need have neither keys nor values.
        shards: the index.
        search: of its shards.
        config: k, temperature, and how nearness is measured.
        vocabulary_size: targets are below it.
    """

    distinct_ids = True

    def __init__(
        self,
        datastore: Datastore,
        shards: ShardsManifest,
        search: TwoPhases,
        config: KNNConfig,
        vocabulary_size: int | None = None,
    ) -> None:
        self.datastore, self.shards, self.phases, self.config = datastore, shards, search, config
        self.parts = (ShardedPart(datastore, 0, search.backend, shards.rows_of_shards),)
        self.vocabulary_size = vocabulary_size

    @cached_property
    def distance_unit(self) -> float:
        """The unit of distances; searches that measure it are not among those whose bytes are told."""
        unit = measure_unit(self.parts, self.found)
        self.phases.traffic = Traffic()
        return unit

    def __repr__(self) -> str:
        store, count = self.datastore, self.shards.num_shards
        return f"ShardedStore({store.prefix}, {store.rows_left:,} rows of {store.dimension}, {count} shards)"

    def identity(self) -> dict[str, Any]:
        """Returns the ids of the datastore and of its index, as a result names them: of all shards one."""
        return {
            "store_id": self.datastore.store_id,
            "index_sha256": self.shards.set_id,
            "index_fingerprint": self.shards.set_id,
        }

    def lists(self) -> list[Lists | None]:
        """Returns the inverted lists of the index, of all shards together."""
        count = self.shards.index.nlist
        return [Lists(count, min(self.phases.nprobe, count), self.datastore.rows_left)]

    def found(self, queries_ND: Float32s, k: int) -> tuple[Float32s, Int64s]:
        """Returns distances and ids ``[N, K]``, nearest first, of the k nearest by the index; −1 for none."""
        votes = self._rows(queries_ND, Asked(k, k), k, None)
        return votes.distances_NK, votes.ids_NK

    def next_log_prob(self, queries_ND: A, vocabulary_size: int | None = None) -> A:
        """Returns ln p_kNN of every word; the arguments and what is raised are those of ``NeighbourSource``."""
        queries, parts = checked_queries(queries_ND, self.dimension), []
        for chosen in self._chosen(queries, self.config.k, None):
            words = chosen.words(self.temperature)
            every = np.concatenate([one.word for one in words])
            size = checked_vocabulary(vocabulary_size, self.vocabulary_size, every)
            parts.append(next_log_prob_of(words, len(chosen.counts), size))
        if not parts:
            size = checked_vocabulary(vocabulary_size, self.vocabulary_size, np.empty(0, np.int64))
            parts.append(np.empty((0, size), np.float32))
        return like(np.concatenate(parts), queries_ND)

    def votes(self, queries_ND: AnyArray, target_N: AnyArray, own_NS: Int64s | None = None) -> Votes:
        """Returns the neighbours; the arguments are those of ``log_prob``."""
        queries, k = checked_queries(queries_ND, self.dimension), self.config.k
        target = checked_targets(target_N, len(queries), self.vocabulary_size).astype(np.int64)
        return self._rows(queries, self._wanted(k, own_NS), k, target)

    def report(self) -> MemoryReport:
        """Returns what a ``NeighbourSource`` does, and the bytes that went to and came from the shards."""
        report, traffic, count = super().report(), self.phases.traffic, self.shards.num_shards
        return replace(
            report,
            found={**report.found, **traffic.record(count)},
            summary=[*report.summary, traffic.line(count)],
        )

    def close(self) -> None:
        """Lets the shards go."""
        self.phases.backend.close()

    def _tallied(self, queries_ND: AnyArray, target_N: AnyArray, own_NS: Int64s | None) -> tuple[Float32s, Tally]:
        log_p_N, tally = self.exact_log_prob(queries_ND, target_N, own_NS)
        with np.errstate(over="ignore"):  # below what float32 holds is −inf
            return log_p_N.astype(np.float32), tally

    def exact_log_prob(
        self, queries_ND: AnyArray, target_N: AnyArray, own_NS: Int64s | None = None
    ) -> tuple[Any, Tally]:
        """Returns ln p_kNN(target), float64 ``[N]``, and what was found; the arguments are those of ``log_prob``."""
        queries = checked_queries(queries_ND, self.dimension)
        target = checked_targets(target_N, len(queries), self.vocabulary_size).astype(np.int64)
        log_p, tally = [np.empty(0)], Tally()
        for chosen in self._chosen(queries, self.config.k, own_NS):
            sums = chosen.sums(target[chosen.queries], self.temperature)
            log_p_N, nearest_N = log_prob_and_share(sums, self.temperature)
            counts, is_any_N = chosen.counts, chosen.counts > 0
            shares = ExactSum(nearest_N[is_any_N].tolist())
            tally.add(Tally(len(counts), int(counts.sum()), int(is_any_N.sum()), shares))
            log_p.append(log_p_N)
        return np.concatenate(log_p), tally

    def _neighbours(self, queries_ND: Float32s, k: int, own_NS: Int64s | None = None) -> tuple[Float32s, Int64s]:
        votes = self._rows(queries_ND, self._wanted(k, own_NS), k, None)
        return votes.distances_NK, votes.ids_NK

    def _wanted(self, k: int, own_NS: Int64s | None) -> Asked:
        more = 0 if own_NS is None else own_NS.shape[1]
        found = min(self._asked(k) + more, max(self.rows_left, 1))
        return Asked(found, min(k, found), self.config.drop_top1, own_NS)

    def _chosen(self, queries_ND: Float32s, k: int, own_NS: Int64s | None) -> Iterator[Chosen]:
        return self.phases.search(queries_ND, self._wanted(k, own_NS))

    def _rows(self, queries_ND: Float32s, asked: Asked, k: int, target_N: Int64s | None) -> Votes:
        """Returns the neighbours, of no targets without any hit."""
        parts = [Votes(np.empty((0, k), np.float32), np.empty((0, k), np.int64), np.empty((0, k), bool))]
        for chosen in self.phases.search(queries_ND, asked):
            rows = chosen.rows(target_N[chosen.queries] if target_N is not None else None)
            parts.append(votes_of(rows, len(chosen.counts), k, self.tie_order))
        return Votes.joined(parts)
