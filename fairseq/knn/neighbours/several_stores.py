"""Several datastores that are searched together: the k nearest of all of them vote.

    A (a rows, offset 0)   ── k nearest ──┐
                                          ├── each row once ── k nearest
    B (b rows, offset a)   ── k nearest ──┘

An id is offset + row, so that each row of each datastore has its own. Two sources of one datastore (the same store id,
wherever its files lie) have one offset: a row that both find has one id, and is one neighbour, at the smaller of its
distances. Another datastore that was written from the same text is another one, and its rows are its own.

The order in which they are named decides their ids and nothing else. Of rows that are equally far, the first ones are
taken where there is no room for all; so neighbours lie side by side in the order of the datastores' ids.

Legend: N queries · K neighbours of each source.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.errors import MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.identity import require_model
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.distribution import each_once
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.parts import StorePart
from fairseq.knn.neighbours.tally import Lists


class SeveralStores(NeighbourSource):
    """Sources that are searched together.

    Args:
        members: each of one datastore, with settings that agree.
        config: settings of the whole.

    Raises:
        MismatchError: keys or values of one are not those of another.
    """

    def __init__(self, members: Sequence[NeighbourSource], config: KNNConfig) -> None:
        self.members, self.config = tuple(members), config
        stores = [member.parts[0].datastore for member in self.members]
        check_together(stores, allow_mismatch=config.allow_mismatch)
        self.offsets = _offsets(stores)
        # The same whatever the order in which they are named.
        self._places = sorted(range(len(self.members)), key=lambda place: _name(self.members[place]))
        unique: dict[int, StorePart] = {}
        for offset, member in zip(self.offsets, self.members, strict=True):
            unique.setdefault(offset, replace(member.parts[0], offset=offset))
        self.parts = tuple(unique.values())
        self.distinct_ids = all(member.distinct_ids for member in self.members)
        self.vocabulary_size = self.members[0].vocabulary_size

    def found(self, queries_ND: Float32s, k: int) -> tuple[Float32s, Int64s]:
        """Returns distances and ids of the k nearest in each member, side by side, in no order; −1 for none."""
        near, ids = [], []
        for member, offset in ((self.members[place], self.offsets[place]) for place in self._places):
            distances_NK, rows_NK = member.found(queries_ND, min(k, max(member.rows_left, 1)))
            near.append(distances_NK)
            ids.append(np.where(rows_NK >= 0, rows_NK + offset, -1))
        distances_NK, ids_NK = np.concatenate(near, axis=1), np.concatenate(ids, axis=1)
        return (distances_NK, ids_NK) if len(self.parts) == len(self.members) else each_once(distances_NK, ids_NK)

    def tie_order(self, ids: Int64s) -> Int64s:
        """Returns the ids that rows would have if the datastores were named in an order that is theirs alone."""
        order: Int64s = ids.copy()
        first, seen = 0, set[int]()
        for place in self._places:
            offset, rows = self.offsets[place], self.members[place].rows
            if offset not in seen:
                is_here = (ids >= offset) & (ids < offset + rows)
                order[is_here] += first - offset
                first += rows
                seen.add(offset)
        return order

    def close(self) -> None:
        """Lets go of what each of them holds."""
        for member in self.members:
            member.close()

    def lists(self) -> list[Lists | None]:
        """Returns the inverted lists of each member's index, None for an index without any."""
        return [lists for member in self.members for lists in member.lists()]

    def identity(self) -> dict[str, Any]:
        """Returns an id of all datastores, in their order, one of all indexes, and those of each member."""
        each = [member.identity() for member in self.members]
        return {
            "store_id": joint_id(part.datastore.store_id for part in self.parts),
            "index_sha256": joint_id(one["index_sha256"] for one in each),
            "index_fingerprint": joint_id(one["index_fingerprint"] for one in each),
            "datastores": each,
        }


def joint_id(ids: Iterable[str | None]) -> str | None:
    """Returns the one id, or the SHA-256 of several in their order; None where one is not known."""
    known = list(ids)
    texts = [text for text in known if text is not None]
    if len(texts) < len(known):
        return None
    return texts[0] if len(texts) == 1 else hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _name(member: NeighbourSource) -> tuple[str, str, str]:
    """Returns what a member is known by, whatever others there are."""
    store, index = member.parts[0].datastore, member.identity()["index_fingerprint"]
    return store.store_id or "", index or "", str(store.prefix.resolve())


def _offsets(stores: Sequence[Datastore]) -> list[int]:
    """Returns the offset of each: that of the same datastore before it, else after all rows before it."""
    places: dict[str, tuple[int, Datastore]] = {}
    opened: dict[Path, int] = {}
    offsets, total = [], 0
    for store in stores:
        name = store.store_id or str(store.prefix.resolve())
        offset, same = places.setdefault(name, (total, store))
        if same.rows != store.rows:
            raise MismatchError(
                f"{store.prefix} was opened with {store.rows} rows, but is the datastore of {same.prefix}, which was"
                f" opened with {same.rows}; leave --dstore-size out"
            )
        rows = opened.setdefault(store.prefix.resolve(), store.rows)
        if rows != store.rows:
            raise MismatchError(
                f"{store.prefix} is named twice, with indexes of {rows} and of {store.rows} of its rows: they would"
                " count twice; name it once, or bring both indexes up to date with fairseq-build-dstore --append"
            )
        total += store.rows if same is store else 0
        offsets.append(offset)
    return offsets


def check_together(stores: Sequence[Datastore], *, allow_mismatch: bool = False) -> None:
    """Checks that datastores have the keys of one model and the values of one dictionary, as far as they say.

    Raises:
        MismatchError: they do not; with ``allow_mismatch`` a warning, but never for keys of another width.
    """
    for store in stores[1:]:
        require_model(store.prefix, store.model, stores[0].model, allow_mismatch=allow_mismatch)
