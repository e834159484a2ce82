"""What the searches of a run have found: how many of the places are empty, and how much the nearest neighbour weighs.

    places      k of each search          empty where the lists that are visited hold fewer rows
    nearest     exp(−d_1 / T) / Σ exp(−d_i / T)      near 1: the others hardly count, T is low

Both are known where p_kNN is computed, so that they cost no pass of their own.

Legend: N queries · K neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Bools, Float32s
from fairseq.knn.index.lists import fitting
from fairseq.knn.neighbours.distribution import Votes, log_prob_and_nearest

# From which share of empty places on a run warns.
EMPTY_SHARE = 0.05


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
    nearest: float = 0.0

    def add(self, other: "Tally") -> None:
        """Adds further searches."""
        self.searches += other.searches
        self.found += other.found
        self.with_any += other.with_any
        self.nearest += other.nearest

    def record(self, k: int) -> dict[str, Any]:
        """Returns the shares as plain values for JSON, null where nothing was searched for or found."""
        places = self.searches * k
        return {
            "k": k,
            "found_mean": self.found / self.searches if self.searches else None,
            "empty_share": 1 - self.found / places if places else None,
            "nearest_share": self.nearest / self.with_any if self.with_any else None,
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
    return log_p_N, Tally(len(any_N), int(np.count_nonzero(there_NK)), int(any_N.sum()), float(nearest_N[any_N].sum()))


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
