"""Every temperature, k, λ, cache and μ from one saved retrieval, exactly, in one pass over it.

    p = (1 − λ − μ) p_LM + λ p_kNN + μ p_cache        λ + μ ≤ 1

For a thousand tokens at a time, each source's probabilities are computed once (``sources.py``), and every setting
takes one logarithm more. All in float64; sums of tokens are added in the order of the rows, whatever the number of
threads. K of several runs would be found by their own searches: with an index whose own distances p_kNN uses, or that
finds the true neighbours, the same ones; else those of ``--k k --rerank K``.

Legend: N tokens · T temperatures · J values of k · S caches, 1 without any · L of λ · M of μ · W of both.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fairseq.arrays import Float64s
from fairseq.errors import DatastoreError
from fairseq.evaluate.mixture import mixtures
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.grid import Grid, Setting
from fairseq.knn.sweep.sources import log_prob_of_caches, log_prob_of_lm_and_neighbours
from fairseq.knn.threads import run_all, worker_threads
from fairseq.runtime.progress import Progress

# Tokens that a thread takes at a time: their float64 distances, 1,024 each, are 8 MiB. With fewer, calls of torch take
# longer than what they compute.
TOKENS_AT_ONCE = 1024
# Slices of so many tokens that threads share before their results are added up.
_SLICES_AT_ONCE = 64


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes:
        grid: its settings.
        num_tokens: N.
        log_p_sum_TJSLM: Σ ln p of every mixture; −inf where λ + μ is above 1.
        lm_log_p_sum: Σ ln p_LM.
    """

    grid: Grid
    num_tokens: int
    log_p_sum_TJSLM: Float64s
    lm_log_p_sum: float

    @property
    def loss_TJSLM(self) -> Float64s:  # noqa: N802 - an array by its shape
        """Bits per token; +inf where λ + μ is above 1."""
        loss_TJSLM: Float64s = self.log_p_sum_TJSLM / (-self.num_tokens * math.log(2))
        return loss_TJSLM

    @property
    def lm_loss(self) -> float:
        """Bits per token of the language model alone."""
        return self.lm_log_p_sum / (-self.num_tokens * math.log(2))

    def best(self, *, neighbours: bool = True, cache: bool = True) -> Setting:
        """Returns the setting of the smallest loss; of equal ones the first in the order of T, k, cache, λ, μ.

        Args:
            neighbours: whether they may have a weight; else λ is the first one.
            cache: whether it may have a weight; else μ is the first one.

        Raises:
            DatastoreError: no setting has a finite loss.
        """
        if not np.isfinite(self.loss_TJSLM).any():
            raise DatastoreError(
                "no setting of the sweep has a finite loss; give a --lmbda below 1, or check the model"
            )
        part_TJSLM = self.loss_TJSLM[..., : None if neighbours else 1, : None if cache else 1]
        smallest = int(np.argmin(np.where(np.isfinite(part_TJSLM), part_TJSLM, np.inf)))
        return self.grid.setting([int(place) for place in np.unravel_index(smallest, part_TJSLM.shape)])


def sweep(retrieval: Retrieval, grid: Grid) -> Swept:
    """Returns the sums of log-probabilities of every setting.

    Raises:
        ConfigError: a k is larger than what was saved.
        DatastoreError: distances are not in order, or a cache is not what it should be.
    """
    weights = grid.weights
    total_TJSW = np.zeros((*grid.shape[:3], len(weights)))

    def sums(rows: slice) -> Float64s:
        sources = log_prob_of_lm_and_neighbours(retrieval, grid, rows) + log_prob_of_caches(retrieval, grid, rows)
        mixed = mixtures(sources, weights.values())
        sums_TJSW: Float64s = torch.stack([log_p_TJSN.sum(-1) for log_p_TJSN in mixed], -1).numpy()
        return sums_TJSW

    with Progress("sweep caches" if grid.caches else "sweep", len(retrieval), "tokens") as progress:
        for rows, sums_TJSW in _in_order(retrieval, grid, sums):
            total_TJSW += sums_TJSW
            progress.advance(rows.stop - rows.start)
    log_p_sum_TJSLM = np.full(grid.shape, -np.inf)
    for w, (i, j) in enumerate(weights):
        log_p_sum_TJSLM[..., i, j] = total_TJSW[..., w]
    return Swept(grid, len(retrieval), log_p_sum_TJSLM, float(np.sum(retrieval.lm_log_p_N)))


def log_probs_of(retrieval: Retrieval, settings: Sequence[Setting]) -> Float64s:
    """Returns ln p of every token's mixture, float64 ``[settings, N]``, for settings of the same k and temperature.

    It raises what ``sweep`` does.
    """
    grids = [
        Grid((one.lmbda,), (one.k,), (one.knn_temp,), () if one.cache is None else (one.cache,), (one.cache_lmbda,))
        for one in settings
    ]

    def mixed(rows: slice) -> Float64s:
        sources = log_prob_of_lm_and_neighbours(retrieval, grids[0], rows)
        mixed = [
            next(mixtures([*sources, *log_prob_of_caches(retrieval, grid, rows)], grid.weights.values()))
            for grid in grids
        ]
        return torch.stack(mixed).flatten(1).numpy()

    return np.concatenate([mixed_XN for _, mixed_XN in _in_order(retrieval, grids[0], mixed)], axis=1)


def _in_order(retrieval: Retrieval, grid: Grid, work: Callable[[slice], Float64s]) -> Iterator[tuple[slice, Float64s]]:
    """Yields what ``work`` makes of each slice of tokens, in order, computed by as many threads as torch has."""
    retrieval.check_k(grid.ks[-1])
    starts = range(0, len(retrieval), TOKENS_AT_ONCE)
    slices = [slice(start, min(start + TOKENS_AT_ONCE, len(retrieval))) for start in starts]
    with worker_threads() as workers:
        for first in range(0, len(slices), _SLICES_AT_ONCE):
            some = slices[first : first + _SLICES_AT_ONCE]
            yield from zip(some, run_all(workers, work, some), strict=True)
