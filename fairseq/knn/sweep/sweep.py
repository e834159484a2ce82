"""Every λ, k and temperature from one saved retrieval, exactly, in one pass over it.

Neighbours lie nearest first, so those of a smaller k are the first k. For a token with distances d_1 ≤ d_2 ≤ … to its
neighbours, and h the distance of its nearest hit,

    ln p_kNN = ln Σ_{i ≤ k, hit} exp((h − d_i) / T) − ln Σ_{i ≤ k} exp((d_1 − d_i) / T) − (h − d_1) / T

Neither h nor d_1 depends on k or T. So, for a few hundred tokens at a time:

    1. x = d − d_1 once, and d − h of the hits once
    2. for every T, one exp over each; for every k, the sums of the segment since the k before, added up
    3. for every (T, k), e^(ln p_LM − m) and e^(ln p_kNN − m) with m the larger one; for every λ one logarithm

All in float64; sums of tokens are added in the order of the rows, whatever the number of threads. K of several runs
would be found by their own searches: with an index whose own distances p_kNN uses, or that finds the true neighbours,
the same ones; else those of ``--k k --rerank K``.

Legend: N tokens · K neighbours · T temperatures · J values of k · L of λ · H hits.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Bools, Float64s, Int64s
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.retrieval.format import array_path
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.config import Grid, Setting
from fairseq.runtime.progress import Progress

# Tokens that a thread takes at a time: their float64 distances, 1,024 each, are 2 MiB.
TOKENS_AT_ONCE = 256


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes:
        grid: its settings.
        num_tokens: N.
        log_p_sum_TJL: Σ ln p of the mixture, for every temperature, k and λ.
        lm_log_p_sum: Σ ln p_LM.
    """

    grid: Grid
    num_tokens: int
    log_p_sum_TJL: Float64s
    lm_log_p_sum: float

    @property
    def loss_TJL(self) -> Float64s:  # noqa: N802 - an array by its shape
        """Bits per token."""
        loss_TJL: Float64s = self.log_p_sum_TJL / (-self.num_tokens * math.log(2))
        return loss_TJL

    @property
    def lm_loss(self) -> float:
        """Bits per token of the language model alone."""
        return self.lm_log_p_sum / (-self.num_tokens * math.log(2))

    def best(self) -> Setting:
        """Returns the setting of the smallest loss; of equal ones that with the smallest T, then k, then λ.

        Raises:
            DatastoreError: no setting has a finite loss.
        """
        loss_TJL = np.where(np.isfinite(self.loss_TJL), self.loss_TJL, np.inf)
        t, j, i = np.unravel_index(int(np.argmin(loss_TJL)), loss_TJL.shape)
        if not np.isfinite(loss_TJL[t, j, i]):
            raise DatastoreError(
                "no setting of the sweep has a finite loss; give a --lmbda below 1, or check the model"
            )
        return Setting(self.grid.lmbdas[i], self.grid.ks[j], self.grid.temperatures[t])


def sweep(retrieval: Retrieval, grid: Grid) -> Swept:
    """Returns the sums of log-probabilities of every setting.

    Raises:
        ConfigError: a k is larger than what was saved.
        DatastoreError: distances are not in order.
    """
    total_TJL = np.zeros((len(grid.temperatures), len(grid.ks), len(grid.lmbdas)))

    def sums(rows: slice) -> Float64s:
        lm_N = torch.from_numpy(np.array(retrieval.lm_log_p_N[rows]))
        return _sums_of_mixtures(lm_N, _log_p_knn(retrieval, grid, rows), grid.lmbdas)

    with Progress("sweep", len(retrieval), "tokens") as progress:
        for rows, sums_TJL in _in_order(retrieval, grid, sums):
            total_TJL += sums_TJL
            progress.advance(rows.stop - rows.start)
    return Swept(grid, len(retrieval), total_TJL, float(np.sum(retrieval.lm_log_p_N)))


def mixture_log_prob(retrieval: Retrieval, setting: Setting) -> Float64s:
    """Returns ln p of every token's mixture, float64 ``[N]``, for one setting; raises what ``sweep`` does."""
    grid = Grid((setting.lmbda,), (setting.k,), (setting.knn_temp,))
    log_p_N = np.empty(len(retrieval))

    def mixed(rows: slice) -> Float64s:
        lm_N = torch.from_numpy(np.array(retrieval.lm_log_p_N[rows]))
        mixed_N: Float64s = next(_mixtures(lm_N, _log_p_knn(retrieval, grid, rows), grid.lmbdas))[0, 0].numpy()
        return mixed_N

    for rows, mixed_N in _in_order(retrieval, grid, mixed):
        log_p_N[rows] = mixed_N
    return log_p_N


def _in_order(retrieval: Retrieval, grid: Grid, work: Callable[[slice], Float64s]) -> Iterator[tuple[slice, Float64s]]:
    """Yields what ``work`` makes of each slice of tokens, in order, computed by as many threads as torch has."""
    if grid.ks[-1] > retrieval.k:
        raise ConfigError(
            f"--k {grid.ks[-1]} is more than the {retrieval.k} neighbours of each token in {retrieval.directory};"
            " give a smaller one, or save a retrieval with more"
        )
    starts = range(0, len(retrieval), TOKENS_AT_ONCE)
    slices = [slice(start, min(start + TOKENS_AT_ONCE, len(retrieval))) for start in starts]
    workers = ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures: list[Future[Float64s]] = [workers.submit(work, rows) for rows in slices]
        for number, rows in enumerate(slices):
            yield rows, futures[number].result()
    finally:
        workers.shutdown(cancel_futures=True)


