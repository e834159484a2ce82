"""An index that does not find rows that are forgotten.

Inverted lists lose the entries when the index is opened, and are then searched as lists that never had them: the k
nearest that are left, by whatever search. FAISS can also leave rows out of each search (``SearchParameters(sel=…)``).
But product codes without lists, flat FastScan, NSG and residual codes refuse that, a wrong class of parameters is
ignored without a word, and searches take longer. Measured with IVF512,PQ16, 200,000 rows, 1,000 queries, 256
neighbours:

    one tenth forgotten      taken out 0.25 s, after 3 ms once      selector 0.34 to 0.42 s
    one half forgotten       taken out 0.18 s, after 4 ms once      selector 0.29 to 0.35 s

Lists that are mapped from a file cannot lose entries; there FAISS leaves rows out of each search after all, where the
kind of codes heeds that.

An index of another kind (flat, a graph) cannot lose rows, or would renumber the others. It is asked for more than k,
and again for more while some query has fewer than k that are left.

Legend: N queries · K neighbours · A asked for.
"""

from typing import Any

import faiss
import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.index.faiss_index import inner_index, lists_on_disk
from fairseq.knn.index.trial import IndexInChild


def without_rows(index: Any, forgotten: RowRanges, rows_left: int, *, mapped: bool = False) -> Any:
    """Returns an index that finds none of the forgotten rows: the same one, or one that passes over them.

    Args:
        index: a FAISS index whose ids are rows; a second call is harmless.
        forgotten: the rows.
        rows_left: how many others there are.
        mapped: it lies in a file, and cannot lose rows.
    """
    if not forgotten.num_rows or index.ntotal == rows_left:
        return index
    if not mapped and take_out(index, forgotten):
        return index
    return SelectingIndex(index, forgotten) if SelectingIndex.supports(index) else SkippingIndex(index, forgotten)


def forgetful(index: Any) -> tuple[Any, RowRanges]:
    """Returns the FAISS index of one that passes over forgotten rows, and these; none of any other."""
    if isinstance(index, (SelectingIndex, SkippingIndex)):
        return index.index, index.forgotten
    return index, RowRanges.of()


def take_out(index: Any, forgotten: RowRanges) -> bool:
    """Removes rows from an index in memory whose entries carry their ids; returns whether it is such an index."""
    if not forgotten.num_rows:
        return True
    if isinstance(index, IndexInChild) or not isinstance(inner_index(index), (faiss.IndexIVF, faiss.IndexIDMap)):
        return False
    if lists_on_disk(index):
        return False  # mapped for reading: to change them would end the process
    try:
        index.remove_ids(selector(forgotten))
    except RuntimeError:  # lists of a kind that cannot
        return False
    return True


def selector(rows: RowRanges) -> Any:
    """Returns the rows as FAISS has a choice of ids."""
    bits = np.packbits(rows.mask(0, int(rows.stop_R[-1])), bitorder="little")
    return faiss.IDSelectorBitmap(bits)  # type: ignore[arg-type, call-arg] # FAISS's own Python takes the array


class SelectingIndex:
    """An inverted file, behind transforms or not, with the rows that a search of its lists leaves out.

    Attributes:
        d, metric_type: the index's.
        ntotal: rows that can be found.
        selector: the others, as FAISS has a choice of ids.
    """

    def __init__(self, index: Any, forgotten: RowRanges) -> None:
        self.index, self.forgotten = index, forgotten
        self.d, self.metric_type = index.d, index.metric_type
        self.ntotal = int(index.ntotal) - forgotten.num_rows
        self.selector: Any = faiss.IDSelectorNot(selector(forgotten))

    @staticmethod
    def supports(index: Any) -> bool:
        """Returns whether FAISS heeds a choice of rows: inverted files of these codes, behind transforms or not."""
        kinds = (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ)
        return isinstance(index, faiss.Index) and type(inner_index(index)) in kinds


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
        extra, enough = 0, False
        while not enough:
            extra = min(2 * extra + k, self.forgotten.num_rows)
            near_NA, ids_NA = self.index.search(queries_ND, k + extra)
            is_left_NA = (ids_NA >= 0) & ~self.forgotten.holds(ids_NA)
            enough = extra == self.forgotten.num_rows or bool(
                ((is_left_NA.sum(1) >= k) | (ids_NA < 0).any(1)).all()  # −1: the index has no more
            )
        ids_NA[~is_left_NA], near_NA[~is_left_NA] = -1, np.inf
        first_NK = np.argsort(~is_left_NA, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(near_NA, first_NK, 1), np.take_along_axis(ids_NA, first_NK, 1)
