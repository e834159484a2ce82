"""Numbers of the log: what ``reduce_metrics`` of a criterion calls, and the means that the log shows of it.

    with collecting() as readings:
        metrics.log_scalar("loss", 5.1, weight=1024)               # a mean, weighted
        metrics.log_derived("ppl", lambda m: 2 ** m["loss"].avg)   # computed of the means when they are shown
    readings.values()

A name that begins with ``_`` is not shown; others can be derived of it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_collecting: list["Readings"] = []


@dataclass
class Reading:
    """A weighted mean, or a sum.

    Attributes:
        sum: Σ value · weight.
        count: Σ weight.
        val: the last value.
        is_sum: whether the sum is shown, not the mean.
        round: decimals that are shown; None shows all.
    """

    sum: float
    count: float
    val: float
    is_sum: bool = False
    round: int | None = None

    @property
    def avg(self) -> float:
        """The mean, NaN of nothing."""
        return self.sum / self.count if self.count else math.nan

    @property
    def shown(self) -> float:
        """The number of the log."""
        value = self.sum if self.is_sum else self.avg
        return value if self.round is None else round(value, self.round)


Derive = Callable[[Mapping[str, Reading]], float]


@dataclass
class Readings:
    """The numbers of one update, or of many together."""

    means: dict[str, Reading] = field(default_factory=dict)
    derived: dict[str, Derive] = field(default_factory=dict)

    def log(self, name: str, value: float, weight: float, *, is_sum: bool = False, digits: int | None = None) -> None:
        """Adds a value to a mean; a value without weight counts nothing, whatever it is."""
        last = self.means.setdefault(name, Reading(0.0, 0.0, 0.0, is_sum, digits))
        if weight:
            last.sum, last.count, last.val = last.sum + value * weight, last.count + weight, value

    def add(self, other: "Readings") -> None:
        """Adds the readings of another update."""
        for name, more in other.means.items():
            mine = self.means.setdefault(name, Reading(0.0, 0.0, 0.0, more.is_sum, more.round))
            mine.sum, mine.count, mine.val = mine.sum + more.sum, mine.count + more.count, more.val
        self.derived.update(other.derived)

    def values(self) -> dict[str, float]:
        """Returns what is shown, by name."""
        shown = {name: mean.shown for name, mean in self.means.items()}
        shown.update((name, float(derive(self.means))) for name, derive in self.derived.items())
        return {name: value for name, value in shown.items() if not name.startswith("_")}


@contextmanager
def collecting() -> Iterator[Readings]:
    """Yields readings to which the calls below add, until it ends."""
    _collecting.append(Readings())
    try:
        yield _collecting[-1]
    finally:
        _collecting.pop()


def log_scalar(key: str, value: Any, weight: Any = 1, priority: int = 10, round: int | None = None) -> None:
    """Adds to a mean; outside of ``collecting`` it does nothing."""
    for readings in _collecting[-1:]:
        readings.log(key, float(value), float(weight), digits=round)


def log_scalar_sum(key: str, value: Any, priority: int = 10, round: int | None = None) -> None:
    """Adds to a sum."""
    for readings in _collecting[-1:]:
        readings.log(key, float(value), 1.0, is_sum=True, digits=round)


def log_derived(key: str, fn: Derive, priority: int = 20) -> None:
    """Adds a number that is computed of the others: ``fn({name: reading})``."""
    for readings in _collecting[-1:]:
        readings.derived[key] = fn
