"""Distances of neighbours from the stored keys, and which of many are smallest.

Results are always ``distances_NK`` (smaller is nearer) and ``ids_NK`` (int64 row numbers, −1 for none, whose distance
is +inf). The distance is the squared L2 distance; for inner products it is minus the inner product, so that smaller is
nearer there too.

An index with compressed codes knows distances only roughly. ``recompute_distances`` takes them from the keys
themselves, in one of two orders:

    few queries     one after the other, its rows in the order of the file: K rows are there at once
    many queries    the file from front to back: a stretch is read once for all, and stays in the cache meanwhile

Many are those that want as many rows as there are, or any two where the store is larger than memory: then it is the
disk that counts. float32 rows are read where they lie, float16 ones are widened a few at a time.

Legend: N queries · K neighbours · D key width · P pairs of a query and a row · C pairs of a stretch · R its rows.
"""

from collections.abc import Callable, Iterator

import numpy as np

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.runtime.resources import fits_memory

# Numbers of a stretch of the file: 16 MiB of float32.
READ_AT_ONCE = 1 << 22
# Numbers of one query's rows that are widened at once.
WIDEN_AT_ONCE = 1 << 14


def smallest(numbers_NC: Float32s, k: int, ids_of: Callable[[int, Int64s], Int64s] | None = None) -> Int64s:
    """Returns where the ``k`` smallest of each row lie, ``[N, K]``, ascending places in the flattened array.

    NaN is the largest. A row's k-th smallest is found without moving indices about, which takes NumPy a third of the
    time.

    Args:
        numbers_NC: C is at least k.
        k: how many.
        ids_of: gives the ids at some places of a row: of equal numbers those of the smallest ids are taken; without,
            the first.
    """
    bound_N = np.partition(numbers_NC, k - 1, axis=1)[:, k - 1]
    is_smallest_NC = numbers_NC <= bound_N[:, None]
    places = np.flatnonzero(is_smallest_NC)
    if len(places) == len(numbers_NC) * k and not np.isnan(bound_N).any():
        return places.reshape(-1, k)
    for n in np.flatnonzero(np.count_nonzero(is_smallest_NC, axis=1) != k):  # several equal the bound, or it is NaN
        row_C, bound = numbers_NC[n], bound_N[n]
        chosen_C, at_bound_C = row_C < bound, row_C == bound
        if np.isnan(bound):
            at_bound_C = np.isnan(row_C)
            chosen_C = ~at_bound_C
        tied = np.flatnonzero(at_bound_C)
        if ids_of is not None and np.isfinite(bound):
            tied = tied[np.argsort(ids_of(int(n), tied), kind="stable")]
        chosen_C[tied[: k - np.count_nonzero(chosen_C)]] = True
        is_smallest_NC[n] = chosen_C
    return np.flatnonzero(is_smallest_NC).reshape(-1, k)


def ties_by_id(near_NK: Float32s, ids_NK: Int64s) -> tuple[Int64s, Int64s]:
    """Returns where rows that are equally far lie, places in the flattened array, and their order by id.

    ``ids.take(places)[order]`` is what to put at the places, of ids and of whatever goes with them.

    Args:
        near_NK: ascending.
        ids_NK: −1 for none.
    """
    is_as_before_NK = np.zeros(ids_NK.shape, bool)
    np.logical_and(near_NK[:, 1:] == near_NK[:, :-1], ids_NK[:, 1:] >= 0, out=is_as_before_NK[:, 1:])
    is_tied_NK = is_as_before_NK.copy()
    is_tied_NK[:, :-1] |= is_as_before_NK[:, 1:]
    places = np.flatnonzero(is_tied_NK)
    group = np.cumsum(~is_as_before_NK.take(places))
    return places, np.lexsort((ids_NK.take(places), group))


