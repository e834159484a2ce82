"""The datastores of a retrieval, whose rows its ids are, as its manifest has them.

    "datastore": {"prefix", "rows", "data", "context_window", "first_position"}        one: an id is its row
    "datastore": {"prefix": "A:B", "rows", "data": null, …, "parts": [{"prefix", "rows", "data", "context_window",
                  "first_position", "offset", "store_id"}, …]}                         several: an id is offset + row

A datastore to which rows were appended, or that was compacted, has several texts, or not all rows of one:

    {…, "data": null, …, "segments": [{"data", "context_window", "first_position", "rows", "spans"}, …]}

A reader that knows only one datastore, of one text, finds no text and no file there, and refuses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import UNSET, Meta, UnsetType

from fairseq.config.path_lists import join_paths
from fairseq.knn.datastore.manifest import first_rows
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.row_map import RowMap, first_position
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.parts import StorePart
from fairseq.storage.records import Count, Positive, Record


class TextRecord(Record, frozen=True, kw_only=True):
    """One of several texts of a datastore: the ``rows`` of it that ``spans`` names."""

    data: str | None
    context_window: int | None = None
    first_position: Count | None
    rows: Positive
    spans: RowRanges

    def __post_init__(self) -> None:
        if self.rows != self.spans.num_rows:
            raise ValueError(f"must have spans of its {self.rows} rows, but they have {self.spans.num_rows}")


class StoreRecord(Record, frozen=True, kw_only=True):
    """A datastore, one of the ``parts``, or all of them together."""

    prefix: str
    rows: Count | None = None
    data: str | None = None
    context_window: int | None = None
    first_position: Count | None = None
    rows_id: str | UnsetType | None = UNSET
    segments: list[TextRecord] | UnsetType = UNSET
    offset: Count | UnsetType = UNSET
    store_id: str | UnsetType | None = UNSET
    parts: Annotated[list["StoreRecord"], Meta(min_length=2)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.segments is not UNSET and (total := sum(text.rows for text in self.segments)) != self.rows:
            raise ValueError(f"must have segments of its {self.rows} rows, but they have {total}")
        end = 0
        for part in self.parts or ():
            if part.offset != end or not part.rows:
                raise ValueError(f"must have parts one behind the other, but {part.prefix} does not begin at {end}")
            end += part.rows


@dataclass(frozen=True)
class RetrievalText:
    """A text that rows of a datastore were written from.

    Attributes:
        data: the split, without suffix, if known.
        map: from its rows, counted from 0, to its tokens; None where that is not known.
    """

    data: str | None
    map: RowMap | None


@dataclass(frozen=True)
class RetrievalPart:
    """A datastore that ids are rows of.

    Attributes:
        prefix: of its files, where the run found them.
        offset: the id of its first row.
        rows: N; None where a retrieval of one datastore does not say.
        store_id: identity, if known.
        rows_id: identity of its rows, forgotten or not, if known.
        texts: in the order of the rows, mostly one.
    """

    prefix: str
    offset: int
    rows: int | None
    store_id: str | None
    rows_id: str | None
    texts: tuple[RetrievalText, ...]


def datastore_record(parts: Sequence[StorePart], *, whole_text: bool) -> StoreRecord:
    """Returns what a manifest says of the datastores.

    Args:
        parts: of the source.
        whole_text: blocks were cut from the bare stream, so that rows follow the text.
    """
    stores = [part.datastore for part in parts]
    records = [_record(store, whole_text=whole_text) for store in stores]
    if len(records) == 1:
        return records[0]
    return StoreRecord(
        prefix=join_paths(record.prefix for record in records),
        rows=sum(store.rows for store in stores),
        parts=[
            record.replace(offset=part.offset, store_id=part.datastore.store_id)
            for part, record in zip(parts, records, strict=True)
        ],
    )


def _record(store: Datastore, *, whole_text: bool) -> StoreRecord:
    record = StoreRecord(prefix=str(store.prefix), rows=store.rows)
    if store.manifest is None:
        return record
    if store.rows_id != store.store_id:
        record = record.replace(rows_id=store.rows_id)

    def text(settings: Mapping[str, Any]) -> dict[str, Any]:
        first = first_position(settings) if whole_text else None
        return {"data": settings.get("data"), "context_window": settings.get("context_window"), "first_position": first}

    if not store.manifest.segments:
        return record.replace(**text(store.manifest.settings))
    segments = first_rows(store.manifest.segments, store.rows)
    return record.replace(
        segments=[TextRecord(**text(one.settings), rows=one.rows, spans=one.spans) for one in segments]
    )


def parts_of(record: StoreRecord, store_id: str | None) -> tuple[RetrievalPart, ...]:
    """Returns the datastores of a retrieval, by offset, from 0 on without a gap.

    Args:
        record: of its manifest.
        store_id: identity of a single one.
    """
    found = []
    for part in record.parts or [record.replace(store_id=store_id)]:
        own = part.store_id or None
        texts = [RetrievalText(text.data, _map(text.first_position, None, text.spans)) for text in part.segments or ()]
        texts = texts or [RetrievalText(part.data, _map(part.first_position, part.rows))]
        found.append(RetrievalPart(part.prefix, part.offset or 0, part.rows, own, part.rows_id or own, tuple(texts)))
    return tuple(found)


def _map(first: int | None, rows: int | None, spans: RowRanges | None = None) -> RowMap | None:
    """Returns the map of rows that follow a text from its token ``first`` on, or of some of them."""
    if first is None:
        return None
    whole = RowMap(np.zeros(1, np.int64), np.array([first], np.int64), rows)
    return whole if spans is None else whole.within(spans)
