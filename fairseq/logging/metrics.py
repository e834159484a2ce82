"""Numbers of the log: what ``reduce_metrics`` of a criterion calls, and the means that the log shows of it.

    with collecting() as readings:
        metrics.log_scalar("loss", 5.1, weight=1024)               # a mean, weighted
        metrics.log_derived("ppl", lambda m: 2 ** m["loss"].avg)   # computed of the means when they are shown
    readings.values()

A name that begins with ``_`` is not shown; others can be derived of it.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from fairseq.errors import ConfigError

_collecting: list["Readings"] = []
_told_at: dict[str, float] = {}  # when a speed was told last
_started: dict[str, tuple[float, int | None]] = {}  # times that are being taken, and their decimals


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

    get_smoothed_values = values  # fairseq's name


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


@contextmanager
def aggregate(name: str | None = None, new_root: bool = False) -> Iterator[Readings]:
    """Yields the readings of what is told inside, of which the log is told as well, except with ``new_root``."""
    with collecting() as readings:
        yield readings
    if not new_root:
        for outer in _collecting[-1:]:
            outer.add(readings)


def log_speed(key: str, value: Any, priority: int = 30, round: int | None = None) -> None:
    """Adds to a sum that is shown per second of the time since the call before; the first call only starts the time."""
    now, before = time.perf_counter(), _told_at.get(key)
    _told_at[key] = now
    if before is not None and now > before:
        log_scalar(key, float(value) / (now - before), now - before, round=round)


def log_start_time(key: str, priority: int = 40, round: int | None = None) -> None:
    """Begins to take a time."""
    _started[key] = time.perf_counter(), round


def log_stop_time(key: str, weight: Any = 0.0, prehook: Callable[[], Any] | None = None) -> None:
    """Adds the seconds since ``log_start_time`` to a sum, or to a mean per unit of a weight.

    Args:
        key: a time that was not begun is left out.
        weight: what is divided by.
        prehook: called before the time is read.
    """
    if key not in _started:
        return
    if prehook is not None:
        prehook()
    begun, digits = _started.pop(key)
    seconds = time.perf_counter() - begun
    if weight:
        log_scalar(key, seconds / float(weight), weight, round=digits)
    else:
        log_scalar_sum(key, seconds, round=digits)


def __getattr__(name: str) -> NoReturn:
    """Raises ConfigError for other names of fairseq's, since a run would end with a traceback where it is called."""
    if not name.startswith(("log_", "get_", "reset", "state_dict", "load_state")):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    raise ConfigError(
        f"metrics.{name} is not here; fairseq.metrics has aggregate, log_derived, log_scalar, log_scalar_sum,"
        " log_speed, log_start_time and log_stop_time: log_scalar takes any number"
    )
