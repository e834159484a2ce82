"""Which datastores the ids of a retrieval are rows of, as its manifest says: written and read here.

    "datastore": {"prefix", "rows", "data", "context_window", "first_position"}        one: an id is its row
    "datastore": {"prefix": "A:B", "rows", "data": null, …, "parts": [{"prefix", "rows", "data", "context_window",
                  "first_position", "offset", "store_id"}, …]}                         several: an id is offset + row

A datastore to which rows were appended, or that was compacted, has several texts, or not all rows of one:

    {…, "data": null, …, "segments": [{"data", "context_window", "first_position", "rows", "spans"}, …]}

A reader that knows only one datastore, of one text, finds no text and no file there, and refuses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.errors import DatastoreError, shown
from fairseq.knn.datastore.manifest import manifest_path
from fairseq.knn.datastore.ranges import checked_ranges
from fairseq.knn.datastore.row_map import RowMap, first_position
from fairseq.knn.datastore.segments import first_rows, segments_of
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.neighbour_source import StorePart
from fairseq.knn.retrieval.format import MANIFEST

_MOST_ROWS = 2**53
_Kinds = Mapping[str, tuple[type, ...]]
_TEXT: _Kinds = {"data": (str, type(None)), "first_position": (int, type(None))}
_PART: _Kinds = {
    **_TEXT,
    "prefix": (str, type(None)),
    "offset": (int,),
    "rows": (int, type(None)),
    "store_id": (str, type(None)),
    "rows_id": (str, type(None)),
}
_NO_TEXT = {"data": None, "context_window": None, "first_position": None}


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


def datastore_record(parts: Sequence[StorePart], *, whole_text: bool) -> dict[str, Any]:
    """Returns what a manifest says of the datastores.

    Args:
        parts: of the source.
        whole_text: blocks were cut from the bare stream, so that rows follow the text.
    """
    records = [_record(part.datastore, whole_text=whole_text) for part in parts]
    if len(parts) == 1:
        return records[0]
    for part, record in zip(parts, records, strict=True):
        record.update(offset=part.offset, store_id=part.datastore.store_id)
    return {
        "prefix": ":".join(record["prefix"] for record in records),
        "rows": sum(record["rows"] for record in records),
        **_NO_TEXT,
        "parts": records,
    }


def _record(store: Datastore, *, whole_text: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"prefix": str(store.prefix), "rows": store.rows, **_NO_TEXT}
    if store.manifest is None:
        return record
    if store.rows_id != store.store_id:
        record["rows_id"] = store.rows_id

    def text(settings: Mapping[str, Any]) -> dict[str, Any]:
        first = first_position(settings) if whole_text else None
        return {"data": settings.get("data"), "context_window": settings.get("context_window"), "first_position": first}

    if not store.manifest.segments:
        return {**record, **text(store.manifest.settings)}
    segments = first_rows(segments_of(store.manifest, manifest_path(store.prefix)), store.rows)
    return {
        **record,
        "segments": [
            {**text(segment.settings), "rows": segment.rows, "spans": segment.spans.pairs} for segment in segments
        ],
    }


def parts_of(manifest: Mapping[str, Any], directory: Path) -> tuple[RetrievalPart, ...]:
    """Returns the datastores of a retrieval, by offset, from 0 on without a gap.

    Args:
        manifest: of the retrieval.
        directory: of the retrieval, for messages.

    Raises:
        DatastoreError: what the manifest says of them is not sound.
    """
    record = manifest.get("datastore") or {}
    records = record.get("parts")
    if records is None:
        store_id = (manifest.get("identity") or {}).get("store_id")
        return (_part({**record, "offset": 0, "store_id": store_id}, directory),)
    if not isinstance(records, list) or len(records) < 2:
        raise DatastoreError(f"{directory / MANIFEST}: 'parts' must be two datastores or more; save it again")
    parts = tuple(_part(part, directory) for part in records)
    end = 0
    for part in parts:
        if part.offset != end or not part.rows:
            raise DatastoreError(
                f"{directory / MANIFEST}: {part.prefix} must have rows, and the offset {end}, but has"
                f" {shown(part.rows)} and {part.offset}; save the retrieval again"
            )
        end += part.rows
    return parts


def _part(record: Any, directory: Path) -> RetrievalPart:
    found = _fields(record, _PART, directory)
    rows, rows_id = found["rows"], found["rows_id"] if found["rows_id"] is not None else found["store_id"]
    if "segments" in record:
        texts = _segments(record["segments"], rows, directory)
    else:
        first = found["first_position"]
        texts = (RetrievalText(found["data"], None if first is None else _from(first, rows)),)
    return RetrievalPart(str(found["prefix"]), found["offset"], rows, found["store_id"], rows_id, texts)


def _segments(records: Any, rows: int | None, directory: Path) -> tuple[RetrievalText, ...]:
    texts, total = [], 0
    for record in records if isinstance(records, list) else ():
        found = _fields(record, _TEXT, directory)
        spans, first = checked_ranges(record.get("spans"), _MOST_ROWS), found["first_position"]
        if spans is None or not spans.num_rows or record.get("rows") != spans.num_rows:
            raise DatastoreError(
                f"{directory / MANIFEST}: 'spans' of a segment must be ranges of its rows; save the retrieval again"
            )
        total += spans.num_rows
        texts.append(
            RetrievalText(found["data"], None if first is None else _from(first, int(spans.stop_R[-1])).within(spans))
        )
    if not texts or total != rows:
        raise DatastoreError(
            f"{directory / MANIFEST}: 'segments' must be of the {shown(rows)} rows of their datastore, but are of"
            f" {total}; save the retrieval again"
        )
    return tuple(texts)


def _from(position: int, rows: int | None) -> RowMap:
    """Returns the map of rows that follow a text from a token on."""
    return RowMap(np.zeros(1, np.int64), np.array([position], np.int64), rows)


def _fields(record: Any, kinds: _Kinds, directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {name: record.get(name) for name in kinds} if isinstance(record, dict) else {}
    for name, kind in kinds.items():
        value = found.get(name, False)
        sound = isinstance(value, kind) and not isinstance(value, bool)
        if not sound or (isinstance(value, int) and not 0 <= value < _MOST_ROWS):
            raise DatastoreError(
                f"{directory / MANIFEST} lacks a sound {name!r} of a datastore; save the retrieval again"
            )
    return found
