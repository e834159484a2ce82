"""Checks of a datastore (manifest, sizes, checksums, values, keys, what it belongs to), and what ``info`` tells of it.

Rows are read in blocks, so that memory does not grow with the datastore.

Legend: N rows · D key width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fairseq.arrays import Array
from fairseq.errors import DatastoreError, counted
from fairseq.knn.datastore.forgotten import read_forgotten
from fairseq.knn.datastore.format import (
    CHUNK_ROWS,
    append_path,
    chunk_digests,
    has_unfinished_compaction,
    keys_path,
    row_files,
    values_path,
)
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest
from fairseq.knn.datastore.provenance import Provenance
from fairseq.knn.datastore.range_record import RangeRecord, how_to_finish, read_range, read_ranges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.inspect.config import CheckConfig
from fairseq.knn.inspect.directory import UNKNOWN, settings_lines, short_text
from fairseq.knn.inspect.findings import OK, SKIPPED, WARNING, Counted, Findings
from fairseq.knn.inspect.inputs import Inputs
from fairseq.knn.inspect.model_directory import Description, Lines
from fairseq.knn.maintain.foreign import find_foreign, likely_layouts
from fairseq.runtime.progress import Progress
from fairseq.storage.records import as_json, read_record

BLOCK_BYTES = 1 << 26
ROWS_AT_ONCE = 1 << 20
KEYS_FINITE = "datastore keys finite"


def blocks(rows: Array) -> Iterator[tuple[int, Array]]:
    """Yields the first row, and the keys or values, of each block of rows, ``BLOCK_BYTES`` at most."""
    step = max(BLOCK_BYTES * len(rows) // max(rows.nbytes, 1), 1)
    for start in range(0, len(rows), step):
        yield start, np.asarray(rows[start : start + step])


def check_datastore(
    config: CheckConfig, findings: Findings, prefix: Path, inputs: Inputs, index_width: int | None
) -> Datastore | None:
    """Checks a datastore, and returns it where it can be opened."""
    before, what = findings.num_failed, "datastore manifest"
    manifest = findings.opened(what, lambda: read_manifest(manifest_path(prefix), DatastoreManifest))
    if manifest is not None:
        findings.add(OK, what, f"{manifest.state}, store {manifest.store_id[:12]}")
        _check_sidecars(findings, prefix, manifest)
    elif not findings.failed(what):
        findings.add(WARNING, what, "there is none: the sizes of the files decide; fairseq-knnlm adopt writes one")
    if findings.num_failed > before:
        return None
    # Without a manifest, the flag, the model or the index must know how wide a key is.
    width = config.dimension
    if width is None and manifest is None:
        width = inputs.model.key_dimension or index_width
    store = findings.opened(
        "datastore sizes",
        lambda: Datastore.open(
            prefix,
            rows=config.dstore_size,
            dimension=width,
            key_fp16=config.dstore_fp16,
            vocabulary_size=inputs.model.vocabulary_size,
            load_keys=manifest is None or manifest.has_keys,
            verify=False,  # checksums say more
        ),
    )
    if store is None:
        return None
    dtype = store.keys_ND.dtype if store.keys_ND is not None else "no"
    kinds = f"{dtype} keys of width {store.dimension}, {store.values_N.dtype} values"
    findings.add(OK, "datastore sizes", f"{store.rows} rows of {kinds}")
    if manifest is not None:
        (keys, key_bytes), (values, value_bytes) = row_files(prefix, manifest.layout)
        if manifest.has_keys:
            _check_chunks(findings, "keys", keys, key_bytes, manifest.rows, manifest.keys_sha256)
        _check_chunks(findings, "values", values, value_bytes, manifest.rows, manifest.values_sha256)
    _check_values(findings, store, inputs.model.vocabulary_size)
    if store.keys_ND is not None:
        _check_keys(findings, store)
    findings.belongs("datastore", store.model, inputs.model, ("width", "weights", "dictionary"))
    _check_segments(findings, store)
    if store.keys_ND is None:
        text = "it was adopted without; only --knn-sim-func do_not_recomp_l2 needs none, and no index is searched here"
        findings.add(SKIPPED, "datastore keys", text)
        return None
    return store


def _check_chunks(
    findings: Findings, name: str, path: Path, row_bytes: int, rows: int, recorded: Sequence[str]
) -> None:
    """Checks the checksums of a file of rows, and names the rows that are damaged."""
    chunks = -(-rows // CHUNK_ROWS)

    def damage() -> str | None:
        if len(recorded) != chunks:
            return f"the manifest has {len(recorded)} checksums for {chunks} chunks; it was edited"
        digests = zip(chunk_digests(path, row_bytes, rows), recorded, strict=True)
        damaged = [number for number, (digest, wanted) in enumerate(digests) if digest != wanted]
        shown = [f"{c * CHUNK_ROWS} to {min((c + 1) * CHUNK_ROWS, rows) - 1}" for c in damaged[:5]]
        more = f" and {len(damaged) - 5} more chunks" if len(damaged) > 5 else ""
        text = f"{path} is damaged in rows {', '.join(shown)}{more}; restore it, or write the datastore again"
        return text if damaged else None

    findings.checksum(f"datastore {name}", damage, f"{chunks} chunks", recorded=bool(recorded))


def _check_values(findings: Findings, store: Datastore, vocabulary_size: int | None) -> None:
    limit = store.model.vocabulary_size if store.model.vocabulary_size is not None else vocabulary_size
    bad = Counted()
    for start, block_N in blocks(store.values_N):
        bad.note((block_N < 0) | (block_N >= (np.inf if limit is None else limit)), start)
    fine = f"ids below {limit}" if limit is not None else "ids, none is negative (the vocabulary is not known)"
    problem = (
        f"{bad.count} values must be {fine}, but row {bad.first} holds {int(store.values_N[bad.first])}; write the"
        " datastore again, or try fairseq-knnlm adopt"
    )
    findings.judge("datastore values", problem if bad.count else None, f"all are {fine}")


def find_bad_keys(keys_ND: Array, progress: Progress) -> tuple[Counted, Counted, int]:
    """Returns which keys are not finite, which are all zero, and how many rows there are without zeros at the end."""
    not_finite, zero, filled = Counted(), Counted(), 0
    for start, block_ND in blocks(keys_ND):
        zero_N = ~block_ND.any(axis=1)
        not_finite.note(~np.isfinite(block_ND).all(axis=1), start)
        zero.note(zero_N, start)
        if not zero_N.all():
            filled = start + int(np.flatnonzero(~zero_N)[-1]) + 1
        progress.advance(len(block_ND))
    return not_finite, zero, filled


def _check_keys(findings: Findings, store: Datastore) -> None:
    assert store.keys_ND is not None
    with Progress("read keys", store.rows, "rows") as progress:
        not_finite, zero, filled = find_bad_keys(store.keys_ND, progress)
    overflowed = (
        f"{counted(not_finite.count, 'row')} with NaN or infinity, the first is row {not_finite.first}: the model or"
        " float16 overflowed; write the datastore again"
    )
    findings.judge(KEYS_FINITE, overflowed if not_finite.count else None, "all finite")
    problem = None
    if zero.count and zero.count == store.rows - filled:
        problem = (
            f"rows {filled} to {store.rows - 1}, {zero.count} at the end, were never filled; fairseq-knnlm"
            " adopt cuts them, or write the datastore again without --dstore-size"
        )
    elif zero.count:
        problem = (
            f"{counted(zero.count, 'row')} of zeros only, the first is row {zero.first}; write the datastore again"
        )
    findings.judge("datastore keys filled", problem, "no row is all zero")


def _check_sidecars(findings: Findings, prefix: Path, manifest: DatastoreManifest) -> None:
    """Checks segments and forgotten rows, as far as the manifest has any, and tells what is unfinished."""
    if manifest.segments:
        said = [f"{segment.name} {segment.rows} of {segment.source_rows} rows" for segment in manifest.segments]
        findings.add(OK, "datastore segments", "; ".join(said))
    if manifest.forgotten:
        with findings.failing("datastore forgotten"):
            rows = read_forgotten(prefix, manifest)
            ranges = counted(len(rows.pairs), "range")
            text = f"{rows.num_rows} of {manifest.rows} rows, in {ranges}; in the files until --compact"
            findings.add(OK, "datastore forgotten", text)
    if has_unfinished_compaction(prefix):
        text = f"was stopped; fairseq-knnlm forget {prefix} --compact goes on"
        findings.add(WARNING, "datastore compaction", text)
    with findings.failing("datastore append"):
        begun = read_manifest(append_path(prefix), DatastoreManifest)
        if begun is not None:
            text = f"of {begun.rows - manifest.rows} rows was stopped; its command, given again, goes on"
            findings.add(WARNING, "datastore append", text)


def _check_segments(findings: Findings, store: Datastore) -> None:
    """Checks, where rows were appended or taken out, that they are the tokens of the texts that are recorded."""
    if store.manifest is None or not store.manifest.segments:
        return
    provenance = Provenance(store)
    for number, segment in enumerate(provenance.segments):
        what = f"datastore segment {number}"
        recorded = segment.settings.get("data")
        if not isinstance(recorded, str) or not Path(f"{recorded}.idx").is_file():
            findings.add(SKIPPED, what, f"its text is not at {recorded}")
            continue
        with findings.failing(what):
            source, stop = provenance.source(number), int(provenance.first_row_S[number + 1])
            for start in range(source.first_row, stop, ROWS_AT_ONCE):
                provenance.check_values(source, np.arange(start, min(start + ROWS_AT_ONCE, stop)))
            findings.add(OK, what, f"all {segment.rows} values are tokens of {recorded}")


def describe_datastore(prefix: Path) -> Description:
    """Returns what a datastore is, and what it says; one without a manifest may be several things."""
    manifest = read_manifest(manifest_path(prefix), DatastoreManifest)
    if manifest is not None:
        return _description(prefix, manifest)
    foreign = find_foreign(str(prefix))
    keys, values = (path(foreign.prefix).stat().st_size for path in (keys_path, values_path))
    lines: Lines = [("may be", str(layout)) for layout in likely_layouts(foreign)]
    if not lines:
        raise DatastoreError(f"{prefix} has {keys} bytes of keys and {values} of values: no datastore's sizes")
    what = "datastore without a manifest (fairseq-knnlm adopt writes one)"
    return what, [("bytes of keys", keys), ("bytes of values", values), *lines]


def describe_manifest(path: Path) -> Description:
    """Returns what a datastore's manifest says."""
    manifest = read_record(path, DatastoreManifest, DatastoreError, "it is torn or of another kind")
    what, lines = _description(path.with_suffix(""), manifest)
    return f"manifest of a{'n' if what.startswith('un') else ''} {what}", lines


