"""What language model, neighbours and caches say of each target of a saved retrieval.

Neighbours lie nearest first, so those of a smaller k are the first k, and ``log_probs`` gives every temperature and k
at once. All is float64; a cache's column is float32.

Legend: N tokens · T temperatures · J values of k · S caches.
"""

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Float32s
from fairseq.errors import DatastoreError
from fairseq.evaluate.cache import CACHE_COLUMN
from fairseq.knn.neighbours.distribution import log_probs
from fairseq.knn.retrieval.format import array_path
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.grid import Grid


def log_prob_of_lm_and_neighbours(retrieval: Retrieval, grid: Grid, rows: slice) -> list[Tensor]:
    """Returns ln p(target) of some tokens, float64: the model's ``[N]``, the neighbours' ``[T, J, 1, N]``."""
    most = grid.ks[-1]
    distances_NK = np.array(retrieval.distances_NK[rows, :most])
    if not (distances_NK[:, 1:] >= distances_NK[:, :-1]).all():
        raise DatastoreError(
            f"{array_path(retrieval.directory, 'distances')}: tokens {rows.start} to {rows.stop - 1} must have their"
            " neighbours nearest first, but have not; save the retrieval again"
        )
    hits_NK = retrieval.hits_NK(rows)[:, :most] & np.isfinite(distances_NK)
    log_p_knn_TJN = torch.from_numpy(log_probs(distances_NK, hits_NK, grid.temperatures, grid.ks))
    return [torch.from_numpy(np.array(retrieval.lm_log_p_N[rows])), log_p_knn_TJN[:, :, None]]


def log_prob_of_caches(retrieval: Retrieval, grid: Grid, rows: slice) -> list[Tensor]:
    """Returns ln p(target) of some tokens by the grid's caches, float64 ``[S, N]``; an empty list if it has none."""
    if not grid.caches:
        return []
    saved, column_NS = read_caches(retrieval)
    log_p_NS = column_NS[rows, [saved.index(cache) for cache in grid.caches]].astype(np.float64)
    return [torch.from_numpy(np.ascontiguousarray(log_p_NS.T))]


def read_caches(retrieval: Retrieval) -> tuple[tuple[tuple[int, float], ...], Float32s]:
    """Returns size and θ of each saved cache, and their column ``[N, S]``.

    Raises:
        DatastoreError: the retrieval was saved without a cache, or the column is not what its manifest says.
    """
    saved, column_NS = retrieval.manifest.cache, retrieval.columns.get(CACHE_COLUMN)
    if not saved or column_NS is None:
        raise DatastoreError(f"{retrieval.directory} was saved without a cache; save it again, with --cache-size")
    if column_NS.shape != (len(retrieval), len(saved.settings)) or column_NS.dtype != np.float32:
        raise DatastoreError(
            f"{array_path(retrieval.directory, CACHE_COLUMN)} must be float32 with a column for each setting in the"
            " manifest, but is not; save the retrieval again"
        )
    return tuple((one.size, one.theta) for one in saved.settings), column_NS
