"""Which rows of a datastore spoke for a token, and the text that each of them comes from.

A row's share of the vote is exp(−d / T) over the sum of that over all neighbours; the shares of the rows whose value is
the token add up to p_kNN(token). T tokens, K neighbours.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.errors import DatastoreError, FairseqError
from fairseq.knn.datastore.provenance import Provenance, Source
from fairseq.knn.datastore.ranges import evenly_spaced
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.distribution import Votes

logger = logging.getLogger(__name__)

_COMPARED = 1000  # rows of each text whose values are compared with it


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
    """The texts that a datastore was written from, by row.

    Args:
        provenance: of the datastore.
        sources: those of its segments whose text can be shown, by number.
    """

    def __init__(self, provenance: Provenance, sources: dict[int, Source]) -> None:
        self.provenance, self.sources = provenance, sources

    @classmethod
    def open(cls, store: Datastore, moved_to: str | Path | None = None) -> "RowText | None":
        """Returns the texts of a datastore; None where none can be shown. Of each that cannot, it warns.

        Args:
            store: whose manifest names the texts.
            moved_to: where they are now, if not there: the directory of binarised data, or of one text its split.
        """
        sources = {}
        try:
            provenance = Provenance(store, moved_to)
        except DatastoreError as err:
            logger.warning("rows are shown without their text: %s", err)
            return None
        for number in range(len(provenance.segments)):
            try:
                source = provenance.source(number)
                first, last = source.first_row, min(source.first_row + source.segment.rows, store.rows) - 1
                if first <= last:  # else --dstore-size leaves it out
                    provenance.check_values(source, first + evenly_spaced(last + 1 - first, _COMPARED))
                sources[number] = source
            except FairseqError as err:
                logger.warning("rows are shown without their text: %s", err)
        return cls(provenance, sources) if sources else None

    def around(self, row: int, before: int, after: int) -> tuple[Sequence[int], Sequence[int]] | None:
        """Returns up to so many ids before a row's token, and after it; None where its text cannot be shown."""
        source = self.sources.get(self.provenance.segment_of(row))
        if source is None:
            return None
        at, tokens = source.position(row), source.text.tokens
        return tokens[max(at - before, 0) : at].tolist(), tokens[at + 1 : at + 1 + after].tolist()
