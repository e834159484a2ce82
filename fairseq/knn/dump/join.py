"""Joining the ranges of a datastore: ``fairseq-knnlm join``, and the end of a run in several processes.

    one place        PREFIX_keys.npy is whole already    hash the chunks that two ranges share, write the manifest
    several disks    A ▓▓▓···   B ···▓▓▓                 copy each range to DEST in its place, then the same

Of a chunk that one range has alone, its record has the checksum. A chunk that several share is read again, and each
part of it compared with its own checksum: two machines that wrote to one page of a network's disk would show there.
What is copied is compared as well. The manifest is written when all rows are there, to the same bytes as by one
process; a join that was stopped goes on.

Legend: N rows · D key width.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore.format import (
    CHUNK_ROWS,
    pieces_of,
    read_pieces,
    require_rows,
    row_files,
)
from fairseq.knn.datastore.identity import how_runs_differ
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest, write_manifest
from fairseq.knn.datastore.range_record import (
    RangeRecord,
    how_to_complete,
    how_to_finish,
    range_path,
    read_ranges,
    remove_ranges,
    what_is_missing,
)
from fairseq.knn.datastore.store import is_written, map_files
from fairseq.knn.dump.range_writer import OPENING_S, RangeWriter
from fairseq.runtime.interrupts import check, finish_step_first
from fairseq.runtime.progress import Progress
from fairseq.runtime.resources import require_disk
from fairseq.storage.files import locked
from fairseq.storage.outputs import claim_datastore

_COPIED_BYTES = 1 << 26  # at once


@dataclass(frozen=True)
class _Place:
    """A prefix that has ranges: the manifest of the whole, and the records of those that are there."""

    prefix: Path
    manifest: DatastoreManifest
    records: list[RangeRecord]


def join_datastore(prefixes: Sequence[str], destination: str | None, *, overwrite: bool) -> str:
    """Makes a whole datastore of ranges, and returns a line that says which.

    Args:
        prefixes: where ranges are.
        destination: prefix of the whole; None for the place where they are, if that is one.
        overwrite: replaces another datastore at the destination.

    Raises:
        ConfigError: several prefixes without a destination, or the disk is too small.
        DatastoreError: a range is missing, unfinished or damaged.
        MismatchError: ranges are of different runs.
    """
    if destination is None and len(set(prefixes)) > 1:
        raise ConfigError(
            f"{', '.join(prefixes)} are several places, and ranges are copied to one; give --dstore-mmap PREFIX"
        )
    target = Path(destination or prefixes[0])
    places = [_open(Path(prefix)) for prefix in dict.fromkeys(prefixes)]
    first, whole = places[0], places[0].manifest
    for other in places[1:]:
        if other.manifest.store_id != whole.store_id:
            raise MismatchError(
                f"{first.prefix} is{how_runs_differ(whole, other.manifest, str(other.prefix))}; give ranges of one run"
            )
    if destination is not None:
        claim_datastore("--dstore-mmap", target, overwrite=overwrite)
    if (destination is None or not overwrite) and is_written(target, whole):
        remove_ranges(target)  # of a join that was killed at its very end
        return f"{target} is whole already: {whole.rows} rows of width {whole.dimension}"
    if destination is not None:
        _copy_ranges(places, target, overwrite=overwrite)
    manifest, count = join_in_place(target)
    rows = f"{manifest.rows} rows of width {manifest.dimension}"
    return f"{target}: {rows}, of {count} ranges, store {manifest.store_id[:12]}"


def join_in_place(prefix: Path) -> tuple[DatastoreManifest, int]:
    """Completes the manifest of a datastore whose ranges are all there; returns it, and how many they were.

    Raises:
        DatastoreError: a range is missing, unfinished or damaged.
    """
    with locked(prefix, OPENING_S):
        place = _open(prefix)
        records, whole = place.records, place.manifest
        if what_is_missing(records):
            raise DatastoreError(f"{prefix} is not whole: {how_to_finish(prefix, records)}")
        keys, values = (
            tuple(_chunk_sums(prefix, path, row_bytes, records, sums))
            for (path, row_bytes), sums in zip(
                row_files(prefix, whole.layout),
                ([one.keys_sha256 for one in records], [one.values_sha256 for one in records]),
                strict=True,
            )
        )
        done = whole.replace(state="complete", rows_written=whole.rows, keys_sha256=keys, values_sha256=values)
        done = done.of_files(prefix)
        write_manifest(manifest_path(prefix), done)
        remove_ranges(prefix)
    return done, len(records)


def _open(prefix: Path) -> _Place:
    """Returns a place, which has ranges unless its datastore is whole.

    Raises:
        DatastoreError: there is none, or its files are not of the right size.
    """
    require_rows(prefix, load_keys=True)
    manifest = read_manifest(manifest_path(prefix), DatastoreManifest)
    if manifest is None:
        raise DatastoreError(
            f"{prefix} has no manifest, so it is no range of a datastore; fairseq-eval-lm --save-knnlm-dstore"
            " --num-shards N --shard-id I writes one"
        )
    records = read_ranges(prefix, manifest.store_id)
    if manifest.state == "complete":
        return _Place(prefix, manifest, records)
    if not records:
        raise DatastoreError(
            f"{prefix} is not in ranges: one process has written {manifest.rows_written} of {manifest.rows} rows; run"
            " its command again, which goes on from there"
        )
    if len({record.count for record in records}) > 1:
        raise DatastoreError(
            f"{prefix} has records of {records[0].count} and of {records[-1].count} ranges of one run; remove those of"
            " the one that is not to be joined"
        )
    for path, row_bytes in row_files(prefix, manifest.layout):
        if path.stat().st_size != manifest.rows * row_bytes:
            raise DatastoreError(
                f"{path} must have {manifest.rows * row_bytes} bytes, but has {path.stat().st_size}; it was truncated"
                f" or replaced: remove {prefix}.range-*.json, and write its ranges again"
            )
    return _Place(prefix, manifest, records)


def _chunk_sums(
    prefix: Path, path: Path, row_bytes: int, records: Sequence[RangeRecord], sums: Sequence[Sequence[str]]
) -> Iterator[str]:
    """Yields the checksum of each chunk of a file.

    Raises:
        DatastoreError: a part of one is not as its range has written it.
    """
    parts = [
        (record, rows, digest)
        for record, digests in zip(records, sums, strict=True)
        for rows, digest in zip(pieces_of(record.rows), digests, strict=True)
    ]
    for _, found in groupby(parts, key=lambda part: part[1].start // CHUNK_ROWS):
        chunk = list(found)
        if len(chunk) == 1:
            yield chunk[0][2]
            continue
        whole = hashlib.sha256()
        for record, rows, wanted in chunk:
            part = hashlib.sha256()
            for data in read_pieces(path, rows.start * row_bytes, len(rows) * row_bytes):
                whole.update(data)
                part.update(data)
            if part.hexdigest() != wanted:
                raise _damaged(prefix, rows, record)
        yield whole.hexdigest()


def _copy_ranges(places: Sequence[_Place], target: Path, *, overwrite: bool) -> None:
    """Copies the ranges that are not at the target yet."""
    manifest = places[0].manifest
    best: dict[int, tuple[_Place, RangeRecord]] = {}
    for place in places:
        if place.manifest.state == "complete":
            raise DatastoreError(f"{place.prefix} is a whole datastore, not a range of one; give the places of ranges")
        for record in place.records:
            if record.count != places[0].records[0].count:
                raise DatastoreError(
                    f"{place.prefix} is in {record.count} ranges, but {places[0].prefix} in"
                    f" {places[0].records[0].count}; give ranges of one run"
                )
            if record.number not in best or not best[record.number][1].is_complete:
                best[record.number] = place, record
    found = [record for _, record in best.values()]
    if what_is_missing(found):
        named = ", ".join(str(place.prefix) for place in places)
        raise DatastoreError(f"{named}: {how_to_complete(found)}; give the prefixes of all ranges")
    there = {one.number for one in read_ranges(target, manifest.store_id) if one.is_complete}
    coming = [one for number, one in sorted(best.items()) if number not in there]
    needed = sum(len(record.rows) for _, record in coming) * manifest.layout.row_bytes
    require_disk(target, needed, "make room, or give --dstore-mmap on another disk")
    for place, record in coming:
        _copy(place, record, target, overwrite=overwrite)


def _copy(place: _Place, record: RangeRecord, target: Path, *, overwrite: bool) -> None:
    """Copies a range, or goes on copying it, and compares its checksums."""
    keys_ND, values_N = map_files(place.prefix, place.manifest.layout)
    assert keys_ND is not None
    step = max(_COPIED_BYTES // place.manifest.layout.row_bytes, 1)
    writer = RangeWriter.create(target, place.manifest, record.number, record.count, record.rows, overwrite=overwrite)
    done, total = writer.rows_done - record.first_row, len(record.rows)
    with (
        finish_step_first(),
        writer,
        Progress(f"copy {record.name} from {place.prefix}", total, "rows", done=done) as bar,
    ):
        while (start := writer.rows_done) < record.stop_row:
            stop = min(start + step, record.stop_row)
            writer.copy(keys_ND[start:stop], values_N[start:stop])
            bar.advance(stop - start)
            check("what was copied is kept, and the same command goes on from there")
        found = writer.written()
        is_right = (found.keys_sha256, found.values_sha256) == (record.keys_sha256, record.values_sha256)
        if is_right:
            writer.finish()
    if not is_right:
        range_path(target, record.number, record.count).unlink(missing_ok=True)
        raise _damaged(place.prefix, record.rows, record)


def _damaged(prefix: Path, rows: range, record: RangeRecord) -> DatastoreError:
    return DatastoreError(
        f"{prefix}: rows {rows.start} to {rows.stop - 1} are not those that {record.name} has written there; remove"
        f" {range_path(prefix, record.number, record.count)}, and run the command of that range again"
    )
