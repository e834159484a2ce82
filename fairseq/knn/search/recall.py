"""Recall: the share of the nearest rows that a search finds.

Legend: N queries · K neighbours · D key width.
"""

import numpy as np

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.knn.search.distances import recompute_distances


def recall_of(
    keys_ND: Array, queries_ND: Float32s, ids_NK: Int64s, exact_NK: Int64s, *, inner_product: bool = False
) -> float:
    """Returns the recall of a search: the share of the k nearest rows that it found, over all queries.

    A row that was found counts if it is one of the k nearest, or as near as the k-th of them: of rows that are equally
    far it does not matter which one is found. A row that was found twice counts once.

    Args:
        keys_ND: every row of the datastore.
        queries_ND: float32.
        ids_NK: what the search found, K at most; −1 for none.
        exact_NK: the k nearest, nearest first (``exact_neighbours``).
        inner_product: how near a row is: its inner product, instead of the squared L2 distance.
    """
    of_exact_NK = np.stack([np.isin(ids, exact) for ids, exact in zip(ids_NK, exact_NK, strict=True)])
    others_NK = np.where(of_exact_NK, -1, ids_NK)  # only these are read from the file
    bound_N = recompute_distances(keys_ND, queries_ND, exact_NK[:, -1:], inner_product=inner_product)
    near_NK = recompute_distances(keys_ND, queries_ND, others_NK, inner_product=inner_product) <= bound_N
    found_NK = np.where(of_exact_NK | near_NK, ids_NK, -1)
    return sum(len(np.unique(ids[ids >= 0])) for ids in found_NK) / exact_NK.size
