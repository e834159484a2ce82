"""The flags of ``fairseq-knnlm sweep``, and the grammar of its grids; imports neither torch nor FAISS.

0.25            a value
1,8,64          values
0:1:0.05        from 0 to 1, both included, in steps of 0.05
0:0.5:0.1,0.9   several of these
"""

import dataclasses
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from fairseq.config.flags import flag
from fairseq.errors import ConfigError, shown

# Values of one flag, and settings of a sweep: beyond, it is a slip of the pen.
MOST_VALUES = 10_000
MOST_SETTINGS = 100_000
_SMALLEST, _LARGEST = Decimal("1e-9"), Decimal(2**31 - 1)
FIRST_TEMPERATURES = "0.1,1,10,100"


@dataclass(frozen=True)
class SweepConfig:
    """Which settings, and of which retrieval."""

    directory: str = flag(
        dataclasses.MISSING, "what fairseq-eval-lm --save-retrieval has written: the text to choose on", positional=True
    )
    apply: str | None = flag(None, "another retrieval, on which the chosen setting is reported: the test text")
    lmbda: str = flag("0:1:0.05", "weights λ: values and ranges FROM:TO:STEP, comma-separated")
    k: str | None = flag(None, "numbers of neighbours, likewise; 1, 4, 16, … and all that were saved, if left out")
    knn_temp: str = flag(FIRST_TEMPERATURES, "temperatures T, likewise")
    out: str | None = flag(None, "directory of table and figures; DIRECTORY/sweep if left out")
    resamples: int = flag(
        10_000, "resamples of the bootstrap that gives the interval of the gain", minimum=100, maximum=1_000_000
    )
    no_figures: bool = flag(False, "draw nothing (figures need matplotlib, the extra [plots])")
    allow_mismatch: bool = flag(False, "only warn when the two retrievals are of different models or datastores")

    def __post_init__(self) -> None:
        self.grid(MOST_VALUES)  # whatever can be said without the retrieval is said at once

    def grid(self, saved_k: int) -> "Grid":
        """Returns the settings, of ``saved_k`` neighbours at the most."""
        ks = powers(saved_k) if self.k is None else _whole(values_of(self.k, "--k"), "--k")
        grid = Grid(
            lmbdas=values_of(self.lmbda, "--lmbda", smallest=0, largest=1),
            ks=ks,
            temperatures=values_of(self.knn_temp, "--knn-temp", smallest=float(_SMALLEST)),
        )
        if len(grid) > MOST_SETTINGS:
            raise ConfigError(f"a sweep must have at most {MOST_SETTINGS} settings, but has {len(grid)}; give fewer")
        return grid


@dataclass(frozen=True)
class Setting:
    """λ, k and temperature of a kNN-LM."""

    lmbda: float
    k: int
    knn_temp: float


@dataclass(frozen=True)
class Grid:
    """Every combination of some values, each ascending."""

    lmbdas: tuple[float, ...]
    ks: tuple[int, ...]
    temperatures: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.lmbdas) * len(self.ks) * len(self.temperatures)


def powers(most: int) -> tuple[int, ...]:
    """Returns 1, 4, 16, … below ``most``, and ``most``."""
    below = (4**i for i in range(16))
    return (*(k for k in below if k < most), most)


def values_of(text: str, what: str, smallest: float | None = None, largest: float | None = None) -> tuple[float, ...]:
    """Returns the values that a list of numbers and ranges spells, ascending, each once.

    Steps are decimal, as they are written: 0:1:0.1 holds 0.3, not 0.30000000000000004.

    Raises:
        ConfigError: it spells no values, or some that are out of range.
    """
    found: set[float] = set()
    for part in text.split(","):
        numbers = [_number(word, text, what) for word in part.split(":")]
        if len(numbers) not in (1, 3):
            raise _bad(text, what)
        start, stop, step = numbers if len(numbers) == 3 else (numbers[0], numbers[0], Decimal(1))
        if step < _SMALLEST or stop < start:
            raise ConfigError(
                f"{what}: a range FROM:TO:STEP must go upwards in steps above 0, but is {shown(part)}; swap its ends"
            )
        count = int((stop - start) / step) + 1
        if count > MOST_VALUES:
            raise ConfigError(f"{what} must have at most {MOST_VALUES} values, but {shown(part)} has {count}")
        found |= {float(start + i * step) for i in range(count)}
    values = tuple(sorted(found))
    for value, limit, word in ((values[0], smallest, "at least"), (values[-1], largest, "at most")):
        if limit is not None and (value < limit if word == "at least" else value > limit):
            raise ConfigError(f"{what} must be {word} {limit:g}, but has {value:g}")
    return values


def _number(word: str, text: str, what: str) -> Decimal:
    try:
        number = Decimal(word.strip())
    except InvalidOperation as err:
        raise _bad(text, what) from err
    if not number.is_finite() or abs(number) > _LARGEST:
        raise _bad(text, what)
    return number


def _bad(text: str, what: str) -> ConfigError:
    return ConfigError(
        f"{what} must be numbers and ranges FROM:TO:STEP, such as 0:1:0.05 or 1,8,64, but is {shown(text)}"
    )


def _whole(values: tuple[float, ...], what: str) -> tuple[int, ...]:
    for value in values:
        if value != int(value) or value < 1:
            raise ConfigError(f"{what} must be whole numbers from 1 on, but has {value:g}")
    return tuple(int(value) for value in values)


@dataclass(frozen=True)
class CacheMixConfig:
    """Which weights, and of which retrieval."""

    directory: str = flag(
        dataclasses.MISSING,
        "what fairseq-eval-lm --save-retrieval --cache-size has written: the text to choose on",
        positional=True,
    )
    apply: str | None = flag(None, "another retrieval, on which the choices are reported: the test text")
    lmbda: str = flag("0:0.9:0.05", "weights λ of the neighbours: values and ranges FROM:TO:STEP, comma-separated")
    cache_lmbda: str = flag("0:0.9:0.05", "weights μ of the cache, likewise")
    k: int | None = flag(None, "neighbours; all that were saved, if left out", minimum=1)
    knn_temp: float | None = flag(None, "temperature T; that of the saved run, if left out", minimum=1e-9)
    out: str | None = flag(None, "directory of table and figures; DIRECTORY/sweep-cache if left out")
    resamples: int = flag(
        10_000, "resamples of the bootstrap that gives the intervals of the gains", minimum=100, maximum=1_000_000
    )
    no_figures: bool = flag(False, "draw nothing (figures need matplotlib, the extra [plots])")
    allow_mismatch: bool = flag(False, "only warn when the two retrievals are of different models or datastores")

    def __post_init__(self) -> None:
        count = len(self.lmbdas) * len(self.cache_lmbdas)
        if count > MOST_SETTINGS:
            raise ConfigError(f"a sweep must have at most {MOST_SETTINGS} settings, but has {count}; give fewer")

    @property
    def lmbdas(self) -> tuple[float, ...]:
        """Every λ, ascending; 0 among them, which is the model without neighbours."""
        return tuple(sorted({0.0, *values_of(self.lmbda, "--lmbda", smallest=0, largest=1)}))

    @property
    def cache_lmbdas(self) -> tuple[float, ...]:
        """Every μ, ascending; 0 among them, which is no cache."""
        return tuple(sorted({0.0, *values_of(self.cache_lmbda, "--cache-lmbda", smallest=0, largest=1)}))
