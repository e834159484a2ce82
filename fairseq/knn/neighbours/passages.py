"""The rows of a datastore behind a token's p_kNN, and the text that each of them comes from.

Legend: T tokens · K neighbours.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.data.passages.split_text import Passage
from fairseq.errors import DatastoreError, FairseqError
from fairseq.knn.datastore.provenance import Provenance, Source
from fairseq.knn.datastore.ranges import evenly_spaced
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.distribution import Votes, gaps, vote_shares

logger = logging.getLogger(__name__)

_COMPARED = 1000  # rows of each text whose values are compared with it


@dataclass(frozen=True)
class Hit:
    """A neighbour whose value is the token.

    Attributes:
        row: of the datastore.
        distance: from the token's context.
        share: of the softmax over all neighbours; those of all hits add up to p_kNN(token).
    """

    row: int
    distance: float
    share: float


def top_hits(votes: Votes, temperature: float, most: int) -> list[list[Hit]]:
    """Returns the nearest hits of each token, nearest first, at most so many of them."""
    share_TK = vote_shares(gaps(votes.distances_NK), temperature)
    hits = []
    for distance_K, share_K, id_K, hit_K in zip(votes.distances_NK, share_TK, votes.ids_NK, votes.hits_NK, strict=True):
        places = np.flatnonzero(hit_K)
        order = places[np.argsort(distance_K[places], kind="stable")][:most]
        hits.append([Hit(int(id_K[k]), float(distance_K[k]), float(share_K[k])) for k in order])
    return hits


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
                _ = source.split  # a source text that cannot be read fails here, not at the first row
                sources[number] = source
            except FairseqError as err:
                logger.warning("rows are shown without their text: %s", err)
        return cls(provenance, sources) if sources else None

    def around(self, row: int, before: int, after: int) -> Passage | None:
        """Returns a row's token with up to so many tokens before it and after it; None where its text is not shown."""
        source = self.sources.get(self.provenance.segment_of(row))
        return source.around(row, before, after) if source is not None else None
