"""The flags of ``fairseq-knnlm sweep`` and ``sweep-cache``."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import Dir, Values
from fairseq.knn.config import AUTO
from fairseq.knn.sweep.grid import MOST_VALUES, Grid, powers, temperatures_of, values_of, whole_values_of


@dataclass(frozen=True)
class OfRetrievalConfig:
    """Of which retrieval, and what is written."""

    directory: Dir = flag(
        dataclasses.MISSING,
        "directory that fairseq-eval-lm --save-retrieval wrote: the text to choose on; for sweep-cache also with"
        " --cache-size",
        positional=True,
    )
    apply: Dir | None = flag(None, "another saved retrieval, to report the choice on: the test text")
    out: Dir | None = flag(None, "where table and figures go [default: DIRECTORY/sweep or DIRECTORY/sweep-cache]")
    resamples: int = flag(10_000, "bootstrap resamples, for the intervals of gains", minimum=100, maximum=1_000_000)
    overwrite: bool = flag(False, "replace an earlier sweep of other settings")
    no_figures: bool = flag(False, "draw nothing (figures need matplotlib, the extra [plots])")
    allow_mismatch: bool = flag(False, "only warn if the two retrievals are of different models or datastores")


@dataclass(frozen=True)
class SweepConfig(OfRetrievalConfig):
    """Which retrieval, and which settings to try."""

    lmbda: Values = flag("0:1:0.05", "weights λ: values and ranges FROM:TO:STEP, comma-separated")
    k: Values | None = flag(
        None, "numbers of neighbours, as for --lmbda [default: 1, 4, 16, … and all that were saved]"
    )
    knn_temp: Values | None = flag(
        None,
        "temperatures T, as for --lmbda; auto stands for 0.01 to 10 times the median squared distance from a row to the"
        " nearest other one [default: auto; of inner products 0.1,1,10,100]",
    )

    def __post_init__(self) -> None:
        # Whatever can be said without the retrieval is said at once.
        self.grid(MOST_VALUES, temperatures_of(self.knn_temp or AUTO, 1.0))

    def ks(self, saved_k: int) -> tuple[int, ...]:
        """Returns the numbers of neighbours, of ``saved_k`` at the most."""
        return powers(saved_k) if self.k is None else whole_values_of(self.k, "--k")

    def grid(self, saved_k: int, temperatures: tuple[float, ...]) -> Grid:
        """Returns the settings, of ``saved_k`` neighbours at the most."""
        return Grid(
            lmbdas=values_of(self.lmbda, "--lmbda", smallest=0, largest=1),
            ks=self.ks(saved_k),
            temperatures=temperatures,
        )


@dataclass(frozen=True)
class CacheSweepConfig(OfRetrievalConfig):
    """Which retrieval, and which weights to try."""

    lmbda: Values = flag("0:0.9:0.05", "weights λ of the neighbours: values and ranges FROM:TO:STEP, comma-separated")
    cache_lmbda: Values = flag("0:0.9:0.05", "weights μ of the cache, as for --lmbda")
    k: int | None = flag(None, "neighbours that vote [default: sweep's choice, else all that were saved]", minimum=1)
    knn_temp: Values | None = flag(
        None,
        "temperature T, or several and auto, of which the best one for neighbours alone is taken [default: as sweep has"
        " chosen, else auto]",
    )

    def __post_init__(self) -> None:
        temperatures_of(self.knn_temp or AUTO, 1.0)
        self.grid(1, 1.0, ())

    def grid(self, k: int, temperature: float, caches: tuple[tuple[int, float], ...]) -> Grid:
        """Returns the settings, both weights 0 among them, of caches that were saved."""
        return Grid(
            lmbdas=self.lmbdas,
            ks=(k,),
            temperatures=(temperature,),
            caches=caches,
            cache_lmbdas=_with_zero(values_of(self.cache_lmbda, "--cache-lmbda", smallest=0, largest=1)),
        )

    @property
    def lmbdas(self) -> tuple[float, ...]:
        """The weights λ, 0 among them."""
        return _with_zero(values_of(self.lmbda, "--lmbda", smallest=0, largest=1))


def _with_zero(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({0.0, *values}))
