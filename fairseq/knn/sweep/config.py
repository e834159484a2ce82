"""The flags of ``fairseq-knnlm sweep`` and ``sweep-cache``."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.knn.config import LEAST_TEMPERATURE
from fairseq.knn.sweep.grid import MOST_VALUES, Grid, powers, values_of, whole_values_of


@dataclass(frozen=True)
class OfRetrievalConfig:
    """Of which retrieval, and what is written."""

    directory: str = flag(
        dataclasses.MISSING,
        "what fairseq-eval-lm --save-retrieval (with --cache-size for sweep-cache) has written: the text to choose on",
        positional=True,
    )
    apply: str | None = flag(None, "another retrieval, on which the choice is reported: the test text")
    out: str | None = flag(None, "directory of table and figures; if left out, one in DIRECTORY named as the command")
    resamples: int = flag(
        10_000, "resamples of the bootstrap that gives the intervals of gains", minimum=100, maximum=1_000_000
    )
    overwrite: bool = flag(False, "replace an earlier sweep of other settings")
    no_figures: bool = flag(False, "draw nothing (figures need matplotlib, the extra [plots])")
    allow_mismatch: bool = flag(False, "only warn when the two retrievals are of different models or datastores")


@dataclass(frozen=True)
class SweepConfig(OfRetrievalConfig):
    """Which settings, and of which retrieval."""

    lmbda: str = flag("0:1:0.05", "weights λ: values and ranges FROM:TO:STEP, comma-separated")
    k: str | None = flag(None, "numbers of neighbours, likewise; 1, 4, 16, … and all that were saved, if left out")
    knn_temp: str = flag("0.1,1,10,100", "temperatures T, likewise")

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
    """Which weights, and of which retrieval."""

    lmbda: str = flag("0:0.9:0.05", "weights λ of the neighbours: values and ranges FROM:TO:STEP, comma-separated")
    cache_lmbda: str = flag("0:0.9:0.05", "weights μ of the cache, likewise")
    k: int | None = flag(None, "neighbours; all that were saved, if left out", minimum=1)
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
