"""Sets of rows as ranges: sorted, half-open, apart from each other.

    {3, 4, 5, 9}   →   [3, 6) [9, 10)

What is forgotten of a datastore, and what is left of a source, are long runs of rows; as ranges they take a few lines
whatever their length.

Legend: R ranges.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fairseq.arrays import Bools, Int64s, Integers
from fairseq.config.flags import LARGEST_INT
from fairseq.errors import shown


class RowRanges:
    """A set of rows.

    Attributes:
        start_R, stop_R: int64, ascending; a range ends before the next one begins.
    """

    def __init__(self, start_R: Int64s, stop_R: Int64s) -> None:
        self.start_R, self.stop_R = start_R, stop_R
        self._before_R = np.concatenate([[0], np.cumsum(stop_R - start_R)])

    @classmethod
    def of(cls, pairs: Iterable[Sequence[int]] = ()) -> "RowRanges":
        """Returns the rows of ``[start, stop)`` pairs, which may overlap and come in any order."""
        bounds_R2 = np.array([pair for pair in pairs if pair[0] < pair[1]], np.int64).reshape(-1, 2)
        bounds_R2 = bounds_R2[np.argsort(bounds_R2[:, 0], kind="stable")]
        reach_R = np.maximum.accumulate(bounds_R2[:, 1])
        opens_R = np.ones(len(bounds_R2), bool)
        opens_R[1:] = bounds_R2[1:, 0] > reach_R[:-1]
        return cls(bounds_R2[opens_R, 0], reach_R[np.append(opens_R, True)[1:]] if len(reach_R) else reach_R)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return int(self._before_R[-1])

    @property
    def pairs(self) -> list[list[int]]:
        """The ranges as JSON has them."""
        return [[start, stop] for start, stop in zip(self.start_R.tolist(), self.stop_R.tolist(), strict=True)]

    def to_json(self) -> list[list[int]]:
        """Returns ``pairs``, for records."""
        return self.pairs

    @classmethod
    def from_json(cls, value: Any) -> "RowRanges":
        """Returns the rows of pairs from a file; raises ValueError unless there are some, sorted and apart."""
        last = -1
        for pair in value if isinstance(value, list) and value else [value]:
            is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(bound) is int for bound in pair)
            if not (is_pair and last < pair[0] < pair[1] <= LARGEST_INT):
                raise ValueError(f"must be ranges of rows, sorted and apart, but is {shown(value)}")
            last = pair[1]
        return cls.of(value)

    def __or__(self, other: "RowRanges") -> "RowRanges":
        return RowRanges.of([*self.pairs, *other.pairs])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowRanges) and self.pairs == other.pairs

    def within(self, start: int, stop: int) -> "RowRanges":
        """Returns the rows of ``[start, stop)``."""
        return RowRanges.of(
            zip(np.maximum(self.start_R, start).tolist(), np.minimum(self.stop_R, stop).tolist(), strict=True)
        )

    def complement(self, rows: int) -> "RowRanges":
        """Returns the rows of ``[0, rows)`` that are not here."""
        inside = self.within(0, rows)
        starts, stops = np.append(0, inside.stop_R), np.append(inside.start_R, rows)
        return RowRanges.of(zip(starts.tolist(), stops.tolist(), strict=True))

    def shifted(self, by: int) -> "RowRanges":
        """Returns every row's number plus ``by``."""
        return RowRanges(self.start_R + by, self.stop_R + by)

    def holds(self, ids: Integers) -> Bools:
        """Returns which of some rows are here, in their shape."""
        place = np.searchsorted(self.start_R, ids, side="right") - 1
        if not len(self.start_R):
            return np.zeros(np.shape(ids), bool)
        found: Bools = (place >= 0) & (ids < self.stop_R[np.maximum(place, 0)])
        return found

    def mask(self, start: int, stop: int) -> Bools:
        """Returns which rows of ``[start, stop)`` are here."""
        mask_N = np.zeros(stop - start, bool)
        inside = self.within(start, stop)
        for first, last in inside.pairs:
            mask_N[first - start : last - start] = True
        return mask_N

    def spaced(self, count: int) -> Int64s:
        """Returns ``count`` of the rows, ascending and evenly spaced; all where there are fewer."""
        return self.nth(evenly_spaced(self.num_rows, count))

    def ids(self) -> Int64s:
        """Returns the rows, ascending."""
        return self.nth(np.arange(self.num_rows))

    def nth(self, places: Integers) -> Int64s:
        """Returns the rows at some places of the ascending order: the inverse of ``place_of``."""
        which = np.searchsorted(self._before_R, places, side="right") - 1
        rows: Int64s = self.start_R[which] + (places - self._before_R[which])
        return rows

    def place_of(self, ids: Integers) -> Int64s:
        """Returns the places of rows, all of which must be here, in the ascending order."""
        which = np.searchsorted(self.start_R, ids, side="right") - 1
        places: Int64s = self._before_R[which] + (ids - self.start_R[which])
        return places


def evenly_spaced(total: int, count: int) -> Int64s:
    """Returns ``count`` numbers from 0 to ``total`` − 1, evenly spaced, both ends included; all if fewer."""
    return np.linspace(0, max(total - 1, 0), min(count, total)).astype(np.int64)


def shown_ranges(rows: RowRanges) -> str:
    """Returns ranges as people read them, the first few."""
    shown = [f"{start}:{stop}" for start, stop in rows.pairs[:4]]
    more = f" and {len(rows.pairs) - 4} more ranges" if len(rows.pairs) > 4 else ""
    return f"{', '.join(shown)}{more}"
