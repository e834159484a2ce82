"""Writing a range of a datastore's rows, while other processes write the others; a killed one goes on where it was."""

from contextlib import ExitStack
from pathlib import Path

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.format import keys_path, row_files
from fairseq.knn.datastore.manifest import DatastoreManifest
from fairseq.knn.datastore.range_record import RangeRecord, range_path, read_range, read_ranges
from fairseq.knn.datastore.row_writer import RowWriter, Written
from fairseq.knn.datastore.writer import MAKE_ROOM, begin, clear_sidecars, unfinished
from fairseq.runtime.resources import require_disk
from fairseq.storage.files import locked
from fairseq.storage.outputs import claim_datastore
from fairseq.storage.records import write_record

# How long a process waits for the others to begin, each of which looks at what is there.
OPENING_S = 60.0


class RangeWriter(RowWriter):
    """Appends the rows of a range to a datastore's files, in their place; made by ``create``, a context manager."""

    def __init__(
        self, prefix: Path, manifest: DatastoreManifest, record: RangeRecord, save_interval_s: float, held: ExitStack
    ) -> None:
        self._record = record
        super().__init__(prefix, manifest, record.written, save_interval_s, held, file_rows=manifest.rows)

    @property
    def name(self) -> str:
        """The range and the prefix."""
        return f"{self._record.name} of {self.prefix}"

    @classmethod
    def create(
        cls,
        prefix: Path,
        manifest: DatastoreManifest,
        number: int,
        count: int,
        rows: range,
        *,
        overwrite: bool = False,
        save_interval_s: float = 60.0,
    ) -> "RangeWriter":
        """Returns a writer of a new range, or of one of the same run that goes on.

        Args:
            prefix: of the datastore.
            manifest: of the whole, as before anything is written.
            number: which range it is, from 0.
            count: how many ranges there are.
            rows: its rows.
            overwrite: replaces what is there of another run.
            save_interval_s: seconds between two states to resume from.

        Raises:
            ConfigError: the disk is too small.
            DatastoreError: something else is there, and ``overwrite`` is not set.
            FairseqError: another process is writing this range.
        """
        path = range_path(prefix, number, count)
        new = RangeRecord(
            store_id=manifest.store_id, number=number, count=count, first_row=rows.start, stop_row=rows.stop
        )
        with ExitStack() as stack:
            with locked(prefix, OPENING_S):
                claim_datastore("", prefix, overwrite=overwrite)
                _begin_ranges(prefix, manifest, count, overwrite=overwrite)
                stack.enter_context(locked(path))
                record = _resumed(prefix, manifest, path, new)
                left = len(record.rows) - record.rows_written
                require_disk(keys_path(prefix), left * manifest.layout.row_bytes, MAKE_ROOM)
                write_record(path, record)
            return cls(prefix, manifest, record, save_interval_s, stack.pop_all())

    def note(self, written: Written) -> None:
        """Notes it in the range's record."""
        self._record = self._record.with_written(written)
        write_record(range_path(self.prefix, self._record.number, self._record.count), self._record)

    def finish(self) -> RangeRecord:
        """Marks the range as complete and returns its record.

        Raises:
            DatastoreError: rows are missing.
        """
        self.note(self.written())
        return self._record

    def __enter__(self) -> "RangeWriter":
        return self


def _begin_ranges(prefix: Path, manifest: DatastoreManifest, count: int, *, overwrite: bool) -> None:
    """Makes way for a datastore in ranges, unless its other ranges are there.

    Raises:
        DatastoreError: something else is there, and ``overwrite`` is not set.
    """
    try:
        earlier = unfinished(prefix, manifest)  # with --overwrite as well: then the replacing had begun
        if earlier is not None and earlier.rows_written:
            raise DatastoreError(
                f"{prefix} has {earlier.rows_written} of {earlier.rows} rows that one process has written; go on with"
                " one, without torchrun and --num-shards, or give --overwrite to begin again"
            )
        others = [one.count for one in read_ranges(prefix, manifest.store_id)] if earlier is not None else []
        if any(other != count for other in others):
            raise DatastoreError(
                f"{prefix} is written in {others[0]} ranges, but this run has {count}; give --num-shards"
                f" {others[0]}, or --overwrite to begin again"
            )
    except DatastoreError:
        if not overwrite:
            raise
        others = []
    if not others:
        begin(prefix, manifest)
        clear_sidecars(prefix)


def _resumed(prefix: Path, manifest: DatastoreManifest, path: Path, new: RangeRecord) -> RangeRecord:
    """Returns the record of a range as far as an earlier run has come, or the new one.

    Raises:
        DatastoreError: the files have lost rows that the record counts, or it is of other rows.
    """
    if not path.exists():
        return new
    earlier = read_range(path)
    if earlier.store_id != new.store_id:
        return new
    if earlier.rows != new.rows:
        raise DatastoreError(
            f"{path} has rows {earlier.first_row} to {earlier.stop_row}, but this version of the program cuts the range"
            f" from {new.first_row} to {new.stop_row}; --overwrite begins again"
        )
    for file, row_bytes in row_files(prefix, manifest.layout):
        if earlier.rows_written and (not file.exists() or file.stat().st_size < earlier.written.stop * row_bytes):
            raise DatastoreError(
                f"{file} is shorter than the rows of {path}; remove {path}, and the same command writes them again"
            )
    return earlier
