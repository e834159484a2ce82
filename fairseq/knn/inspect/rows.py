"""``fairseq-knnlm rows``: where rows of a datastore come from, and which rows a document has."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fairseq.config.flags import as_dict
from fairseq.errors import ConfigError, counted
from fairseq.knn.datastore.config import TextsConfig, parse_rows
from fairseq.knn.datastore.provenance import Place, Provenance
from fairseq.knn.datastore.ranges import shown_ranges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.inspect.config import RowsConfig
from fairseq.storage.files import write_json
from fairseq.storage.marks import ROWS
from fairseq.storage.outputs import claim_record

MOST_ROWS = 10_000  # that are shown at once

# Lines, each with its record where it has one.
Shown = Iterator[tuple[str, dict[str, Any] | None]]


def show_rows(config: RowsConfig, texts: TextsConfig, show: Callable[[str], None]) -> None:
    """Shows rows with their texts, or the documents.

    Raises:
        ConfigError: there is no such row.
        DatastoreError: the datastore does not say what its rows are of.
        MismatchError: a text is another one.
    """
    settings = {name: value for name, value in as_dict(config, texts).items() if name != "overwrite"}
    if config.json is not None:
        claim_record("--json", config.json, ROWS, settings, overwrite=config.overwrite)
    store = Datastore.open(config.prefix, load_keys=False)
    wanted = [parse_rows(word) for word in config.rows]
    for _, stop in wanted:
        if stop > store.rows:
            raise ConfigError(
                f"row {stop - 1} must be one of the {store.rows} rows of {store.prefix}, 0 to {store.rows - 1}"
            )
    if sum(stop - start for start, stop in wanted) > MOST_ROWS:
        raise ConfigError(f"at most {MOST_ROWS} rows are shown at once; give fewer")
    provenance = Provenance(store, texts.data, texts.document_start)
    records = []
    for line, record in _documents(provenance) if config.documents else _rows(provenance, wanted, config.context):
        show(line)
        records += [record] if record is not None else []
    if config.json is not None:
        found = {"prefix": config.prefix, "store_id": store.store_id, "found": records}
        write_json(config.json, {"kind": "rows", **found, "settings": settings})


def _rows(provenance: Provenance, wanted: list[tuple[int, int]], context: int) -> Shown:
    """Yields rows with the words around them."""
    for row in (row for start, stop in wanted for row in range(start, stop)):
        place = provenance.place(row)
        record = _record(place, context, bool(provenance.store.forgotten.holds(np.array([row]))[0]))
        document = "before the first document"
        if place.document is not None:
            document = f"document {record['source']}#{place.document} {record['title']!r}"
        state = "  FORGOTTEN" if record["forgotten"] else ""
        line = (
            f"row {row}: {document}, line {place.line}, token {place.token_of_line} of it, {place.position} of the"
            f" text{state}\n  {place.source.around(row, context, context).line}"
        )
        yield line, record


def _record(place: Place, context: int, forgotten: bool) -> dict[str, Any]:
    source, passage = place.source, place.source.around(place.row, context, context)
    return {
        "row": place.row,
        "source": source.segment.name,
        "document": place.document,
        "title": None if place.document is None else source.title(place.document),
        "line": place.line,
        "token_of_line": place.token_of_line,
        "position": place.position,
        "before": passage.before,
        "value": passage.value,
        "after": passage.after,
        "forgotten": forgotten,
    }


def _documents(provenance: Provenance) -> Shown:
    """Yields each source, and each of its documents with its rows."""
    for source in provenance.sources():
        documents, name = source.documents, source.segment.name
        found = f"{counted(len(documents), 'document')} ({documents.rule}), {counted(source.segment.rows, 'row')}"
        yield f"{source.prefix}: {found}", None
        for number in range(len(documents)):
            rows, title = source.rows_of(number), source.title(number)
            gone = sum(provenance.store.forgotten.within(start, stop).num_rows for start, stop in rows.pairs)
            state = f"  FORGOTTEN: {gone} of {rows.num_rows}" if gone else ""
            record = {
                "document": f"{name}#{number}",
                "title": title,
                "rows": rows.pairs,
                "num_rows": rows.num_rows,
                "forgotten": gone,
            }
            yield f"  {name}#{number}  {shown_ranges(rows) or 'no rows'}  {title}{state}", record
