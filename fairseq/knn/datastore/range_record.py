"""The record of a range of a datastore's rows that one of several processes writes, ``PREFIX.range-2-of-4.json``.

    PREFIX_keys.npy, PREFIX_vals.npy    [ range 0 ][ range 1 ][ range 2 ][ range 3 ]      each in its place
    PREFIX.json                         the manifest, state "writing": of which datastore these are ranges
    PREFIX.range-0-of-4.json, …         how far each has come, and the checksums of its rows

Where each process has a disk of its own, the files there have the same names and sizes, with holes where the others'
rows belong. When all ranges are written, ``fairseq-knnlm join`` (fairseq/knn/dump/join.py) completes the manifest and
removes the records.
"""

import glob
import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.format import pieces_of
from fairseq.knn.datastore.manifest import DatastoreManifest
from fairseq.knn.datastore.row_writer import Written
from fairseq.storage.files import locked
from fairseq.storage.records import Count, Positive, Record, read_record

_MOST_TOLD = 4  # ranges, in a message


class RangeRecord(Record, frozen=True, kw_only=True):
    """How far the writing of a range has come.

    Attributes:
        store_id: of the datastore.
        number: which range it is, from 0.
        count: how many ranges there are.
        first_row: its first row.
        stop_row: the row after its last one.
        rows_written: its rows that are safely on the disk.
        keys_sha256: of the keys' file, one for each chunk of rows of which the range has some, of these rows.
        values_sha256: of the values' file, likewise.
    """

    store_id: str
    number: Count
    count: Positive
    first_row: Count
    stop_row: Count
    rows_written: Count = 0
    keys_sha256: tuple[str, ...] = ()
    values_sha256: tuple[str, ...] = ()
    kind: Literal["datastore-range"] = "datastore-range"
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        if self.number >= self.count:
            raise ValueError(f"must have a number below its count {self.count}, but has {self.number}")
        if self.first_row + self.rows_written > self.stop_row:
            raise ValueError(f"must end at its stop_row {self.stop_row}, but has {self.rows_written} rows")

    @property
    def rows(self) -> range:
        """Its rows."""
        return range(self.first_row, self.stop_row)

    @property
    def written(self) -> Written:
        """What of it is there."""
        return Written(self.rows, self.first_row + self.rows_written, self.keys_sha256, self.values_sha256)

    @property
    def is_complete(self) -> bool:
        """Whether all of it is there, with its checksums."""
        return self.rows_written == len(self.rows) and len(self.keys_sha256) == len(pieces_of(self.rows))

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return range_name(self.number, self.count)

    def with_written(self, written: Written) -> "RangeRecord":
        """Returns the record of a range of which so much is there."""
        sums = {"keys_sha256": written.keys_sha256, "values_sha256": written.values_sha256}
        return self.replace(rows_written=written.count, **sums)


def range_name(number: int, count: int) -> str:
    """Returns what a range is called in messages, numbered as ``--shard-id`` does."""
    return f"range {number} of {count}"


def range_path(prefix: str | Path, number: int, count: int) -> Path:
    """Returns the file of a range's record."""
    return Path(f"{prefix}.range-{number}-of-{count}.json")


def range_paths(prefix: Path) -> list[Path]:
    """Returns the records beside a datastore, whatever run they are of."""
    name = re.compile(rf"{re.escape(prefix.name)}\.range-\d+-of-\d+\.json")
    found = prefix.parent.glob(f"{glob.escape(prefix.name)}.range-*-of-*.json")
    return sorted(path for path in found if name.fullmatch(path.name))


def read_range(path: Path) -> RangeRecord:
    """Returns the record in a file; raises DatastoreError for anything else."""
    return read_record(path, RangeRecord, DatastoreError, "remove it, and run the command of that range again")


def read_ranges(prefix: Path, store_id: str) -> list[RangeRecord]:
    """Returns the records of a datastore's ranges, in order; those of other runs are left out."""
    records = []
    for path in range_paths(prefix):
        with suppress(FileNotFoundError):  # removed in this moment, by a join
            records.append(read_range(path))
    return sorted((one for one in records if one.store_id == store_id), key=lambda one: (one.count, one.number))


def what_is_missing(records: Sequence[RangeRecord]) -> dict[int, str]:
    """Returns a few words for each range that is not complete, of a datastore of which there are records."""
    known = {record.number: record for record in records}
    faults = {}
    for number in range(records[0].count):
        record = known.get(number)
        if record is None:
            faults[number] = f"{range_name(number, records[0].count)} is missing"
        elif not record.is_complete:
            faults[number] = f"{record.name} has {record.rows_written} of {len(record.rows)} rows"
    return faults


def how_to_complete(records: Sequence[RangeRecord]) -> str:
    """Returns which ranges are not complete, and how to complete them."""
    faults, count = what_is_missing(records), records[0].count
    more = f" and {len(faults) - _MOST_TOLD} more are not complete" if len(faults) > _MOST_TOLD else ""
    again, number = ("its command", next(iter(faults))) if len(faults) == 1 else ("the command of each", "N")
    return (
        f"{', '.join(list(faults.values())[:_MOST_TOLD])}{more}; run {again} again (--num-shards {count} --shard-id"
        f" {number}, or torchrun's)"
    )


def how_to_finish(prefix: Path, records: Sequence[RangeRecord]) -> str:
    """Returns how far the ranges of an unfinished datastore are, and what to do, to stand behind its name."""
    if not what_is_missing(records):
        return f"all of its {records[0].count} ranges are written; fairseq-knnlm join {prefix} makes it whole"
    return f"{how_to_complete(records)}, then: fairseq-knnlm join {prefix} (and the prefixes on other disks)"


def how_far(prefix: Path, manifest: DatastoreManifest) -> str:
    """Returns how far an unfinished datastore is, and what to do, to stand behind its name."""
    if records := read_ranges(prefix, manifest.store_id):
        return how_to_finish(prefix, records)
    return (
        f"{manifest.rows_written} of {manifest.rows} rows; write it again with the same command, which goes on from"
        " there"
    )


def require_idle(prefix: Path) -> None:
    """Raises FairseqError where another process is writing a range of the datastore."""
    with ExitStack() as stack:
        for path in range_paths(prefix):
            stack.enter_context(locked(path))


def remove_ranges(prefix: Path) -> None:
    """Removes the records of ranges."""
    for path in range_paths(prefix):
        path.unlink(missing_ok=True)
