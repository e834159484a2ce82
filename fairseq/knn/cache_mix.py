"""``fairseq-knnlm sweep-cache``: language model, neighbours and cache in every proportion, from one saved retrieval.

    p = (1 − λ − μ) p_LM + λ p_kNN + μ p_cache        λ + μ ≤ 1

for every λ, every μ, and every size and θ that the retrieval has a column of, at one k and temperature of the
neighbours. p_kNN and the mixtures are float64; a column of the cache is float32.

Legend: N tokens · S settings of the cache · L of λ · M of μ.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.alike import check_alike, warn_if_outdated
from fairseq.knn.cache_mix_config import CacheMixConfig
from fairseq.knn.retrieval import Retrieval
from fairseq.knn.retrieval_format import CACHE_COLUMN, array_path
from fairseq.knn.sweep import mixture_log_prob
from fairseq.knn.sweep_config import Setting
from fairseq.perplexity import perplexity_of

Float64s = npt.NDArray[np.float64]

# Rows of the table: the name, whether neighbours take part, whether the cache does.
_PARTS = (
    ("language model", False, False), ("+ cache", False, True), ("+ neighbours", True, False), ("+ both", True, True),
)  # fmt: skip
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


def mix(
    retrieval: Retrieval, k: int, knn_temp: float, lmbdas: tuple[float, ...], cache_lmbdas: tuple[float, ...]
) -> Mixed:
    """Returns the loss of every mixture.

    Raises:
        ConfigError: k is larger than what was saved.
        DatastoreError: the retrieval was saved without a cache, or distances are not in order.
    """
    caches, cache_NS = _cache_of(retrieval)
    knn_N = mixture_log_prob(retrieval, Setting(1.0, k, knn_temp))
    sum_SLM = np.zeros((len(caches), len(lmbdas), len(cache_lmbdas)))
    pairs = [
        (i, j, lmbda, weight)
        for i, lmbda in enumerate(lmbdas)
        for j, weight in enumerate(cache_lmbdas)
        if lmbda + weight <= 1 + _SLACK
    ]
    for start in range(0, len(retrieval), _TOKENS_AT_ONCE):
        rows = slice(start, start + _TOKENS_AT_ONCE)
        for s in range(len(caches)):
            log_p_N3 = np.stack([retrieval.lm_log_p_N[rows], knn_N[rows], cache_NS[rows, s].astype(np.float64)], 1)
            largest_N = log_p_N3.max(1)
            largest_N[np.isneginf(largest_N)] = 0
            p_N3 = np.exp(log_p_N3 - largest_N[:, None])
            for i, j, lmbda, weight in pairs:
                with np.errstate(divide="ignore"):  # ln 0 is −inf, and stays
                    log_N = np.log(p_N3 @ np.array([max(1 - lmbda - weight, 0.0), lmbda, weight]))
                sum_SLM[s, i, j] += float((log_N + largest_N).sum())
    allowed_LM = np.add.outer(lmbdas, cache_lmbdas) <= 1 + _SLACK
    loss_SLM = np.where(allowed_LM, -sum_SLM / len(retrieval) / math.log(2), np.inf)
    return Mixed(lmbdas, cache_lmbdas, caches, loss_SLM)


def run_cache_sweep(config: CacheMixConfig) -> Iterator[str]:
    """Yields the lines of a table: each part's best weights on one text, and what they give on another.

    Raises:
        ConfigError: k is larger than what was saved.
        DatastoreError: a retrieval cannot be read, or was saved without a cache.
        MismatchError: the other retrieval is of another model, datastore or cache.
    """
    texts = [Retrieval.open(directory) for directory in (config.directory, config.apply) if directory is not None]
    warn_if_outdated(texts[0])
    if len(texts) == 2:
        _check_alike(texts[0], texts[1], config.allow_mismatch)
    k = texts[0].k if config.k is None else config.k
    knn_temp = float(texts[0].manifest["knn_temp"]) if config.knn_temp is None else config.knn_temp
    results = [mix(text, k, knn_temp, config.lmbdas, config.cache_lmbdas) for text in texts]
    chosen = results[0]
    count = f"{chosen.loss_SLM.size:,} settings of {len(texts[0]):,} tokens"
    yield f"{count}; neighbours with --k {k} --knn-temp {knn_temp:g}"
    yield ""
    splits = [text.manifest["split"] for text in texts]
    yield f"| | {' | '.join(splits)} | chosen on {splits[0]} |"
    yield "|---|" + "---:|" * len(splits) + "---|"
    for name, neighbours, cache in _PARTS:
        s, i, j = chosen.best(neighbours=neighbours, cache=cache)
        numbers = " | ".join(f"{perplexity_of(float(result.loss_SLM[s, i, j])):.2f}" for result in results)
        flags = [f"--lmbda {chosen.lmbdas[i]:g}"] if neighbours else []
        if cache:
            setting = chosen.caches[s]
            flags += [f"--cache-size {setting['cache_size']} --cache-theta {setting['cache_theta']:g}"]
            flags += [f"--cache-lmbda {chosen.cache_lmbdas[j]:g}"]
        yield f"| {name} | {numbers} | {' '.join(flags)} |"


def _cache_of(retrieval: Retrieval) -> tuple[list[dict[str, Any]], npt.NDArray[np.float32]]:
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


def _check_alike(retrieval: Retrieval, other: Retrieval, allow: bool) -> None:
    if _cache_of(retrieval)[0] != _cache_of(other)[0]:
        raise ConfigError(
            f"{other.directory} was saved with other caches than {retrieval.directory}; save both with the same"
            " --cache-size and --cache-theta"
        )
    check_alike(retrieval, other, allow_mismatch=allow)
