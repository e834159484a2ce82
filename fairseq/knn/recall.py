"""How well an index finds what is there: its neighbours against those of an exact search.

The exact search reads the keys once, in blocks, and keeps the nearest so far: memory is a block and the queries'.
Queries are stored keys, evenly spaced, so that each should find its own row.

Legend: N queries · K neighbours · D key width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.knn.datastore import Datastore, gather_rows
from fairseq.knn.search import search

EXACT_BLOCK_ROWS = 1 << 15


@dataclass(frozen=True)
class Recall:
    """What a sample of searches found.

    Attributes:
        queries: how many.
        k: neighbours of each.
        nprobe: lists visited, or None.
        recall: share of the exact neighbours that the index found.
        num_missing: results of id −1, in all.
        own_rows: queries that found their own row.
    """

    queries: int
    k: int
    nprobe: int | None
    recall: float
    num_missing: int
    own_rows: int

    @property
    def words(self) -> str:
        """The figures in one line."""
        lists = "" if self.nprobe is None else f", nprobe {self.nprobe}"
        missing = self.num_missing / (self.queries * self.k)
        return (
            f"recall@{self.k} {self.recall:.3f}{lists}, {100 * missing:.2f} % of results are −1,"
            f" {self.own_rows} of {self.queries} keys find their own row"
        )


def exact_neighbours(
    store: Datastore, queries_ND: npt.NDArray[np.float32], k: int, *, inner_product: bool = False
) -> npt.NDArray[np.int64]:
    """Returns the rows of the k nearest keys, ``[N, K]``, by a search over all of them."""
    import faiss
    from faiss.contrib.exhaustive_search import knn_ground_truth

    assert store.keys_ND is not None
    keys_ND = store.keys_ND
    starts = range(0, store.rows, EXACT_BLOCK_ROWS)
    blocks = (np.ascontiguousarray(keys_ND[start : start + EXACT_BLOCK_ROWS], dtype=np.float32) for start in starts)
    metric = faiss.METRIC_INNER_PRODUCT if inner_product else faiss.METRIC_L2
    exact: Any = knn_ground_truth
    _, ids_NK = exact(queries_ND, blocks, k, metric_type=metric)
    found: npt.NDArray[np.int64] = ids_NK
    return found


def measure_recall(index: Any, store: Datastore, k: int, sample: int) -> Recall:
    """Returns how well an index finds the neighbours of ``sample`` stored keys."""
    import faiss

    assert store.keys_ND is not None
    k, sample = min(k, store.rows), min(sample, store.rows)
    rows = np.linspace(0, store.rows - 1, sample).astype(np.int64)
    queries_ND = gather_rows(store.keys_ND, rows)
    _, found_NK = search(index, queries_ND, k)
    inner_product = index.metric_type == faiss.METRIC_INNER_PRODUCT
    exact_NK = exact_neighbours(store, queries_ND, k, inner_product=inner_product)
    hits = sum(len(np.intersect1d(found, exact)) for found, exact in zip(found_NK, exact_NK, strict=True))
    inverted = faiss.try_extract_index_ivf(index)
    return Recall(
        queries=sample,
        k=k,
        nprobe=int(inverted.nprobe) if inverted is not None else None,
        recall=hits / (sample * k),
        num_missing=int((found_NK < 0).sum()),
        own_rows=int((found_NK == rows[:, None]).any(axis=1).sum()),
    )
