"""The flags of ``fairseq-knnlm sweep-cache``; imports neither torch nor FAISS."""

import dataclasses
from dataclasses import dataclass

from fairseq.config import flag
from fairseq.errors import ConfigError
from fairseq.knn.sweep_config import MOST_SETTINGS, values_of


@dataclass(frozen=True)
class CacheMixConfig:
    """Which weights, and of which retrieval."""

    directory: str = flag(
        dataclasses.MISSING, "what fairseq-eval-lm --save-retrieval --cache-size has written: the text to choose on",
        positional=True,
    )  # fmt: skip
    apply: str | None = flag(None, "another retrieval, on which the choices are reported: the test text")
    lmbda: str = flag("0:0.9:0.05", "weights λ of the neighbours: values and ranges FROM:TO:STEP, comma-separated")
    cache_lmbda: str = flag("0:0.9:0.05", "weights μ of the cache, likewise")
    k: int | None = flag(None, "neighbours; all that were saved, if left out", minimum=1)
    knn_temp: float | None = flag(None, "temperature T; that of the saved run, if left out", minimum=1e-9)
    out: str | None = flag(None, "directory of table and figures; DIRECTORY/sweep-cache if left out")
    resamples: int = flag(10_000, "resamples of the bootstrap that gives the intervals of the gains", minimum=100,
                          maximum=1_000_000)  # fmt: skip
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
