"""Language model, neighbours and cache in every proportion, from one saved retrieval.

    p = (1 − λ − μ) p_LM + λ p_kNN + μ p_cache        λ + μ ≤ 1

for every λ, every μ, and every size and θ that the retrieval has a column of, at one k and temperature of the
neighbours. p_kNN and the mixtures are float64; a column of the cache is float32.

Legend: N tokens · S settings of the cache · L of λ · M of μ.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Float32s, Float64s
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.retrieval.format import CACHE_COLUMN, array_path
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.config import Setting
from fairseq.knn.sweep.sweep import mixture_log_prob
from fairseq.runtime.progress import Progress

_TOKENS_AT_ONCE = 4096
_SLACK = 1e-9  # 0.7 + 0.3 is 1, whatever its binary digits add up to


@dataclass(frozen=True)
class Mixed:
    """Losses of a retrieval's mixtures.

    Attributes:
        lmbdas: of the neighbours.
        cache_lmbdas: of the cache.
        caches: size and θ of each.
        loss_SLM: bits per token; +inf where λ + μ is above 1.
    """

    lmbdas: tuple[float, ...]
    cache_lmbdas: tuple[float, ...]
    caches: list[dict[str, Any]]
    loss_SLM: Float64s

    def best(self, *, neighbours: bool, cache: bool) -> tuple[int, int, int]:
        """Returns the place of the smallest loss, with the weight 0 for whatever is left out."""
        part_SLM = self.loss_SLM[:, : None if neighbours else 1, : None if cache else 1]
        part_SLM = np.where(np.isfinite(part_SLM), part_SLM, np.inf)
        s, i, j = np.unravel_index(int(np.argmin(part_SLM)), part_SLM.shape)
        return int(s), int(i), int(j)


class Sources:
    """What model, neighbours and caches say of each token of a retrieval, at one k and temperature.

    Raises:
        ConfigError: k is larger than what was saved.
        DatastoreError: the retrieval was saved without a cache, or distances are not in order.
    """

    def __init__(self, retrieval: Retrieval, k: int, knn_temp: float) -> None:
        self.caches, self._cache_NS = caches_of(retrieval)
        self.lm_N = retrieval.lm_log_p_N
        self._knn_N = mixture_log_prob(retrieval, Setting(1.0, k, knn_temp))

    def __len__(self) -> int:
        return len(self.lm_N)

    def relative(self, s: int, rows: slice) -> tuple[Float64s, Float64s]:
        """Returns each token's three probabilities of some rows, ``[3, N]``, and the log of what multiplies them."""
        log_p_3N = np.stack([self.lm_N[rows], self._knn_N[rows], self._cache_NS[rows, s].astype(np.float64)])
        largest_N = log_p_3N.max(0)
        largest_N[np.isneginf(largest_N)] = 0
        return np.exp(log_p_3N - largest_N), largest_N

    def log_prob(self, s: int, lmbda: float, weight: float) -> Float64s:
        """Returns ln p of every token's mixture, ``[N]``, with cache ``s``."""
        return _log_mixture(*self.relative(s, slice(None)), lmbda, weight)


def mix(sources: Sources, lmbdas: tuple[float, ...], cache_lmbdas: tuple[float, ...]) -> Mixed:
    """Returns the loss of every mixture."""
    sum_SLM = np.zeros((len(sources.caches), len(lmbdas), len(cache_lmbdas)))
    allowed_LM = np.add.outer(lmbdas, cache_lmbdas) <= 1 + _SLACK
    pairs = [(int(i), int(j)) for i, j in np.argwhere(allowed_LM)]
    with Progress("sweep caches", len(sources), "tokens") as progress:
        for start in range(0, len(sources), _TOKENS_AT_ONCE):
            rows = slice(start, min(start + _TOKENS_AT_ONCE, len(sources)))
            for s in range(len(sources.caches)):
                p_3N, largest_N = sources.relative(s, rows)
                for i, j in pairs:
                    sum_SLM[s, i, j] += float(_log_mixture(p_3N, largest_N, lmbdas[i], cache_lmbdas[j]).sum())
            progress.advance(rows.stop - start)
    loss_SLM = np.where(allowed_LM, -sum_SLM / len(sources) / math.log(2), np.inf)
    return Mixed(lmbdas, cache_lmbdas, sources.caches, loss_SLM)


def _log_mixture(p_3N: Float64s, largest_N: Float64s, lmbda: float, weight: float) -> Float64s:
    rest = 1 - lmbda - weight
    # Not a product of matrices: BLAS would start threads for three numbers a token.
    p_N = (rest if rest > _SLACK else 0.0) * p_3N[0]
    p_N += lmbda * p_3N[1]
    p_N += weight * p_3N[2]
    with np.errstate(divide="ignore"):  # ln 0 is −inf, and stays
        log_N: Float64s = np.log(p_N, out=p_N)
    return log_N + largest_N


def caches_of(retrieval: Retrieval) -> tuple[list[dict[str, Any]], Float32s]:
    """Returns the settings of the saved caches and their column."""
    saved, column = retrieval.manifest.get("cache"), retrieval.columns.get(CACHE_COLUMN)
    if saved is None or column is None:
        raise DatastoreError(f"{retrieval.directory} was saved without a cache; save it again, with --cache-size")
    settings = saved.get("settings") if isinstance(saved, dict) else None
    sound = isinstance(settings, list) and all(
        isinstance(one, dict) and isinstance(one.get("cache_size"), int) and isinstance(one.get("cache_theta"), float)
        for one in settings
    )
    if not sound or not settings or column.shape != (len(retrieval), len(settings)) or column.dtype != np.float32:
        raise DatastoreError(
            f"{array_path(retrieval.directory, CACHE_COLUMN)} must be float32 with a column for each setting in the"
            " manifest, but is not; save the retrieval again"
        )
    return settings, column


def check_same_caches(retrieval: Retrieval, other: Retrieval) -> None:
    """Raises ConfigError where two retrievals were saved with different caches."""
    if caches_of(retrieval)[0] != caches_of(other)[0]:
        raise ConfigError(
            f"{other.directory} was saved with other caches than {retrieval.directory}; save both with the same"
            " --cache-size and --cache-theta"
        )