def describe_range(path: Path) -> Description:
    """Returns what the record of a range says."""
    return "record of a range of a datastore's rows", [_range_line(read_range(path))]


def _range_line(record: RangeRecord) -> tuple[str, object]:
    state = "complete" if record.is_complete else f"{record.rows_written} of {len(record.rows)} written"
    return record.name, f"rows {record.first_row}:{record.stop_row}, {state}"


def _description(prefix: Path, manifest: DatastoreManifest) -> Description:
    ranges = read_ranges(prefix, manifest.store_id) if manifest.state == "writing" else []
    done, total = manifest.rows_written + sum(record.rows_written for record in ranges), manifest.rows
    state = f"unfinished datastore, {done} of {total} rows ({100 * done / total:.0f} %)"
    lines: Lines = [
        ("rows", manifest.rows),
        ("width", manifest.dimension),
        ("keys", f"{manifest.key_dtype} {manifest.key_type}"),
        ("values", manifest.value_dtype),
        ("vocabulary", manifest.vocabulary_size or UNKNOWN),
        ("store id", manifest.store_id),
        ("weights sha256", manifest.weights_sha256 or UNKNOWN),
        ("dictionary sha256", manifest.dictionary_sha256 or UNKNOWN),
    ]
    if manifest.forgotten:
        lines.append(("rows forgotten", manifest.forgotten.rows))
    lines += map(_range_line, ranges)
    if ranges:
        lines.append(("to finish", how_to_finish(prefix, ranges)))
    lines += [(f"segment {number}", short_text(as_json(one))) for number, one in enumerate(manifest.segments or ())]
    lines += () if manifest.segments else settings_lines(manifest.settings)
    return "datastore" if manifest.state == "complete" else state, lines
