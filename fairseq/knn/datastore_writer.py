"""Writing a datastore row by row, so that a killed run loses nothing.

While writing, the manifest's ``rows_written`` is raised only after the rows are on the disk. A run that goes on cuts
both files back to that many rows and appends, to the same bytes as a run that was never stopped. Nothing that is
complete, or belongs to another run, is replaced without being asked for.

Legend: N rows · D key width.
"""

import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.layout import keys_path, values_path
from fairseq.knn.manifest import DatastoreManifest, manifest_path, read_manifest, write_manifest

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

# Flushed to the disk after so many rows or seconds, whichever comes first: what a killed run has to repeat.
SYNC_ROWS = 1 << 18
SYNC_INTERVAL_S = 60.0


class DatastoreWriter:
    """Appends rows to a datastore; made by ``create``, used as a context manager.

    Leaving the context early (an error, Ctrl-C) puts on the disk what has been appended, to be resumed.

    Attributes:
        rows_done: rows that are there, those of an earlier run included.
    """

    def __init__(self, prefix: Path, manifest: DatastoreManifest) -> None:
        self.prefix, self._manifest = prefix, manifest
        self.rows_done = manifest.rows_written
        self._synced = time.monotonic()
        self._key_dtype = np.dtype(manifest.key_dtype)
        self._value_dtype = np.dtype(manifest.value_dtype)
        self._files = [
            _open_at(path, manifest.rows_written * row_bytes)
            for path, row_bytes in (
                (keys_path(prefix), manifest.dimension * self._key_dtype.itemsize),
                (values_path(prefix), self._value_dtype.itemsize),
            )
        ]

    @classmethod
    def create(cls, prefix: str | Path, manifest: DatastoreManifest, overwrite: bool = False) -> "DatastoreWriter":
        """Returns a writer: of a new datastore, or of an unfinished one with the same ``store_id``, which goes on.

        Raises:
            DatastoreError: something else is there, and ``overwrite`` is not set.
        """
        assert manifest.value_dtype != "int16", "ids may not fit"
        prefix = Path(prefix)
        path = manifest_path(prefix)
        if not overwrite:
            found = read_manifest(path, DatastoreManifest)
            if found is not None:
                _check_resumable(found, manifest, prefix)
                return cls(prefix, found)
            for file in (keys_path(prefix), values_path(prefix)):
                if file.exists():
                    raise DatastoreError(f"{file} exists and has no manifest; --overwrite replaces it")
        prefix.parent.mkdir(parents=True, exist_ok=True)
        manifest = replace(manifest, state="writing", rows_written=0)
        _warn_of_full_disk(prefix, manifest)
        write_manifest(path, manifest)
        return cls(prefix, manifest)

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
            keys_ND.shape, values_N.shape, self._manifest.dimension,
        )  # fmt: skip
        assert self.rows_done + count <= self._manifest.rows, (self.rows_done, count, self._manifest.rows)
        with np.errstate(over="ignore"):
            stored_ND = np.ascontiguousarray(keys_ND, dtype=self._key_dtype)
        finite_N = np.isfinite(stored_ND).all(axis=1)
        if not finite_N.all():
            self._refuse(keys_ND, int(np.argmin(finite_N)))
        limit = self._manifest.vocabulary_size
        assert count == 0 or (values_N.min() >= 0 and (limit is None or values_N.max() < limit)), "ids out of range"
        self._files[0].write(stored_ND.data)
        self._files[1].write(np.ascontiguousarray(values_N, dtype=self._value_dtype).data)
        self.rows_done += count
        waiting = self.rows_done - self._manifest.rows_written
        if waiting >= SYNC_ROWS or time.monotonic() - self._synced >= SYNC_INTERVAL_S:
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
        self._manifest = replace(self._manifest, state="complete")
        write_manifest(manifest_path(self.prefix), self._manifest)
        return self._manifest

    def __enter__(self) -> "DatastoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if self._manifest.rows_written < self.rows_done:
                self._sync()
        finally:
            for file in self._files:
                file.close()

    def _sync(self) -> None:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self._synced = time.monotonic()
        self._manifest = replace(self._manifest, rows_written=self.rows_done)
        write_manifest(manifest_path(self.prefix), self._manifest)

    def _refuse(self, keys_ND: Array, row: int) -> None:
        largest = float(np.abs(keys_ND[row]).max())
        where = f"{keys_path(self.prefix)}: row {self.rows_done + row}"
        if np.isfinite(largest):
            raise DatastoreError(
                f"{where} has {largest:g}, beyond float16's 65504; leave --dstore-fp16 out and use --overwrite"
            )
        raise DatastoreError(f"{where} is not finite ({largest}); the model overflowed, leave --fp16 out")


def _check_resumable(found: DatastoreManifest, manifest: DatastoreManifest, prefix: Path) -> None:
    if found.state == "complete":
        raise DatastoreError(f"{prefix} is a complete datastore of {found.rows} rows; --overwrite replaces it")
    if found.store_id != manifest.store_id:
        raise MismatchError(
            f"{prefix} is an unfinished datastore of another run (other data, model or flags); give the same flags"
            " to go on, or --overwrite to replace it"
        )
    sizes = (manifest.dimension * np.dtype(manifest.key_dtype).itemsize, np.dtype(manifest.value_dtype).itemsize)
    for path, row_bytes in zip((keys_path(prefix), values_path(prefix)), sizes, strict=True):
        if found.rows_written and (not path.exists() or path.stat().st_size < found.rows_written * row_bytes):
            raise DatastoreError(
                f"{path} is shorter than the {found.rows_written} rows of its manifest; --overwrite starts again"
            )


def _open_at(path: Path, size: int) -> Any:
    """Returns ``path``, cut to ``size`` bytes and open for writing at its end."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file


def _warn_of_full_disk(prefix: Path, manifest: DatastoreManifest) -> None:
    row_bytes = manifest.dimension * np.dtype(manifest.key_dtype).itemsize + np.dtype(manifest.value_dtype).itemsize
    needed, free = manifest.rows * row_bytes, shutil.disk_usage(prefix.parent).free
    if needed > free:
        logger.warning(
            "%s needs %.1f GiB, but %.1f GiB are free there; --dstore-fp16 halves the keys",
            prefix, needed / 2**30, free / 2**30,
        )  # fmt: skip
