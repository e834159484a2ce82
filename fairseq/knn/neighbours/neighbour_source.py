"""Base class of everything that finds neighbours, in one datastore or in several.

A source numbers its rows and knows the value of each. Votes do not depend on where neighbours lie (distribution.py).

    found ── every row that the searches came upon
      └── neighbours ── less the nearest one (--drop-top1), and of these the k nearest
            ├── votes ── whose value is the target → ln p_kNN(target)
            └── next_log_prob ── ln p_kNN of every word

Legend: N queries · K neighbours · D key width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fairseq.arrays import Float32s, Int64s, Integers
from fairseq.data.passages.split_text import Passage
from fairseq.evaluate.mixture import MemoryReport, MemoryScores, ScoredTokens
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.identity import require_model
from fairseq.knn.neighbours.arguments import (
    A,
    AnyArray,
    checked_k,
    checked_queries,
    checked_rows,
    checked_targets,
    checked_vocabulary,
    like,
)
from fairseq.knn.neighbours.distribution import Votes, drop_nearest, drop_own, keep_nearest, next_log_prob, votes_for
from fairseq.knn.neighbours.parts import OpenFiles, StorePart
from fairseq.knn.neighbours.passages import RowText
from fairseq.knn.neighbours.tally import CountingMemory, Lists, Tally, empty_places, tallied
from fairseq.knn.neighbours.temperature import auto_share, measure_unit, temperature_of, temperature_record
from fairseq.knn.search.preassigned import ASSIGN_BLOCK
from fairseq.knn.threads import run_all, worker_threads
from fairseq.models.protocol import ModelIdentity
from fairseq.runtime.resources import share_of_memory
from fairseq.storage.records import as_json

if TYPE_CHECKING:
    from fairseq.knn.neighbours.own_rows import OwnRows, OwnText

T = TypeVar("T")

# Queries that are searched for together, whose neighbours share what is read, fewer where K is above 1024, and those
# whose probabilities are computed together.
QUERY_BLOCK, MOST_NEIGHBOURS = 1 << 14, 1 << 24
# A neighbour takes its row, its distance, and both in the order of the file, while it is searched for.
_PROBABILITY_BLOCK, _NEIGHBOUR_BYTES = 512, 48


class NeighbourSource(OpenFiles, CountingMemory, ABC):
    """Base class of everything that finds neighbours; a memory for the mixture.

    Attributes:
        config: k, temperature, and how nearness is measured.
        parts: the datastores, each once, by offset.
        distinct_ids: no search finds a row twice.
        vocabulary_size: targets are below it; None where that is not known.
        own_rows: what tells of scored tokens which rows they are themselves, which they then do not find; else None.
        own_text: the rows that are of the evaluated text, and are found.
    """

    own_rows: "OwnRows | None" = None
    own_text: "Sequence[OwnText]" = ()
    config: KNNConfig
    parts: tuple[StorePart, ...]
    distinct_ids: bool
    vocabulary_size: int | None

    @property
    def rows(self) -> int:
        """Rows in all, forgotten or not; ids are below."""
        return sum(part.datastore.rows for part in self.parts)

    @property
    def rows_left(self) -> int:
        """Rows that can be found."""
        return sum(part.datastore.rows_left for part in self.parts)

    def __len__(self) -> int:
        return self.rows_left

    @property
    def dimension(self) -> int:
        """D, width of the keys."""
        return self.parts[0].datastore.dimension

    @cached_property
    def texts(self) -> list[RowText | None]:
        """The texts that each datastore was written from, None where none is known or still there."""
        return [RowText.open(part.datastore) for part in self.parts]

    @cached_property
    def distance_unit(self) -> float:
        """The median squared distance from a row to the nearest other row; raises ConfigError where there is none."""
        return measure_unit(self.parts, self.found)

    @cached_property
    def temperature(self) -> float:
        """T of p_kNN."""
        return temperature_of(self.config.knn_temp, lambda: self.distance_unit, auto_share(self.parts))

    def temperature_record(self) -> dict[str, Any]:
        """Returns T as results and files have it, and where it was ``auto`` that word and the unit."""
        return temperature_record(self.config.knn_temp, self.temperature, lambda: self.distance_unit)

    @abstractmethod
    def found(self, queries_ND: Float32s, k: int) -> tuple[Float32s, Int64s]:
        """Returns distances and ids, ``[N, K]`` or wider, in no order, with the k nearest of what is found; −1 none.

        It is never asked for more than ``rows_left``: places of no neighbour cost as much as others.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Returns the ids of what is searched, as a result names them: ``store_id``, ``index_sha256``."""

    @abstractmethod
    def lists(self) -> Sequence[Lists | None]:
        """Returns the inverted lists of each index, None for an index without any."""

    def tie_order(self, ids: Int64s) -> Int64s:
        """Returns the numbers by which rows that are equally far come, the smallest first."""
        return ids

    def values_of(self, ids_NK: Integers) -> Integers:
        """Returns the values of rows; anything for −1."""
        found_NK = self.parts[0].values_of(ids_NK)
        for part in self.parts[1:]:
            is_there_NK = ids_NK >= part.offset
            found_NK[is_there_NK] = part.values_of(ids_NK[is_there_NK] - part.offset)  # a later one has the rest
        return found_NK

    @property
    def key_type(self) -> str | None:
        """Which vectors the keys are; None where that is not known."""
        return self.parts[0].datastore.model.key_type

    def open_for(self, model: ModelIdentity) -> tuple["NeighbourSource", float]:
        """Returns this source and its weight λ; raises MismatchError where a datastore is another model's."""
        for store in (part.datastore for part in self.parts):
            require_model(store.prefix, store.model, model, allow_mismatch=self.config.allow_mismatch)
        return self, self.config.lmbda

    def search(self, queries_ND: A, k: int | None = None) -> tuple[A, A]:
        """Returns distances (float32) and ids (int64), ``[N, K]``, nearest first, as the kind of array that came.

        Rows that are equally far are in the order of the datastore. Where fewer than K rows are found, the last places
        have id −1 and distance +inf.

        Args:
            queries_ND: floating point, torch or NumPy.
            k: neighbours; the config's if left out.

        Raises:
            ConfigError: the queries are no vectors, or k is no number of neighbours.
            MismatchError: the queries have another width than the keys.
        """
        queries, k = checked_queries(queries_ND, self.dimension), self.config.k if k is None else checked_k(k)
        distances_NK, ids_NK = self._neighbours(queries, k)
        nearest = Votes(distances_NK, ids_NK, np.zeros(ids_NK.shape, bool)).nearest_first(self.tie_order).filled_up(k)
        return like(nearest.distances_NK, queries_ND), like(nearest.ids_NK, queries_ND)

    def values(self, ids_NK: A) -> A:
        """Returns the tokens that came next at some rows, int64, of any shape; −1 for no row.

        Raises:
            ConfigError: a number that is no row.
        """
        rows = checked_rows(ids_NK, self.rows)
        values = self.values_of(np.maximum(rows, 0)).astype(np.int64)
        return like(np.where(rows >= 0, values, -1), ids_NK)

    def passage(self, row: int, before: int, after: int) -> Passage | None:
        """Returns a row's value with the text around it; None where the text is not known."""
        number = max(i for i, part in enumerate(self.parts) if part.offset <= row)
        text = self.texts[number]
        return text.around(row - self.parts[number].offset, before, after) if text is not None else None

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        """Returns ln p_kNN of the tokens, for the mixture."""
        log_p_N, tally = self._tallied(tokens.query_ND, tokens.target_N, self.own_of(tokens))
        self.tally.add(tally)
        return MemoryScores(like(log_p_N, tokens.query_ND))

    def own_of(self, tokens: ScoredTokens) -> Int64s | None:
        """Returns the rows ``[N, S]`` that scored tokens must not find, −1 for none; None where they may find any."""
        return self.own_rows.of(tokens.block_idx_N) if self.own_rows is not None else None

    def close(self) -> None:
        """Lets go of what is held in other processes: nothing, where all of it is in this one."""

    def report(self) -> MemoryReport:
        """Returns the ids of what is searched, T, and what was found."""
        tally, k = self.tally, self.config.k
        left_out = self.config.drop_top1 + (len(self.own_rows.sources) if self.own_rows is not None else 0)
        return MemoryReport(
            identity=self.identity(),
            settings=self.temperature_record(),
            found={"neighbours": tally.record(k), **({"own_text": as_json(self.own_text)} if self.own_text else {})},
            summary=[tally.line(k)],
            warnings=empty_places(tally, k, self.rows_left - left_out, self.lists()),
        )

    def log_prob(self, queries_ND: A, target_N: A, own_NS: Int64s | None = None) -> A:
        """Returns ln p_kNN(target), float32 ``[N]``, on the device and of the kind that the queries are.

        Args:
            queries_ND: floating point, torch or NumPy.
            target_N: token ids.
            own_NS: rows that each query is not to find, −1 for none.

        Raises:
            ConfigError: the queries are no vectors, or the targets not one word for each of them.
            MismatchError: the queries have another width than the keys.
        """
        return like(self._tallied(queries_ND, target_N, own_NS)[0], queries_ND)

    def _tallied(self, queries_ND: AnyArray, target_N: AnyArray, own_NS: Int64s | None) -> tuple[Float32s, Tally]:
        tally, compute = Tally(), partial(tallied, temperature=self.temperature)
        parts = list(self._of_votes(compute, queries_ND, target_N, own_NS))
        for _, part in parts:
            tally.add(part)
        return np.concatenate([log_p_N for log_p_N, _ in parts]), tally

    def next_log_prob(self, queries_ND: A, vocabulary_size: int | None = None) -> A:
        """Returns ln p_kNN of every word, float32 ``[N, V]``, on the device and of the kind that the queries are.

        Args:
            queries_ND: floating point, torch or NumPy; they are searched for together.
            vocabulary_size: V; the manifest's if left out.

        Raises:
            ConfigError: V is too small, or not known; and what ``search`` raises.
        """
        queries = checked_queries(queries_ND, self.dimension)
        distances_NK, ids_NK = self._neighbours(queries, self.config.k)
        values_NK = self.values_of(ids_NK)
        size = checked_vocabulary(vocabulary_size, self.vocabulary_size, values_NK[ids_NK >= 0])
        found = distances_NK, ids_NK, values_NK
        return like(next_log_prob(*found, size, self.temperature, distinct=self.distinct_ids), queries_ND)

    def votes(self, queries_ND: AnyArray, target_N: AnyArray, own_NS: Int64s | None = None) -> Votes:
        """Returns the neighbours, in no order, their distances as p_kNN uses them, and whose value is the target.

        Arguments are those of ``log_prob``.
        """
        parts = self._of_votes(lambda votes: votes, queries_ND, target_N, own_NS)
        return Votes.joined(list(parts)).filled_up(self.config.k)

    def _of_votes(
        self, compute: Callable[[Votes], T], queries_ND: AnyArray, target_N: AnyArray, own_NS: Int64s | None
    ) -> Iterator[T]:
        """Yields what is computed from the votes of a few queries at a time, which stay in the cache."""
        k = self.config.k
        queries = checked_queries(queries_ND, self.dimension)
        target = checked_targets(target_N, len(queries), self.vocabulary_size)
        most = share_of_memory(4, MOST_NEIGHBOURS * _NEIGHBOUR_BYTES) // _NEIGHBOUR_BYTES
        step = max(min(QUERY_BLOCK, most // max(self._asked(k) * len(self.parts), 1)), 1)
        step = max(step // ASSIGN_BLOCK * ASSIGN_BLOCK, min(step, ASSIGN_BLOCK))  # blocks as they are assigned to lists

        for start in range(0, max(len(queries), 1), step):  # once where there are none
            own = None if own_NS is None else own_NS[start : start + step]
            neighbours = self._neighbours(queries[start : start + step], k, own)
            yield from self._computed(compute, *neighbours, target[start : start + step])
            del neighbours  # before as many are found again

    def _computed(
        self, compute: Callable[[Votes], T], distances_NK: Float32s, ids_NK: Int64s, target_N: Integers
    ) -> list[T]:
        def of_some(first: int) -> T:
            part = slice(first, first + _PROBABILITY_BLOCK)
            given = distances_NK[part], ids_NK[part], self.values_of(ids_NK[part]), target_N[part]
            return compute(votes_for(*given, distinct=self.distinct_ids))

        with worker_threads() as workers:
            return run_all(workers, of_some, range(0, max(len(ids_NK), 1), _PROBABILITY_BLOCK))

    def _neighbours(self, queries_ND: Float32s, k: int, own_NS: Int64s | None = None) -> tuple[Float32s, Int64s]:
        """Returns distances and ids ``[N, K]``, in no order: the k nearest of what is found, or all rows if fewer."""
        more = 0 if own_NS is None else own_NS.shape[1]
        distances_NK, ids_NK = self.found(queries_ND, min(self._asked(k) + more, max(self.rows_left, 1)))
        if own_NS is not None:
            distances_NK, ids_NK = drop_own(distances_NK, ids_NK, own_NS)
        if self.config.drop_top1:
            distances_NK, ids_NK = drop_nearest(distances_NK, ids_NK, self.tie_order)
        return keep_nearest(distances_NK, ids_NK, k, self.tie_order)

    def _asked(self, k: int) -> int:
        """Returns how many rows the index is asked for, of which k are kept."""
        return min(max(k, self.config.rerank or 0) + self.config.drop_top1, max(self.rows_left, 1))
