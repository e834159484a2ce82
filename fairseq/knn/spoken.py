"""Which rows of a datastore spoke for a token, and the text that each of them comes from.

A row's share of the vote is exp(−d / T) over the sum of that over all neighbours; the shares of the rows whose value is
the token add up to p_kNN(token). T tokens, K neighbours.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import DataError
from fairseq.knn.datastore import Datastore
from fairseq.knn.distribution import Votes
from fairseq.knn.row_map import first_position

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Voice:
    """A row that spoke for a token."""

    row: int
    distance: float
    share: float


def voices(votes: Votes, temperature: float, most: int) -> list[list[Voice]]:
    """Returns, for each token, the rows with the largest shares of the vote for it, at most so many of them."""
    distances_TK = votes.distances_NK.astype(np.float64)
    nearest_T1 = distances_TK.min(axis=1, keepdims=True, initial=np.inf)
    nearest_T1[np.isinf(nearest_T1)] = 0.0  # a token without neighbours; keeps inf − inf out
    weight_TK = np.exp((nearest_T1 - distances_TK) / temperature)
    share_TK = weight_TK / np.maximum(weight_TK.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    spoken = []
    for distance_K, share_K, id_K, hit_K in zip(votes.distances_NK, share_TK, votes.ids_NK, votes.hits_NK, strict=True):
        hits = np.flatnonzero(hit_K)
        order = hits[np.argsort(distance_K[hits], kind="stable")][:most]
        spoken.append([Voice(int(id_K[k]), float(distance_K[k]), float(share_K[k])) for k in order])
    return spoken


class RowText:
    """The text that a datastore was written from, by row.

    Args:
        tokens: every id of the text.
        first: which of them is row 0.
    """

    def __init__(self, tokens: npt.NDArray[np.integer], first: int) -> None:
        self.tokens, self.first = tokens, first

    @classmethod
    def open(cls, store: Datastore, moved_to: str | Path | None = None) -> "RowText | None":
        """Returns the text of a datastore; None, with a warning, where it cannot be shown.

        Args:
            store: whose manifest names the text.
            moved_to: where it is now, if not there: the directory of binarised data, or the split without suffix.
        """
        written = store.manifest.settings if store.manifest is not None else {}
        first, data = first_position(written), written.get("data")
        if moved_to is not None:
            split = Path(data).name if isinstance(data, str) else "train"
            data = str(Path(moved_to) / split if Path(moved_to).is_dir() else moved_to)
        if first is None or not isinstance(data, str):
            logger.warning("%s does not say which text its rows come from: rows are shown without it", store.prefix)
            return None
        try:
            tokens = MMapIndexedDataset(Path(data)).tokens
        except DataError as err:
            logger.warning("rows are shown without their text: %s", err)
            return None
        rows = np.unique(np.linspace(0, store.rows - 1, min(store.rows, 1000)).astype(np.int64))
        inside = first + store.rows <= len(tokens)
        if not inside or not np.array_equal(tokens[first + rows], store.values_N[rows]):
            logger.warning("rows are shown without their text: %s is not what %s was written from", data, store.prefix)
            return None
        return cls(tokens, first)

    def around(self, row: int, before: int, after: int) -> tuple[Sequence[int], Sequence[int]]:
        """Returns up to so many ids before a row's token, and after it."""
        at = self.first + row
        return self.tokens[max(at - before, 0) : at].tolist(), self.tokens[at + 1 : at + 1 + after].tolist()
