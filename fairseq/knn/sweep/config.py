"""The flags of ``fairseq-knnlm sweep`` and ``sweep-cache``."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import Dir, Values
from fairseq.knn.config import LEAST_TEMPERATURE
from fairseq.knn.sweep.grid import MOST_VALUES, Grid, powers, values_of, whole_values_of


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
    knn_temp: Values = flag("0.1,1,10,100", "temperatures T, as for --lmbda")

    def __post_init__(self) -> None:
        self.grid(MOST_VALUES)  # whatever can be said without the retrieval is said at once

    def grid(self, saved_k: int) -> Grid:
        """Returns the settings, of ``saved_k`` neighbours at the most."""
        return Grid(
            lmbdas=values_of(self.lmbda, "--lmbda", smallest=0, largest=1),
            ks=powers(saved_k) if self.k is None else whole_values_of(self.k, "--k"),
            temperatures=values_of(self.knn_temp, "--knn-temp", smallest=LEAST_TEMPERATURE),
        )


@dataclass(frozen=True)
class CacheSweepConfig(OfRetrievalConfig):
    """Which retrieval, and which weights to try."""

    lmbda: Values = flag("0:0.9:0.05", "weights λ of the neighbours: values and ranges FROM:TO:STEP, comma-separated")
    cache_lmbda: Values = flag("0:0.9:0.05", "weights μ of the cache, as for --lmbda")
    k: int | None = flag(None, "neighbours that vote [default: all that were saved]", minimum=1)
    knn_temp: float | None = flag(None, "temperature T; that of the saved run, if left out", minimum=LEAST_TEMPERATURE)

    def __post_init__(self) -> None:
        self.grid(1, 1.0, ())

    def grid(self, saved_k: int, saved_temp: float, caches: tuple[tuple[int, float], ...]) -> Grid:
        """Returns the settings, both weights 0 among them, of neighbours and caches that were saved."""
        return Grid(
            lmbdas=_with_zero(values_of(self.lmbda, "--lmbda", smallest=0, largest=1)),
            ks=(saved_k if self.k is None else self.k,),
            temperatures=(saved_temp if self.knn_temp is None else self.knn_temp,),
            caches=caches,
            cache_lmbdas=_with_zero(values_of(self.cache_lmbda, "--cache-lmbda", smallest=0, largest=1)),
        )


def _with_zero(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({0.0, *values}))
