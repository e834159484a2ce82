"""Which datastores the ids of a retrieval are rows of, as its manifest says: written and read here.

    "datastore": {"prefix", "rows", "data", "context_window", "first_position"}        one: an id is its row
    "datastore": {"prefix": "A:B", "rows", "data": null, …, "parts": [{"prefix", "rows", "data", "context_window",
                  "first_position", "offset", "store_id"}, …]}                         several: an id is offset + row

A reader that knows only one datastore finds no text and no file there, and refuses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.errors import DatastoreError, shown
from fairseq.knn.retrieval_format import MANIFEST
from fairseq.knn.row_map import first_position
from fairseq.knn.source import StorePart


@dataclass(frozen=True)
class RetrievalPart:
    """A datastore that ids are rows of.

    Attributes:
        prefix: of its files, where the run found them.
        offset: the id of its first row.
        rows: N; None where a retrieval of one datastore does not say.
        data: the split that it was written from, without suffix, if known.
        first_position: row r is token ``first_position + r`` of that split; None where that does not hold.
        store_id: identity, if known.
    """

    prefix: str
    offset: int = 0
    rows: int | None = None
    data: str | None = None
    first_position: int | None = None
    store_id: str | None = None


def datastore_record(parts: Sequence[StorePart], *, whole_text: bool) -> dict[str, Any]:
    """Returns what a manifest says of the datastores.

    Args:
        parts: of the source.
        whole_text: blocks were cut from the bare stream, so that rows follow the text.
    """
    records: list[dict[str, Any]] = []
    for part in parts:
        store = part.datastore
        written = store.manifest.settings if store.manifest is not None else {}
        records.append(
            {
                "prefix": str(store.prefix), "rows": store.rows, "data": written.get("data"),
                "context_window": written.get("context_window"),
                "first_position": first_position(written) if whole_text else None,
            }
        )  # fmt: skip
    if len(parts) == 1:
        return records[0]
    for part, record in zip(parts, records, strict=True):
        record.update(offset=part.offset, store_id=part.datastore.store_id)
    return {
        "prefix": ":".join(record["prefix"] for record in records), "rows": sum(record["rows"] for record in records),
        "data": None, "context_window": None, "first_position": None, "parts": records,
    }  # fmt: skip


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
        return (_part({**record, "rows": record.get("rows"), "offset": 0, "store_id": store_id}, directory),)
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
    kinds: dict[str, tuple[type, ...]] = {
        "prefix": (str, type(None)), "offset": (int,), "rows": (int, type(None)), "data": (str, type(None)),
        "first_position": (int, type(None)), "store_id": (str, type(None)),
    }  # fmt: skip
    found: dict[str, Any] = {name: record.get(name) for name in kinds} if isinstance(record, dict) else {}
    for name, kind in kinds.items():
        if not isinstance(found.get(name), kind) or isinstance(found.get(name), bool):
            raise DatastoreError(
                f"{directory / MANIFEST} lacks a sound {name!r} of a datastore; save the retrieval again"
            )
    return RetrievalPart(**{**found, "prefix": str(found["prefix"])})
