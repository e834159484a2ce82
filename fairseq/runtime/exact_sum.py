"""Sums of float64 numbers that no order changes: what several processes add up is what one does, to the bit."""

import math
from collections.abc import Iterable


class ExactSum:
    """A sum that is exact until it is read, as ``math.fsum`` computes it, and goes on.

    It is kept as a few numbers whose digits do not overlap. Two sums are added by adding the parts of one to the other.

    Source: Shewchuk, Adaptive precision floating-point arithmetic and fast robust geometric predicates, 1997.
    """

    def __init__(self, numbers: Iterable[float] = ()) -> None:
        self._parts: list[float] = []
        self._not_finite = 0.0
        self.extend(numbers)

    @property
    def parts(self) -> list[float]:
        """Numbers whose sum it is, at most a few; what is not finite comes last."""
        return [*self._parts, *([] if self._not_finite == 0 else [self._not_finite])]

    @property
    def value(self) -> float:
        """The sum, rounded once."""
        return math.fsum(self._parts) + self._not_finite

    def extend(self, numbers: Iterable[float]) -> None:
        """Adds numbers, or the ``parts`` of another sum."""
        for number in numbers:
            self.add(number)

    def add(self, number: float) -> None:
        """Adds a number."""
        if not math.isfinite(number):
            self._not_finite += number
            return
        kept = 0
        for part in self._parts:
            large, small = (number, part) if abs(number) >= abs(part) else (part, number)
            number = large + small
            if error := small - (number - large):
                self._parts[kept] = error
                kept += 1
        self._parts[kept:] = [number]
