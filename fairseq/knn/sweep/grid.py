"""The settings of a sweep, and the grammar of their values; imports neither torch nor FAISS.

0.25            a value
1,8,64          values
0:1:0.05        from 0 to 1, both included, in steps of 0.05
0:0.5:0.1,0.9   several of these
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from fairseq.config.flags import at_least
from fairseq.errors import ConfigError, shown
from fairseq.knn.config import AUTO, AUTO_GRID, LEAST_TEMPERATURE, multiple

# Values of one flag, and settings of a sweep: beyond, it is a slip of the pen.
MOST_VALUES = 10_000
MOST_SETTINGS = 100_000
_SMALLEST, _LARGEST = Decimal("1e-9"), Decimal(2**31 - 1)
_SLACK = 1e-9  # 0.7 + 0.3 is 1, whatever its binary digits add up to


@dataclass(frozen=True)
class Setting:
    """λ, k and temperature of a kNN-LM; size and θ of a cache, if there is one, and its weight μ."""

    lmbda: float
    k: int
    knn_temp: float
    cache: tuple[int, float] | None = None
    cache_lmbda: float = 0.0

    def values(self) -> dict[str, float]:
        """Returns every value by the name of its flag."""
        values = {"lmbda": self.lmbda, "k": self.k, "knn_temp": self.knn_temp}
        if self.cache is not None:
            size, theta = self.cache
            values |= {"cache_size": size, "cache_theta": theta, "cache_lmbda": self.cache_lmbda}
        return values


@dataclass(frozen=True)
class Grid:
    """Every combination of some values, each ascending; λ + μ is at most 1.

    Attributes:
        lmbdas: weights λ of the neighbours.
        ks: numbers of neighbours.
        temperatures: T.
        caches: size and θ of each saved cache; none for a sweep without.
        cache_lmbdas: weights μ of the cache.
    """

    lmbdas: tuple[float, ...]
    ks: tuple[int, ...]
    temperatures: tuple[float, ...]
    caches: tuple[tuple[int, float], ...] = ()
    cache_lmbdas: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        count = len(self) // max(len(self.caches), 1)
        if count > MOST_SETTINGS:
            raise ConfigError(f"a sweep must have at most {MOST_SETTINGS} settings, but has {count}; give fewer")

    def __len__(self) -> int:
        return math.prod(self.shape)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """How many temperatures, k, caches (1 without any), λ and μ there are."""
        return (
            len(self.temperatures),
            len(self.ks),
            max(len(self.caches), 1),
            len(self.lmbdas),
            len(self.cache_lmbdas),
        )

    @property
    def weights(self) -> dict[tuple[int, int], tuple[float, ...]]:
        """The weights of model, neighbours and, if there is one, cache, by the places of λ and μ."""
        weights: dict[tuple[int, int], tuple[float, ...]] = {}
        for (i, lmbda), (j, cache_lmbda) in itertools.product(enumerate(self.lmbdas), enumerate(self.cache_lmbdas)):
            rest = 1 - lmbda - cache_lmbda
            if rest >= -_SLACK:
                rest = rest if rest > _SLACK else 0.0
                weights[i, j] = (rest, lmbda, cache_lmbda) if self.caches else (rest, lmbda)
        return weights

    def setting(self, place: Sequence[int]) -> Setting:
        """Returns the setting at a place in an array of ``shape``."""
        t, j, s, i, m = place
        cache = self.caches[s] if self.caches else None
        return Setting(self.lmbdas[i], self.ks[j], self.temperatures[t], cache, self.cache_lmbdas[m])


def temperatures_of(text: str, unit: float) -> tuple[float, ...]:
    """Returns the temperatures that a list of numbers, ranges and ``auto`` spells; ``auto`` is multiples of the unit.

    Raises:
        ConfigError: it spells no values, or some that are out of range.
    """
    parts = text.split(",")
    numbers = ",".join(part for part in parts if part != AUTO)
    found = set(values_of(numbers, "--knn-temp", smallest=LEAST_TEMPERATURE, words=f"{AUTO}, ")) if numbers else set()
    if AUTO in parts:
        found |= {multiple(unit, factor) for factor in AUTO_GRID}
    return tuple(sorted(found))


def powers(most: int) -> tuple[int, ...]:
    """Returns 1, 4, 16, … below ``most``, and ``most``."""
    return (*itertools.takewhile(lambda k: k < most, (4**i for i in range(16))), most)


def values_of(
    text: str, what: str, smallest: float = -math.inf, largest: float = math.inf, words: str = ""
) -> tuple[float, ...]:
    """Returns the values that a list of numbers and ranges spells, ascending, each once.

    Steps are decimal, as they are written: 0:1:0.1 holds 0.3, not 0.30000000000000004. ``words`` name what else may
    stand there.

    Raises:
        ConfigError: it spells no values, or some that are out of range.
    """
    found: set[float] = set()
    for part in text.split(","):
        try:
            numbers = [Decimal(word) for word in part.split(":")]
        except InvalidOperation:
            numbers = []
        if len(numbers) not in (1, 3) or not all(n.is_finite() and abs(n) <= _LARGEST for n in numbers):
            raise ConfigError(
                f"{what} must be {words}numbers and ranges FROM:TO:STEP, such as 0:1:0.05 or 1,8,64, but is"
                f" {shown(text)}"
            )
        start, stop, step = numbers if len(numbers) == 3 else (numbers[0], numbers[0], Decimal(1))
        if step < _SMALLEST or stop < start:
            raise ConfigError(
                f"{what}: a range FROM:TO:STEP must go upwards in steps above 0, but is {shown(part)}; swap its ends"
            )
        count = int((stop - start) / step) + 1
        if count > MOST_VALUES:
            raise ConfigError(f"{what} must have at most {MOST_VALUES} values, but {shown(part)} has {count}")
        found |= {float(start + i * step) for i in range(count)}
    if min(found) < smallest:
        raise ConfigError(f"{what} must be {at_least(smallest, min(found))}, but has {min(found):g}")
    if max(found) > largest:
        raise ConfigError(f"{what} must be at most {largest:g}, but has {max(found):g}")
    return tuple(sorted(found))


def whole_values_of(text: str, what: str) -> tuple[int, ...]:
    """Returns the values that a list of whole numbers from 1 on spells, likewise."""
    values = values_of(text, what)
    for value in values:
        if value != int(value) or value < 1:
            raise ConfigError(f"{what} must be whole numbers from 1 on, but has {value:g}")
    return tuple(int(value) for value in values)