def _log_p_knn(retrieval: Retrieval, grid: Grid, rows: slice) -> Tensor:
    """Returns ln p_kNN(target), float64 ``[T, J, N]``, of some tokens; −inf without a hit."""
    most = grid.ks[-1]
    distances_NK = np.array(retrieval.distances_NK[rows, :most])
    if not (distances_NK[:, 1:] >= distances_NK[:, :-1]).all():
        raise DatastoreError(
            f"{array_path(retrieval.directory, 'distances')}: tokens {rows.start} to {rows.stop - 1} must have their"
            " neighbours nearest first, but have not; save the retrieval again"
        )
    x_NK = torch.from_numpy(distances_NK).double()
    nearest_N1 = x_NK[:, :1].clone()
    nearest_N1[nearest_N1.isinf()] = 0  # a token without neighbours has no hit either; keeps inf − inf out
    x_NK -= nearest_N1
    hits = _Hits.of(x_NK.numpy(), retrieval.hits_NK(rows)[:, :most], grid.ks)
    edges = [0, *grid.ks]
    log_p_TJN = torch.empty((len(grid.temperatures), len(grid.ks), len(x_NK)), dtype=torch.float64)
    weights_NK = torch.empty_like(x_NK)
    for t, temperature in enumerate(grid.temperatures):
        torch.mul(x_NK, -1 / temperature, out=weights_NK).exp_()
        total_JN = torch.stack([weights_NK[:, first:last].sum(1) for first, last in pairwise(edges)]).cumsum_(0)
        log_p_TJN[t] = hits.log_mass(temperature) - total_JN.clamp_(min=1).log_()  # the nearest alone is 1
    return log_p_TJN.clamp_(max=0)


@dataclass(frozen=True)
class _Hits:
    """The hits of N tokens, in the order of the rows.

    Attributes:
        beyond_H: distance less that of the token's nearest hit.
        firsts: of every token and segment that has hits, the first.
        place: where in ``[N, J]`` these are.
        nearest_N: the nearest hit's distance less the nearest neighbour's; 0 without a hit.
        num_segments: J.
    """

    beyond_H: Tensor
    firsts: Int64s
    place: Int64s
    nearest_N: Tensor
    num_segments: int

    @classmethod
    def of(cls, x_NK: Float64s, hits_NK: Bools, ks: tuple[int, ...]) -> "_Hits":
        """Returns the hits among the neighbours at distances ``x_NK`` from the nearest."""
        n, k = x_NK.shape
        hits_NK = hits_NK & np.isfinite(x_NK)
        rows = np.repeat(np.arange(n), hits_NK.sum(axis=1))  # many times quicker than np.nonzero in two dimensions
        at_H = np.flatnonzero(hits_NK)
        x_H, columns = x_NK.reshape(-1)[at_H], at_H - rows * k
        nearest_N = np.zeros(n)
        first_of_row = np.flatnonzero(np.diff(rows, prepend=-1))
        nearest_N[rows[first_of_row]] = x_H[first_of_row]
        segment_K = np.searchsorted(ks, np.arange(k), side="right")
        place_H = rows * len(ks) + segment_K[columns]
        firsts = np.flatnonzero(np.diff(place_H, prepend=-1))
        beyond_H = torch.from_numpy(x_H - nearest_N[rows])
        return cls(beyond_H, firsts, place_H[firsts], torch.from_numpy(nearest_N), len(ks))

    def log_mass(self, temperature: float) -> Tensor:
        """Returns ln Σ exp((d_1 − d) / T) over the hits among the first k, ``[J, N]``."""
        mass_NJ = np.zeros((len(self.nearest_N), self.num_segments))
        if len(self.firsts):
            weights_H = torch.mul(self.beyond_H, -1 / temperature).exp_().numpy()
            mass_NJ.reshape(-1)[self.place] = np.add.reduceat(weights_H, self.firsts)
        return torch.from_numpy(mass_NJ).cumsum_(1).log_().t() - self.nearest_N / temperature


def _mixtures(lm_N: Tensor, knn_TJN: Tensor, lmbdas: tuple[float, ...]) -> Iterator[Tensor]:
    """Yields ln((1 − λ) p_LM + λ p_kNN), ``[T, J, N]``, for every λ; 0 and 1 give either to the bit."""
    larger_TJN = torch.maximum(lm_N, knn_TJN)
    larger_TJN[larger_TJN.isneginf()] = 0
    lm_TJN, other_TJN = (lm_N - larger_TJN).exp_(), (knn_TJN - larger_TJN).exp_()
    for lmbda in lmbdas:
        if lmbda == 0:
            yield lm_N.expand_as(knn_TJN)
        elif lmbda == 1:
            yield knn_TJN
        else:
            yield torch.add(lm_TJN * (1 - lmbda), other_TJN, alpha=lmbda).log_() + larger_TJN


def _sums_of_mixtures(lm_N: Tensor, knn_TJN: Tensor, lmbdas: tuple[float, ...]) -> Float64s:
    sums: Float64s = torch.stack([mixed_TJN.sum(2) for mixed_TJN in _mixtures(lm_N, knn_TJN, lmbdas)], 2).numpy()
    return sums
