"""Writing a datastore row by row, so that a killed run loses nothing.

While writing, the manifest's ``rows_written`` is raised only after the rows are on the disk. A run that goes on cuts
both files back to that many rows and appends, to the same bytes as a run that was never stopped. Nothing that is
complete, or belongs to another run, is replaced without being asked for; and one process writes a datastore at a time.
Rows are hashed as they are written (fairseq/knn/datastore/format.py).

Legend: N rows · D key width.
"""

import logging
import os
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from fairseq.arrays import Array
from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.datastore.forgotten import remove_others
from fairseq.knn.datastore.format import (
    CHUNK_ROWS,
    ChunkHasher,
    append_path,
    compact_prefix,
    keys_path,
    read_pieces,
    row_files,
    values_path,
)
from fairseq.knn.datastore.identity import how_runs_differ
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest, write_manifest
from fairseq.runtime.resources import require_disk
from fairseq.storage.files import atomic_write, fsync_directory, locked
from fairseq.storage.outputs import claim_datastore

logger = logging.getLogger(__name__)


# Flushed to the disk after so many rows or --save-interval-s, whichever comes first: what a killed run has to repeat.
SYNC_ROWS = 1 << 18


class DatastoreWriter:
    """Appends rows to a datastore; made by ``create``, used as a context manager.

    Leaving the context early (an error, Ctrl-C) puts on the disk what has been appended, to be resumed.

    Attributes:
        rows_done: rows that are there, those of an earlier run included.
    """

    def __init__(
        self,
        prefix: Path,
        manifest: DatastoreManifest,
        save_interval_s: float,
        held: ExitStack,
        progress: Path,
    ) -> None:
        self.prefix, self._manifest, self._held = prefix, manifest, held
        # Where it is noted how far the writing has come: in the manifest, or beside that of a datastore in use.
        self._progress = progress
        self._save_interval_s = save_interval_s
        self.rows_done = manifest.rows_written
        self._synced = time.monotonic()
        sums = manifest.keys_sha256, manifest.values_sha256
        self._keys, self._values = (
            _File(held, path, row_bytes, self.rows_done, known)
            for (path, row_bytes), known in zip(row_files(prefix, manifest.layout), sums, strict=True)
        )
        fsync_directory(prefix.parent)  # else a manifest may count rows of files that have lost their names

    @classmethod
    def create(
        cls, prefix: Path, manifest: DatastoreManifest, *, overwrite: bool = False, save_interval_s: float = 60.0
    ) -> "DatastoreWriter":
        """Returns a writer: of a new datastore, or of an unfinished one with the same ``store_id``, which goes on.

        Raises:
            ConfigError: the disk is too small.
            DatastoreError: something else is there, and ``overwrite`` is not set.
            FairseqError: another process is writing it.
        """
        assert manifest.value_dtype != "int16", "ids may not fit"
        with ExitStack() as stack:
            stack.enter_context(locked(prefix))
            claim_datastore("", prefix, overwrite=overwrite)
            try:
                earlier = _unfinished(prefix, manifest)  # with --overwrite as well: then the replacing had begun
            except DatastoreError:
                if not overwrite:
                    raise
                earlier = None
            start = earlier or manifest.replace(state="writing", rows_written=0)
            remedy = "make room, or give --dstore-fp16, which halves the keys"
            require_disk(keys_path(prefix), _bytes_left(start), remedy)
            if earlier is None:
                write_manifest(manifest_path(prefix), start)
                for file, _ in row_files(prefix, start.layout):
                    file.unlink(missing_ok=True)  # not emptied: an adopted file is another tool's under a second name
            clear_sidecars(prefix)
            return cls(prefix, start, save_interval_s, stack.pop_all(), manifest_path(prefix))

    @classmethod
    def extend(cls, prefix: Path, manifest: DatastoreManifest, save_interval_s: float) -> "DatastoreWriter":
        """Returns a writer of rows behind those of a complete datastore, which stays in use until ``finish``.

        Args:
            prefix: of the datastore; the caller holds its lock.
            manifest: that it will have, as far as it has come (``fairseq/knn/datastore/append.py``).
            save_interval_s: seconds between two states to resume from.

        Raises:
            ConfigError: the disk is too small.
        """
        # A file with another name as well is another tool's under that one, and not ours to lengthen.
        files = keys_path(prefix), values_path(prefix)
        shared = [path for path in files if path.is_symlink() or path.stat().st_nlink > 1]
        needed = _bytes_left(manifest) + sum(path.stat().st_size for path in shared)
        require_disk(keys_path(prefix), needed, "make room; nothing was changed")
        for path in shared:
            copy_start(path, path, path.stat().st_size)
        write_manifest(append_path(prefix), manifest)
        return cls(prefix, manifest, save_interval_s, ExitStack(), append_path(prefix))

    def append(self, keys_ND: Array, values_N: Array) -> None:
        """Appends rows.

        Args:
            keys_ND: float32 or float16.
            values_N: integers, ``[N]`` or ``[N, 1]``.

        Raises:
            DatastoreError: a key is not finite, or not in float16.
        """
        count, values_N = len(keys_ND), values_N.reshape(-1)
        assert keys_ND.shape == (count, self._manifest.dimension) and values_N.shape == (count,), (
            keys_ND.shape,
            values_N.shape,
            self._manifest.dimension,
        )
        assert self.rows_done + count <= self._manifest.rows, (self.rows_done, count, self._manifest.rows)
        with np.errstate(over="ignore"):
            stored_ND = np.ascontiguousarray(keys_ND, dtype=self._manifest.key_dtype)
        finite_N = np.isfinite(stored_ND).all(axis=1)
        if not finite_N.all():
            self._refuse(keys_ND, int(np.argmin(finite_N)))
        limit = self._manifest.vocabulary_size
        assert count == 0 or (values_N.min() >= 0 and (limit is None or values_N.max() < limit)), "ids out of range"
        if count:
            try:
                self._keys.write(stored_ND.data)
                self._values.write(np.ascontiguousarray(values_N, dtype=self._manifest.value_dtype).data)
            except OSError as err:
                raise self._full(err) from err
        self.rows_done += count
        waiting = self.rows_done - self._manifest.rows_written
        if waiting >= SYNC_ROWS or time.monotonic() - self._synced >= self._save_interval_s:
            self._sync()

    def finish(self) -> DatastoreManifest:
        """Marks the datastore as complete and returns its manifest.

        Raises:
            DatastoreError: rows are missing.
        """
        self._sync()
        if self.rows_done != self._manifest.rows:
            raise DatastoreError(
                f"{self.prefix} must get {self._manifest.rows} rows, but got {self.rows_done}; run the command again"
            )
        self._manifest = self._manifest.replace(
            state="complete",
            keys_sha256=tuple(self._keys.hasher.digests()),
            values_sha256=tuple(self._values.hasher.digests()),
        ).of_files(self.prefix)
        write_manifest(manifest_path(self.prefix), self._manifest)
        if self._progress != manifest_path(self.prefix):
            self._progress.unlink(missing_ok=True)
        return self._manifest

    def __enter__(self) -> "DatastoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        with self._held:
            try:
                if self._manifest.rows_written < self.rows_done:
                    self._sync()
            except OSError as failure:
                if err is None:
                    raise self._full(failure) from failure  # else: the disk is full, and the first error says so

    def _sync(self) -> None:
        os.fsync(self._keys.file.fileno())
        os.fsync(self._values.file.fileno())
        self._synced = time.monotonic()
        manifest = self._manifest.replace(
            rows_written=self.rows_done,
            keys_sha256=tuple(self._keys.hasher.full),
            values_sha256=tuple(self._values.hasher.full),
        )
        write_manifest(self._progress, manifest)
        self._manifest = manifest

    def _full(self, err: OSError) -> DatastoreError:
        return DatastoreError(
            f"{self.prefix} could not be written ({err.strerror}) after {self.rows_done} of {self._manifest.rows} rows,"
            " which are kept; make room, and the same command goes on from there"
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
    """A file of rows, cut to ``rows`` rows and open for writing at its end while ``held``, with its checksums."""

    def __init__(self, held: ExitStack, path: Path, row_bytes: int, rows: int, known: tuple[str, ...]) -> None:
        # Without a buffer: an error comes with the write that it belongs to, and closing never writes.
        self.file = held.enter_context(path.open("r+b" if path.exists() else "w+b", buffering=0))
        num_bytes = rows * row_bytes
        self.file.truncate(num_bytes)
        self.file.seek(num_bytes)
        self.hasher = ChunkHasher(row_bytes, known[: rows // CHUNK_ROWS])
        hashed = len(self.hasher.full) * CHUNK_ROWS * row_bytes
        for data in read_pieces(path, hashed, num_bytes - hashed):
            self.hasher.update(data)

    def write(self, data: memoryview) -> None:
        left = data.cast("B")
        while left:
            left = left[self.file.write(left) :]
        self.hasher.update(data)


def clear_sidecars(prefix: Path) -> None:
    """Removes what lies beside a datastore that has been replaced, of which nothing is forgotten or being appended."""
    remove_others(prefix, None)
    new = compact_prefix(prefix)
    for path in (append_path(prefix), manifest_path(new), keys_path(new), values_path(new)):
        path.unlink(missing_ok=True)


def _bytes_left(manifest: DatastoreManifest) -> int:
    return (manifest.rows - manifest.rows_written) * (manifest.layout.key_bytes + manifest.layout.value_bytes)


def copy_start(old: Path, new: Path, num_bytes: int) -> None:
    """Copies the first bytes of a file; the new one may have the old one's name, which is then a file of its own."""
    with atomic_write(new, replace_link=True) as file:
        for data in read_pieces(old, 0, num_bytes):
            file.write(data)
        if file.tell() < num_bytes:
            raise DatastoreError(f"{old} became shorter while it was read; try again when nothing writes it")


def _unfinished(prefix: Path, manifest: DatastoreManifest) -> DatastoreManifest | None:
    """Returns the manifest of the unfinished datastore to go on with, or None for a new one.

    Raises:
        DatastoreError: something else is there, or it has fewer rows than it says.
        MismatchError: it is of another run.
    """
    earlier = read_manifest(manifest_path(prefix), DatastoreManifest)
    if earlier is None:
        for path, _ in row_files(prefix, manifest.layout):
            if path.exists():
                raise DatastoreError(f"{path} exists and has no manifest; --overwrite replaces it")
        return None
    if earlier.state == "complete":
        raise DatastoreError(
            f"{prefix} is a complete datastore of {earlier.rows} rows{how_runs_differ(earlier, manifest)}; give another"
            " --dstore-mmap, --append to add these rows to it, or --overwrite to replace it"
        )
    if earlier.store_id != manifest.store_id:
        raise MismatchError(
            f"{prefix} is an unfinished datastore of another run{how_runs_differ(earlier, manifest)}; give its flags to"
            " go on, another --dstore-mmap, or --overwrite to replace it"
        )
    for path, row_bytes in row_files(prefix, earlier.layout):
        if earlier.rows_written and (not path.exists() or path.stat().st_size < earlier.rows_written * row_bytes):
            raise DatastoreError(
                f"{path} is shorter than the {earlier.rows_written} rows of its manifest; --overwrite starts again"
            )
    return earlier
