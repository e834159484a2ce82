"""Writing rows, all or a range of them, into the files of a datastore in order, so that a killed run loses nothing.

    keys, values   [ others' rows ][ rows_done ──► ][ others' rows ]
                                   └ hashed as they are written, a checksum for each chunk (format.py)

How far the writing has come is noted only after the rows are on the disk. A run that goes on repeats what was written
since, to the same bytes as a run that was never stopped.

Legend: N rows · D key width.
"""

import os
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from fairseq.arrays import Array
from fairseq.errors import DatastoreError
from fairseq.knn.datastore.format import ChunkHasher, keys_path, num_full, read_pieces, row_files
from fairseq.knn.datastore.manifest import DatastoreManifest
from fairseq.storage.files import fsync_directory

# Flushed to the disk after so many rows or --save-interval-s, whichever comes first: what a killed run has to repeat.
SYNC_ROWS = 1 << 18


@dataclass(frozen=True)
class Written:
    """How far the writing of some rows has come.

    Attributes:
        rows: which rows are written.
        stop: the row after the last one that is safely on the disk.
        keys_sha256: of the keys' chunks that are full, of the rows that are in ``rows``.
        values_sha256: of the values', likewise.
    """

    rows: range
    stop: int
    keys_sha256: tuple[str, ...] = ()
    values_sha256: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many rows are there."""
        return self.stop - self.rows.start


class RowWriter(ABC):
    """Base class of what appends rows; used as a context manager.

    Leaving the context early (an error, Ctrl-C) puts on the disk what has been appended, to be resumed.

    Attributes:
        prefix: of the datastore.
        rows: which of its rows are written.
        rows_done: the row after the last one that is there, an earlier run's included.
    """

    def __init__(
        self,
        prefix: Path,
        manifest: DatastoreManifest,
        written: Written,
        save_interval_s: float,
        held: ExitStack,
        *,
        file_rows: int,
    ) -> None:
        """Opens the files behind the rows that are there.

        Args:
            prefix: of the datastore.
            manifest: of the whole.
            written: what is there already.
            save_interval_s: seconds between two states to resume from.
            held: what is let go at the end, such as a lock.
            file_rows: how many rows the files are given room for at first.
        """
        self.prefix, self.rows, self.rows_done = prefix, written.rows, written.stop
        self._whole, self._save_interval_s = manifest, save_interval_s
        self._safe, self._synced = written.stop, time.monotonic()
        sums = written.keys_sha256, written.values_sha256
        with held:
            try:
                self._keys, self._values = (
                    _File(held, path, row_bytes, written, known, file_rows)
                    for (path, row_bytes), known in zip(row_files(prefix, manifest.layout), sums, strict=True)
                )
            except OSError as err:
                raise self._full(err) from err
            fsync_directory(prefix.parent)  # else a record may count rows of files that have lost their names
            self._held = held.pop_all()

    @property
    @abstractmethod
    def name(self) -> str:
        """What is written, in words."""

    @abstractmethod
    def note(self, written: Written) -> None:
        """Notes on the disk how far the writing has come."""

    def append(self, keys_ND: Array, values_N: Array) -> None:
        """Appends rows.

        Args:
            keys_ND: float32 or float16.
            values_N: integers, ``[N]`` or ``[N, 1]``.

        Raises:
            DatastoreError: a key is not finite, or not in float16.
        """
        count, values_N, whole = len(keys_ND), values_N.reshape(-1), self._whole
        assert keys_ND.shape == (count, whole.dimension) and values_N.shape == (count,), (
            keys_ND.shape,
            values_N.shape,
            whole.dimension,
        )
        assert self.rows_done + count <= self.rows.stop, (self.rows_done, count, self.rows)
        with np.errstate(over="ignore"):
            stored_ND = np.ascontiguousarray(keys_ND, dtype=whole.key_dtype)
        finite_N = np.isfinite(stored_ND).all(axis=1)
        if not finite_N.all():
            self._refuse(keys_ND, int(np.argmin(finite_N)))
        limit = whole.vocabulary_size
        assert count == 0 or (values_N.min() >= 0 and (limit is None or values_N.max() < limit)), "ids out of range"
        self.copy(stored_ND, np.ascontiguousarray(values_N, dtype=whole.value_dtype))

    def copy(self, keys_ND: Array, values_N: Array) -> None:
        """Appends rows as they are, which have the datastore's types."""
        assert keys_ND.dtype == np.dtype(self._whole.key_dtype) and values_N.dtype == np.dtype(self._whole.value_dtype)
        if len(keys_ND):
            try:
                self._keys.write(keys_ND.data)
                self._values.write(values_N.data)
            except OSError as err:
                raise self._full(err) from err
        self.rows_done += len(keys_ND)
        if self.rows_done - self._safe >= SYNC_ROWS or time.monotonic() - self._synced >= self._save_interval_s:
            self.sync()

    def sync(self) -> None:
        """Puts on the disk what has been appended, and notes it."""
        os.fsync(self._keys.file.fileno())
        os.fsync(self._values.file.fileno())
        self._synced = time.monotonic()
        self.note(
            Written(self.rows, self.rows_done, tuple(self._keys.hasher.full), tuple(self._values.hasher.full)),
        )
        self._safe = self.rows_done

    def written(self) -> Written:
        """Returns what is there, with the checksums of a last chunk that is not full.

        Raises:
            DatastoreError: rows are missing.
        """
        self.sync()
        if self.rows_done != self.rows.stop:
            raise DatastoreError(
                f"{self.name} must get {len(self.rows)} rows, but got {self.rows_done - self.rows.start}; run the"
                " command again"
            )
        sums = tuple(self._keys.hasher.digests()), tuple(self._values.hasher.digests())
        return Written(self.rows, self.rows_done, *sums)

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        with self._held:
            try:
                if self._safe < self.rows_done:
                    self.sync()
            except OSError as failure:
                if err is None:
                    raise self._full(failure) from failure  # else: the disk is full, and the first error says so

    def _full(self, err: OSError) -> DatastoreError:
        return DatastoreError(
            f"{self.name} could not be written ({err.strerror}) after {self.rows_done - self.rows.start} of"
            f" {len(self.rows)} rows, which are kept; make room, and the same command goes on from there"
        )

    def _refuse(self, keys_ND: Array, row: int) -> None:
        largest = float(np.abs(keys_ND[row]).max())
        where = f"{keys_path(self.prefix)}: row {self.rows_done + row}"
        if np.isfinite(largest):
            raise DatastoreError(
                f"{where} has {largest:g}, beyond float16's 65504; leave --dstore-fp16 out and use --overwrite"
            )
        raise DatastoreError(f"{where} is not finite ({largest}); the model overflowed, leave --fp16 out")


class _File:
    """A file of rows, open for writing behind those that are there while ``held``, with its checksums."""

    def __init__(
        self, held: ExitStack, path: Path, row_bytes: int, written: Written, known: tuple[str, ...], file_rows: int
    ) -> None:
        # Without a buffer: an error comes with the write that it belongs to, and closing never writes.
        path.touch()  # and never emptied: others may have written to it
        self.file = held.enter_context(path.open("r+b", buffering=0))
        self.file.truncate(file_rows * row_bytes)
        self.file.seek(written.stop * row_bytes)
        full = known[: num_full(range(written.rows.start, written.stop))]
        self.hasher = ChunkHasher(row_bytes, full, written.rows.start)
        hashed = self.hasher.next_row * row_bytes
        for data in read_pieces(path, hashed, written.stop * row_bytes - hashed):
            self.hasher.update(data)

    def write(self, data: memoryview) -> None:
        left = data.cast("B")
        while left:
            left = left[self.file.write(left) :]
        self.hasher.update(data)
