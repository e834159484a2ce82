"""Nearest neighbours of queries: ids from the index, and distances from it or from the stored keys.

Results are always ``distances_NK`` (smaller is nearer) and ``ids_NK`` (int64 row numbers, −1 for none, whose distance
is +inf). The distance is the squared L2 distance; for inner products it is minus the inner product, so that smaller is
nearer there too.

An index with compressed codes knows distances only roughly. ``recompute_distances`` takes them from the keys
themselves, one row at a time: K rows of a query are never there for more than one query, and each query's rows are read
in the order of the file. A float32 store is read where it lies; rows of a float16 store are widened K at a time, which
stay in the processor's cache.

Legend: N queries · K neighbours · D key width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.errors import MismatchError

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

WIDEN_AT_ONCE = 1 << 14


def search(index: Any, queries_ND: Floats, k: int) -> tuple[Floats, Ids]:
    """Returns the index's own distances and ids, ``[N, K]``, nearest first.

    Raises:
        MismatchError: the queries have another width than the index.
    """
    import faiss

    check_width(index, queries_ND)
    if len(queries_ND) == 0:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    near_NK, ids_NK = index.search(np.ascontiguousarray(queries_ND, dtype=np.float32), k)
    distances_NK = -near_NK if index.metric_type == faiss.METRIC_INNER_PRODUCT else near_NK
    distances_NK[ids_NK < 0] = np.inf
    return distances_NK, ids_NK


def check_width(index: Any, queries_ND: Floats) -> None:
    """Raises MismatchError for queries of another width than the index's."""
    if queries_ND.ndim != 2 or queries_ND.shape[1] != index.d:
        raise MismatchError(
            f"queries must be of shape (queries, {index.d}) for this index, but are {queries_ND.shape}; the model and"
            " the index do not belong together"
        )


def smallest(numbers_NC: Floats, k: int) -> npt.NDArray[np.bool_]:
    """Returns bool ``[N, C]``: which are the ``k`` smallest of each row; of equal ones the first, NaN is the largest.

    A row's k-th smallest is found without moving indices about, which takes NumPy a third of the time.
    """
    bound_N = np.partition(numbers_NC, k - 1, axis=1)[:, k - 1]
    is_smallest_NC: npt.NDArray[np.bool_] = numbers_NC <= bound_N[:, None]
    for n in np.flatnonzero(np.count_nonzero(is_smallest_NC, axis=1) != k):  # several equal the bound, or it is NaN
        row_C, bound = numbers_NC[n], bound_N[n]
        chosen_C, at_bound_C = row_C < bound, row_C == bound
        if np.isnan(bound):
            at_bound_C = np.isnan(row_C)
            chosen_C = ~at_bound_C
        chosen_C[np.flatnonzero(at_bound_C)[: k - np.count_nonzero(chosen_C)]] = True
        is_smallest_NC[n] = chosen_C
    return is_smallest_NC


def recompute_distances(
    keys_ND: npt.NDArray[Any], queries_ND: Floats, ids_NK: Ids, *, inner_product: bool = False
) -> Floats:
    """Returns the exact distances, ``[N, K]``, of the queries to the stored rows that ``ids_NK`` names.

    Args:
        keys_ND: float32 or float16, every row of the datastore.
        queries_ND: float32.
        ids_NK: row numbers, −1 for none.
        inner_product: minus the inner product, instead of the squared L2 distance.
    """
    assert ids_NK.size == 0 or int(ids_NK.max()) < len(keys_ND), "id beyond the datastore"
    assert queries_ND.shape == (len(ids_NK), keys_ND.shape[1]), (queries_ND.shape, ids_NK.shape, keys_ND.shape)
    order_NK = np.argsort(ids_NK, axis=1)
    sorted_NK = np.take_along_axis(ids_NK, order_NK, axis=1)
    queries_ND = np.ascontiguousarray(queries_ND, dtype=np.float32)
    kernel = _from_float32 if keys_ND.dtype == np.float32 and keys_ND.flags.c_contiguous else _from_rows
    computed_NK = kernel(keys_ND, queries_ND, sorted_NK, inner_product)
    if inner_product:
        np.negative(computed_NK, out=computed_NK)
    computed_NK[sorted_NK < 0] = np.inf
    distances_NK = np.empty_like(computed_NK)
    np.put_along_axis(distances_NK, order_NK, computed_NK, axis=1)
    return distances_NK


def _from_float32(keys_ND: npt.NDArray[Any], queries_ND: Floats, ids_NK: Ids, inner_product: bool) -> Floats:
    """FAISS reads the rows where they lie, in several threads."""
    import faiss

    # Older FAISS leaves the entries of id −1 as they were, newer sets them; the caller overwrites them.
    computed_NK = np.zeros(ids_NK.shape, np.float32)
    function: Callable[..., None] = getattr(
        faiss, "fvec_inner_products_by_idx" if inner_product else "fvec_L2sqr_by_idx"
    )
    pointers = (faiss.swig_ptr(array) for array in (computed_NK, queries_ND, keys_ND, ids_NK))
    function(*pointers, keys_ND.shape[1], *ids_NK.shape)
    return computed_NK


def _from_rows(keys_ND: npt.NDArray[Any], queries_ND: Floats, ids_NK: Ids, inner_product: bool) -> Floats:
    """Rows of one query at a time are gathered, widened to float32 and compared."""
    import faiss
    import torch

    (num_queries, k), dimension = ids_NK.shape, keys_ND.shape[1]
    computed_NK = np.zeros((num_queries, k), np.float32)
    stored_KD = np.empty((k, dimension), keys_ND.dtype)
    wide_KD = np.empty((k, dimension), np.float32)
    # torch widens float16 with vector instructions, 40 times faster than NumPy does; in parts too small for it to wake
    # further threads, whose waiting for each other takes longer than the work.
    stored, wide = torch.from_numpy(stored_KD).view(-1), torch.from_numpy(wide_KD).view(-1)
    parts = [slice(start, start + WIDEN_AT_ONCE) for start in range(0, len(wide), WIDEN_AT_ONCE)]
    function: Callable[..., None] = getattr(faiss, "fvec_inner_products_ny" if inner_product else "fvec_L2sqr_ny")
    for n in range(num_queries):
        np.take(keys_ND, ids_NK[n], axis=0, out=stored_KD, mode="clip")  # −1 reads row 0, to be overwritten
        for part in parts:
            wide[part].copy_(stored[part])
        arrays = (computed_NK[n], queries_ND[n], wide_KD)
        function(*(faiss.swig_ptr(array) for array in arrays), dimension, k)
    return computed_NK
