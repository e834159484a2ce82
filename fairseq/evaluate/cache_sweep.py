"""Many settings of the continuous cache in one pass: the model runs once, and each mixture has its own sum."""

from typing import Any

from torch import from_numpy

from fairseq.criterions.perplexity import Perplexity
from fairseq.evaluate.cache import CACHE_COLUMN
from fairseq.evaluate.config import CacheConfig
from fairseq.evaluate.mixture import interpolate
from fairseq.evaluate.sequence_scorer import ScoredBatch


class CacheSweep:
    """A perplexity of the language model and the cache for each size, θ and weight."""

    def __init__(self, config: CacheConfig) -> None:
        pairs = enumerate(config.pairs)
        self._sums = [(s, pair, weight, Perplexity()) for s, pair in pairs for weight in config.cache_lmbda]

    def add(self, scored: ScoredBatch, num_joined: int = 0) -> None:
        """Adds a batch to every sum."""
        log_p_lm_N, cache_log_p_NS = from_numpy(scored.model_log_p_N), from_numpy(scored.columns[CACHE_COLUMN])
        for s, _, weight, perplexity in self._sums:
            log_p_N = interpolate(log_p_lm_N, cache_log_p_NS[:, s], weight)
            perplexity.add(log_p_N.numpy(), scored.target_N, num_joined)

    def best(self) -> Perplexity:
        """Returns the lowest."""
        return min((perplexity for *_, perplexity in self._sums), key=lambda perplexity: perplexity.loss)

    def rows(self) -> list[dict[str, Any]]:
        """Returns each setting and its result, best first, as plain values."""
        rows = [
            {
                "cache_size": size,
                "cache_theta": theta,
                "cache_lmbda": weight,
                "loss_base2": perplexity.loss,
                "ppl": perplexity.ppl,
            }
            for _, (size, theta), weight, perplexity in self._sums
        ]
        return sorted(rows, key=lambda row: row["loss_base2"])

    def table(self) -> str:
        """Returns the rows as lines of text."""
        lines = [
            f"{row['cache_size']:>12} {row['cache_theta']:>13g} {row['cache_lmbda']:>13g} {row['loss_base2']:>15.4f}"
            f" {row['ppl']:>12.2f}\n"
            for row in self.rows()
        ]
        return "--cache-size --cache-theta --cache-lmbda   Loss (base 2)   Perplexity\n" + "".join(lines)
