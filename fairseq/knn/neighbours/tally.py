"""What the searches of a run have found: how many of the places are empty, and how much the nearest neighbour weighs.

    places      k of each search          empty where the lists that are visited hold fewer rows
    nearest     exp(−d_1 / T) / Σ exp(−d_i / T)      near 1: the others hardly count, T is low

Both are known where p_kNN is computed, so that they cost no pass of their own.

Legend: N queries · K neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from fairseq.arrays import Bools, Float32s
from fairseq.evaluate.mixture import Counts, Memory
from fairseq.knn.index.lists import fitting
from fairseq.knn.neighbours.distribution import Votes, log_prob_and_nearest
from fairseq.runtime.exact_sum import ExactSum

# From which share of empty places on a run warns.
EMPTY_SHARE = 0.05


class _Counts(msgspec.Struct):
    searches: int
    found: int
    with_any: int
    nearest: list[float]


@dataclass
class Tally:
    """Sums over searches.

    Attributes:
        searches: queries that were searched for.
        found: neighbours that were found.
        with_any: searches that found any.
        nearest: of these, the sum of the nearest neighbour's share of p_kNN.
    """

    searches: int = 0
    found: int = 0
    with_any: int = 0
    nearest: ExactSum = field(default_factory=ExactSum)

    def add(self, other: "Tally") -> None:
        """Adds further searches."""
        self.searches += other.searches
        self.found += other.found
        self.with_any += other.with_any
        self.nearest.extend(other.nearest.parts)

    def counts(self) -> dict[str, int | list[float]]:
        """Returns the sums by name."""
        return {
            "searches": self.searches,
            "found": self.found,
            "with_any": self.with_any,
            "nearest": self.nearest.parts,
        }

    @classmethod
    def of(cls, counts: Counts) -> "Tally":
        """Returns the sums that ``counts`` has named; raises msgspec.ValidationError for others."""
        named = msgspec.convert(dict(counts), _Counts)
        return cls(named.searches, named.found, named.with_any, ExactSum(named.nearest))

    def record(self, k: int) -> dict[str, Any]:
        """Returns the shares as plain values for JSON, null where nothing was searched for or found."""
        places = self.searches * k
        return {
            "k": k,
            "found_mean": self.found / self.searches if self.searches else None,
            "empty_share": 1 - self.found / places if places else None,
            "nearest_share": self.nearest.value / self.with_any if self.with_any else None,
        }

    def line(self, k: int) -> str:
        """Returns the shares for people."""
        if not self.with_any:
            return f"Neighbours: none of k = {k} found in {self.searches} searches"
        found = self.record(k)
        return (
            f"Neighbours: {found['found_mean']:.1f} of k = {k} found ({found['empty_share']:.1%} of the places are"
            f" empty); the nearest has {found['nearest_share']:.1%} of p_kNN"
        )


class CountingMemory(Memory):
    """Base class of a memory that counts what it finds."""

    @cached_property
    def tally(self) -> Tally:
        """What was found for scored tokens so far."""
        return Tally()

    def counts(self) -> Counts:
        """Returns the tally's sums."""
        return self.tally.counts()

    def set_counts(self, counts: Counts) -> None:
        """Takes what all processes have found for its own."""
        self.tally = Tally.of(counts)


@dataclass(frozen=True)
class Lists:
    """The inverted lists of an index: how many, how many of them a search visits, and the rows in all."""

    count: int
    visited: int
    rows: int


def tallied(votes: Votes, temperature: float) -> tuple[Float32s, Tally]:
    """Returns ln p_kNN(target), as ``log_prob_of`` does, and what was found."""
    log_p_N, nearest_N = log_prob_and_nearest(votes, temperature)
    there_NK = votes.ids_NK >= 0
    any_N: Bools = np.any(there_NK, axis=1)
    nearest = ExactSum([float(nearest_N[any_N].sum())])
    return log_p_N, Tally(len(any_N), int(np.count_nonzero(there_NK)), int(any_N.sum()), nearest)


def empty_places(tally: Tally, k: int, rows: int, indexes: Sequence[Lists | None]) -> list[str]:
    """Returns a warning, and what to do, where many places are empty that an index could fill.

    Args:
        tally: of the searches.
        k: places of each.
        rows: that a query can find.
        indexes: the inverted lists of each index, None for an index without any.
    """
    k = min(k, rows)
    if not tally.searches or k < 1 or 1 - tally.found / (tally.searches * k) < EMPTY_SHARE:
        return []
    empty = f"{1 - tally.found / (tally.searches * k):.1%} of the neighbours' places are empty"
    lists = [one for one in indexes if one is not None]
    if len(lists) < len(indexes) or all(one.visited >= one.count for one in lists):
        return [f"{empty}: the index does not find {k} rows for each query; lower --k, or build another index"]
    visited = sum(one.visited * one.rows / one.count for one in lists)
    fewer, more = fitting(max(one.count for one in lists), max(one.visited for one in lists), visited, k)
    rebuilt = f"--ncentroids {fewer}" if len(lists) == 1 else "fewer --ncentroids"
    each = " and ".join(f"{one.visited} of {one.count} lists" for one in lists)
    return [
        f"{empty}: a search visits {each}, which hold about {visited:.0f} rows, and --k is {k}; give --probe {more},"
        f" or build the index with {rebuilt}"
    ]
