"""``fairseq-knnlm rows``: where rows of a datastore come from, and which rows a document has."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fairseq.data.documents import title_of
from fairseq.errors import ConfigError
from fairseq.knn.datastore.config import TextsConfig, parse_rows
from fairseq.knn.datastore.provenance import Place, Provenance, Source
from fairseq.knn.datastore.ranges import RowRanges, shown_ranges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.inspect.config import RowsConfig
from fairseq.runtime.files import write_json

MOST_ROWS = 10_000  # that are shown at once


def show_rows(config: RowsConfig, texts: TextsConfig, show: Callable[[str], None]) -> None:
    """Shows rows with their texts, or the documents.

    Raises:
        ConfigError: there is no such row.
        DatastoreError: the datastore does not say what its rows are of.
        MismatchError: a text is another one.
    """
    store = Datastore.open(config.prefix, load_keys=False)
    wanted = [parse_rows(word) for word in config.rows]
    _check_rows(wanted, store)
    provenance = Provenance(store, texts.data, texts.document_start)
    records = []
    if config.documents:
        for number, source in enumerate(provenance.sources()):
            lines = _document_records(source, store.forgotten)
            segment = provenance.segments[number]
            show(f"{source.prefix}: {len(source.documents)} documents ({source.documents.rule}), {segment.rows} rows")
            for record in lines:
                show(_document_line(record))
                records.append(record)
    else:
        for start, stop in wanted:
            for row in range(start, stop):
                record = _record(provenance.place(row), config.context, store)
                show(_row_lines(record))
                records.append(record)
    if config.json is not None:
        write_json(config.json, {"prefix": config.prefix, "store_id": store.store_id, "found": records})


def _check_rows(wanted: list[tuple[int, int]], store: Datastore) -> None:
    for _, stop in wanted:
        if stop > store.rows:
            raise ConfigError(
                f"row {stop - 1} must be one of the {store.rows} rows of {store.prefix}, 0 to {store.rows - 1}"
            )
    if sum(stop - start for start, stop in wanted) > MOST_ROWS:
        raise ConfigError(f"at most {MOST_ROWS} rows are shown at once; give fewer")


def _record(place: Place, context: int, store: Datastore) -> dict[str, Any]:
    source, at = place.source, place.position
    text, symbols = source.text, source.dictionary

    def words(start: int, stop: int) -> str:
        return " ".join(symbols[idx] for idx in text.tokens[max(start, 0) : stop].tolist())

    return {
        "row": place.row,
        "source": source.segment.name,
        "document": place.document,
        "title": _title(source, place.document),
        "line": place.line,
        "token_of_line": at - int(text.offsets[place.line]),
        "position": at,
        "before": words(at - context, at),
        "value": symbols[int(text.tokens[at])],
        "after": words(at + 1, at + 1 + context),
        "forgotten": bool(store.forgotten.holds(np.array([place.row]))[0]),
    }


def _title(source: Source, document: int | None) -> str | None:
    if document is None:
        return None
    return title_of(source.text, source.dictionary, int(source.documents.line_D[document]))


def _row_lines(record: dict[str, Any]) -> str:
    document = "before the first document"
    if record["document"] is not None:
        document = f"document {record['source']}#{record['document']} {record['title']!r}"
    state = "  FORGOTTEN" if record["forgotten"] else ""
    return (
        f"row {record['row']}: {document}, line {record['line']}, token {record['token_of_line']} of it,"
        f" {record['position']} of the text{state}\n  {record['before']} [{record['value']}] {record['after']}"
    )


def _document_records(source: Source, forgotten: RowRanges) -> Iterator[dict[str, Any]]:
    for number in range(len(source.documents)):
        rows = source.rows_of(number)
        gone = sum(forgotten.within(start, stop).num_rows for start, stop in rows.pairs)
        yield {
            "document": f"{source.segment.name}#{number}",
            "title": _title(source, number),
            "rows": rows.pairs,
            "num_rows": rows.num_rows,
            "forgotten": gone,
        }


def _document_line(record: dict[str, Any]) -> str:
    rows = shown_ranges(RowRanges.of(record["rows"])) or "no rows"
    state = f"  FORGOTTEN: {record['forgotten']} of {record['num_rows']}" if record["forgotten"] else ""
    return f"  {record['document']}  {rows}  {record['title']}{state}"
