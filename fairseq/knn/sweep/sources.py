"""What language model, neighbours and caches say of each target of a saved retrieval.

Neighbours lie nearest first, so those of a smaller k are the first k. For a token with distances d_1 ≤ d_2 ≤ … to its
neighbours, and h the distance of its nearest hit,

    ln p_kNN = ln Σ_{i ≤ k, hit} exp((h − d_i) / T) − ln Σ_{i ≤ k} exp((d_1 − d_i) / T) − (h − d_1) / T

Neither h nor d_1 depends on k or T. So x = d − d_1, and d − h of the hits, are computed once. Every T takes one exp
over each; every k takes the sums of the segment since the k before, added up. All is float64; a cache's column is
float32.

Legend: N tokens · K neighbours · T temperatures · J values of k · S caches · H hits.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Bools, Float32s, Float64s
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.retrieval.format import CACHE_COLUMN, array_path
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.grid import Grid


def check_k(retrieval: Retrieval, k: int) -> None:
    """Raises ConfigError where fewer than ``k`` neighbours were saved."""
    if k > retrieval.k:
        raise ConfigError(
            f"--k {k} is more than the {retrieval.k} neighbours of each token in {retrieval.directory};"
            " give a smaller one, or save a retrieval with more"
        )


def log_prob_of_sources(retrieval: Retrieval, grid: Grid, rows: slice) -> list[Tensor]:
    """Returns ln p(target) of some tokens, float64: the model's ``[N]``, the neighbours' ``[T, J, 1, N]``.

    Behind them, where the grid has caches, theirs: ``[S, N]``.
    """
    sources = [torch.from_numpy(np.array(retrieval.lm_log_p_N[rows])), _log_p_knn(retrieval, grid, rows)[:, :, None]]
    if grid.caches:
        saved, column_NS = read_caches(retrieval)
        log_p_NS = column_NS[rows, [saved.index(cache) for cache in grid.caches]].astype(np.float64)
        sources.append(torch.from_numpy(np.ascontiguousarray(log_p_NS.T)))
    return sources


def read_caches(retrieval: Retrieval) -> tuple[tuple[tuple[int, float], ...], Float32s]:
    """Returns size and θ of each saved cache, and their column ``[N, S]``.

    Raises:
        DatastoreError: the retrieval was saved without a cache, or the column is not what its manifest says.
    """
    saved, column_NS = retrieval.manifest.get("cache"), retrieval.columns.get(CACHE_COLUMN)
    if saved is None or column_NS is None:
        raise DatastoreError(f"{retrieval.directory} was saved without a cache; save it again, with --cache-size")
    settings = saved.get("settings") if isinstance(saved, dict) else None
    sound = isinstance(settings, list) and all(
        isinstance(one, dict) and isinstance(one.get("cache_size"), int) and isinstance(one.get("cache_theta"), float)
        for one in settings
    )
    if not sound or not settings or column_NS.shape != (len(retrieval), len(settings)) or column_NS.dtype != np.float32:
        raise DatastoreError(
            f"{array_path(retrieval.directory, CACHE_COLUMN)} must be float32 with a column for each setting in the"
            " manifest, but is not; save the retrieval again"
        )
    return tuple((one["cache_size"], one["cache_theta"]) for one in settings), column_NS


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
    hits = _Hits(x_NK.numpy(), retrieval.hits_NK(rows)[:, :most], grid.ks)
    log_p_TJN = torch.empty((len(grid.temperatures), len(grid.ks), len(x_NK)), dtype=torch.float64)
    weights_NK = torch.empty_like(x_NK)
    for t, temperature in enumerate(grid.temperatures):
        torch.mul(x_NK, -1 / temperature, out=weights_NK).exp_()
        segments = [weights_NK[:, first:last].sum(1) for first, last in pairwise([0, *grid.ks])]
        total_JN = torch.stack(segments).cumsum_(0).clamp_(min=1)  # the nearest alone is 1
        log_p_TJN[t] = hits.log_mass(temperature) - total_JN.log_()
    return log_p_TJN.clamp_(max=0)


class _Hits:
    """The hits among the neighbours of N tokens, which lie at distances ``x_NK`` from the nearest one."""

    def __init__(self, x_NK: Float64s, hits_NK: Bools, ks: tuple[int, ...]) -> None:
        n, k = x_NK.shape
        hits_NK = hits_NK & np.isfinite(x_NK)
        row_H = np.repeat(np.arange(n), hits_NK.sum(axis=1))  # many times quicker than np.nonzero in two dimensions
        at_H = np.flatnonzero(hits_NK)
        x_H, column_H = x_NK.reshape(-1)[at_H], at_H - row_H * k
        first_of_row = np.flatnonzero(np.diff(row_H, prepend=-1))
        self.nearest_N = np.zeros(n)
        self.nearest_N[row_H[first_of_row]] = x_H[first_of_row]
        self.beyond_H = torch.from_numpy(x_H - self.nearest_N[row_H])
        # Where in [N, J] each hit counts first, and the first hit of each such place.
        place_H = row_H * len(ks) + np.searchsorted(ks, column_H, side="right")
        self.firsts = np.flatnonzero(np.diff(place_H, prepend=-1))
        self.places = place_H[self.firsts]
        self.num_ks = len(ks)

    def log_mass(self, temperature: float) -> Tensor:
        """Returns ln Σ exp((d_1 − d) / T) over the hits among the first k, ``[J, N]``."""
        mass_NJ = np.zeros((len(self.nearest_N), self.num_ks))
        if len(self.firsts):
            weights_H = torch.mul(self.beyond_H, -1 / temperature).exp_().numpy()
            mass_NJ.reshape(-1)[self.places] = np.add.reduceat(weights_H, self.firsts)
        return torch.from_numpy(mass_NJ).cumsum_(1).log_().t() - torch.from_numpy(self.nearest_N) / temperature