def recompute_distances(
    keys_ND: Array, queries_ND: Float32s, ids_NK: Int64s, *, inner_product: bool = False
) -> Float32s:
    """Returns the exact distances, ``[N, K]``, of the queries to the stored rows that ``ids_NK`` names.

    Args:
        keys_ND: float32 or float16, every row of the datastore.
        queries_ND: float32.
        ids_NK: row numbers, −1 for none.
        inner_product: minus the inner product, instead of the squared L2 distance.
    """
    assert ids_NK.size == 0 or int(ids_NK.max()) < len(keys_ND), "id beyond the datastore"
    assert queries_ND.shape == (len(ids_NK), keys_ND.shape[1]), (queries_ND.shape, ids_NK.shape, keys_ND.shape)
    queries_ND = np.ascontiguousarray(queries_ND, dtype=np.float32)
    if ids_NK.size >= len(keys_ND) or (len(ids_NK) > 1 and not fits_memory(keys_ND.nbytes)):
        row_P = np.maximum(ids_NK.ravel(), 0)  # −1 reads row 0, to be overwritten
        query_P = np.repeat(np.arange(len(ids_NK)), ids_NK.shape[1])
        distances_NK = _from_stretches(keys_ND, queries_ND, query_P, row_P, inner_product).reshape(ids_NK.shape)
    else:
        order_NK = np.argsort(ids_NK, axis=1)
        sorted_NK = np.take_along_axis(ids_NK, order_NK, axis=1)
        kernel = _from_float32 if keys_ND.dtype == np.float32 and keys_ND.flags.c_contiguous else _from_rows
        distances_NK = np.empty(ids_NK.shape, np.float32)
        np.put_along_axis(distances_NK, order_NK, kernel(keys_ND, queries_ND, sorted_NK, inner_product), axis=1)
    if inner_product:
        np.negative(distances_NK, out=distances_NK)
    distances_NK[ids_NK < 0] = np.inf
    return distances_NK


def pair_distances(
    keys_ND: Array, queries_ND: Float32s, query_P: Int64s, row_P: Int64s, *, inner_product: bool = False
) -> Float32s:
    """Returns the exact distances ``[P]`` of pairs; the file is read a stretch at a time, each row once in it.

    Args:
        keys_ND: float32 or float16, every row of the datastore.
        queries_ND: float32.
        query_P: which query, of each pair.
        row_P: which row.
        inner_product: minus the inner product, instead of the squared L2 distance.
    """
    near_P = _from_stretches(keys_ND, queries_ND, query_P, row_P, inner_product)
    return np.negative(near_P, out=near_P) if inner_product else near_P


def _from_stretches(
    keys_ND: Array, queries_ND: Float32s, query_P: Int64s, row_P: Int64s, inner_product: bool
) -> Float32s:
    import faiss

    between: Callable[..., None] = getattr(
        faiss, "pairwise_indexed_inner_product" if inner_product else "pairwise_indexed_L2sqr"
    )
    computed_P = np.empty(row_P.shape, np.float32)
    for pair_C in _in_file_order(row_P, keys_ND.shape):
        stored_RD, place_C = _read(keys_ND, row_P[pair_C])
        near_C = np.empty(pair_C.shape, np.float32)
        arrays = (queries_ND, query_P[pair_C], stored_RD, place_C, near_C)
        between(keys_ND.shape[1], len(pair_C), *(faiss.swig_ptr(array) for array in arrays))
        computed_P[pair_C] = near_C
    return computed_P


def _in_file_order(row_P: Int64s, shape: tuple[int, ...]) -> Iterator[Int64s]:
    """Yields pairs of a query and a row, ``[C]``, a stretch of the file at a time, by query within it."""
    stretch = max(READ_AT_ONCE // shape[1], -(-shape[0] // np.iinfo(np.uint16).max), 1)
    number_P = (row_P // stretch).astype(np.uint16)  # of so few bits, which NumPy sorts by radix
    order_P = np.argsort(number_P, kind="stable")
    end_S = np.cumsum(np.bincount(number_P)) if len(row_P) else np.empty(0, np.int64)
    start = 0
    while start < len(row_P):
        # As many stretches as have no more pairs than one has rows: a few queries want a few rows of each.
        fitting = int(np.searchsorted(end_S, start + stretch, side="right")) - 1
        end = max(int(end_S[fitting]) if fitting >= 0 else 0, int(end_S[np.searchsorted(end_S, start, side="right")]))
        yield order_P[start:end]
        start = end


def _read(keys_ND: Array, row_C: Int64s) -> tuple[Float32s, Int64s]:
    """Returns stored rows as float32, ``[R, D]``, each read once, and where among them each of ``row_C`` is."""
    import torch

    first, last = int(row_C.min()), int(row_C.max())
    if last - first < len(row_C):  # most of what lies between is wanted
        stored_RD, place_C = keys_ND[first : last + 1], row_C - first
    else:
        distinct_R, place_C = np.unique(row_C, return_inverse=True)
        stored_RD = np.take(keys_ND, distinct_R, axis=0)
    if stored_RD.dtype == np.float32:
        return np.ascontiguousarray(stored_RD), place_C
    # torch widens float16 with vector instructions, 40 times faster than NumPy does.
    return torch.from_numpy(np.array(stored_RD, order="C")).float().numpy(), place_C


def _from_float32(keys_ND: Array, queries_ND: Float32s, ids_NK: Int64s, inner_product: bool) -> Float32s:
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


def _from_rows(keys_ND: Array, queries_ND: Float32s, ids_NK: Int64s, inner_product: bool) -> Float32s:
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
