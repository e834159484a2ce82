"""The flags of the continuous cache, in a module that does not import torch."""

import itertools
import logging
from dataclasses import dataclass

from fairseq.config import flag
from fairseq.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheConfig:
    """The continuous cache; lists are swept in one pass."""

    cache_size: tuple[int, ...] = flag((), "earlier targets of the text that the cache holds", minimum=1)
    cache_lmbda: tuple[float, ...] = flag(
        (0.0,), "weight μ of the cache: p = (1 − λ − μ) p_LM + λ p_kNN + μ p_cache", minimum=0, maximum=1
    )
    cache_theta: tuple[float, ...] = flag(
        (1.0,), "flatness θ: an earlier target's weight is exp(θ h·h′), of its context vector and the present one",
        minimum=0,
    )  # fmt: skip

    @property
    def pairs(self) -> list[tuple[int, float]]:
        """Every size with every θ."""
        return list(itertools.product(self.cache_size, self.cache_theta))

    @property
    def is_on(self) -> bool:
        """Whether a cache has any weight."""
        return bool(self.cache_size) and any(self.cache_lmbda)

    @property
    def is_sweep(self) -> bool:
        """Whether there is more than one setting to try."""
        return self.is_on and max(len(self.cache_size), len(self.cache_lmbda), len(self.cache_theta)) > 1

    @property
    def weight(self) -> float:
        """μ where there is one; 0 in a sweep, which mixes by itself, and without a cache."""
        return self.cache_lmbda[0] if self.is_on and not self.is_sweep else 0.0

    def check(self, num_models: int, num_shards: int, lmbda: float | None, *, prints_words: bool, saves: bool) -> None:
        """Refuses what a cache cannot be combined with.

        Args:
            num_models: averaged.
            num_shards: of the evaluation.
            lmbda: the neighbours' weight, if there are any.
            prints_words: words and their probabilities are printed.
            saves: what the caches say of each token is kept; then they need no weight.

        Raises:
            ConfigError: shards, several models, weights above 1, or a sweep of what is no single result.
        """
        if not self.cache_size:
            return
        if num_shards > 1:
            raise ConfigError("--cache-size needs the text in order and cannot be sharded; leave --num-shards out")
        if num_models > 1:
            raise ConfigError("--path names several checkpoints, but a cache holds the vectors of one; give one")
        if not self.is_on and not saves:
            logger.warning("--cache-size has no effect with --cache-lmbda 0; give --cache-lmbda, such as 0.1")
        if self.is_sweep and lmbda is not None and not saves:
            raise ConfigError("--knnlm with lists of cache settings needs --save-retrieval; give that, or one setting")
        if self.is_sweep and prints_words:
            raise ConfigError("words are printed for one cache setting, but there are several; give one")
        if lmbda is not None and lmbda + self.weight > 1 + 1e-9:
            raise ConfigError(
                f"--lmbda {lmbda} and --cache-lmbda {self.weight} must add up to at most 1, but are"
                f" {lmbda + self.weight:g}; lower one"
            )
