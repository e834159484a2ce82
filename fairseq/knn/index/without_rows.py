"""An index that does not find rows that are forgotten.

Inverted lists give up their entries when the index is opened, and are then searched as the lists of an index that
never had them: the k nearest that are left, by whatever search. An index of another kind (flat, a graph) cannot give up
rows, or would renumber the others; it is asked for more than k, and for still more where those were mostly forgotten:

    asked k + e, e = k, 3k, 7k, …   until k are left, or the index has no more

Legend: N queries · K neighbours · A asked for.
"""

from typing import Any

import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.knn.datastore.ranges import RowRanges


def without_rows(index: Any, forgotten: RowRanges, rows_left: int) -> Any:
    """Returns the index without the forgotten rows: itself, where it can give them up, or what passes over them.

    Args:
        index: a FAISS index whose ids are rows; a second call is harmless.
        forgotten: the rows.
        rows_left: how many others there are.
    """
    if not forgotten.num_rows or index.ntotal == rows_left or take_out(index, forgotten):
        return index
    return SkippingIndex(index, forgotten)


def take_out(index: Any, forgotten: RowRanges) -> bool:
    """Removes rows from an index in memory whose entries carry their ids; returns whether it is such an index."""
    import faiss

    inner = faiss.downcast_index(index)
    while isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if not forgotten.num_rows:
        return True
    if not isinstance(inner, (faiss.IndexIVF, faiss.IndexIDMap)):
        return False
    try:
        index.remove_ids(selector(forgotten))
    except RuntimeError:  # lists of a kind that cannot
        return False
    return True


def selector(rows: RowRanges) -> Any:
    """Returns the rows as FAISS has a choice of ids."""
    import faiss

    bits = np.packbits(rows.mask(0, int(rows.stop_R[-1])), bitorder="little")
    return faiss.IDSelectorBitmap(bits)  # type: ignore[arg-type, call-arg] # FAISS's own Python takes the array


class SkippingIndex:
    """An index whose results leave out some rows; it has what a search asks of a FAISS index.

    Attributes:
        d, metric_type: the index's.
        ntotal: rows that can be found.
    """

    def __init__(self, index: Any, forgotten: RowRanges) -> None:
        self.index, self.forgotten = index, forgotten
        self.d, self.metric_type = index.d, index.metric_type
        self.ntotal = int(index.ntotal) - forgotten.num_rows

    def search(self, queries_ND: Float32s, k: int) -> tuple[Float32s, Int64s]:
        """Returns the index's own numbers and ids ``[N, K]``, nearest first; id −1 for none."""
        near_NK = np.full((len(queries_ND), k), np.inf, np.float32)
        ids_NK = np.full((len(queries_ND), k), -1, np.int64)
        todo, extra, most = np.arange(len(queries_ND)), k, self.forgotten.num_rows
        while len(todo):
            extra = min(extra, most)
            near_NA, ids_NA = self.index.search(queries_ND[todo], k + extra)
            kept_NA = (ids_NA >= 0) & ~self.forgotten.holds(ids_NA)
            count_N = np.minimum(kept_NA.sum(1), k)
            first_NK = np.argsort(~kept_NA, axis=1, kind="stable")[:, :k]
            there_NK = np.arange(k) < count_N[:, None]
            found = np.take_along_axis(near_NA, first_NK, 1), np.take_along_axis(ids_NA, first_NK, 1)
            near_NK[todo], ids_NK[todo] = np.where(there_NK, found[0], np.inf), np.where(there_NK, found[1], -1)
            todo = todo[(count_N < k) & (ids_NA >= 0).all(1)] if extra < most else todo[:0]
            extra = 2 * extra + k
        return near_NK, ids_NK
