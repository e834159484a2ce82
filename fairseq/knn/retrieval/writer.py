"""Writes a retrieval row by row, in any order.

The manifest says "writing" before any column is there, and "done" after all of them are on the disk. A run that was
killed starts over: it has cost one evaluation, and its rows came in any order.
"""

import logging
import os
from collections.abc import Collection, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from msgspec import UNSET

from fairseq.arrays import Array, Int64s
from fairseq.errors import DatastoreError
from fairseq.knn.retrieval.format import (
    MANIFEST,
    Column,
    FileRecord,
    Loss,
    RetrievalManifest,
    array_path,
    range_paths,
)
from fairseq.runtime.resources import require_disk
from fairseq.storage.files import file_sha256, fsync_directory, locked
from fairseq.storage.outputs import claim_all
from fairseq.storage.records import write_record
from fairseq.storage.stores import retrieval_names

logger = logging.getLogger(__name__)


class RetrievalWriter:
    """Writes a new retrieval row by row, as a context manager; what a killed run left there is begun again.

    Args:
        directory: made if it is not there.
        columns: ``columns_of``, and further ones.
        manifest: what it will say, without files and results.
        overwrite: replace a finished one.
        there: another process has begun it, and this one writes further rows.
        lock: what of it no other process may write meanwhile, where that is not all.

    Raises:
        ConfigError: the disk is too small.
        DatastoreError: something is there, and ``overwrite`` is not set; or nothing that was begun.
        FairseqError: another process is writing it.
    """

    def __init__(
        self,
        directory: Path,
        columns: Iterable[Column],
        manifest: RetrievalManifest,
        *,
        overwrite: bool = False,
        there: bool = False,
        lock: Path | None = None,
    ) -> None:
        self.directory, self.manifest = directory, manifest
        self.columns = {column.name: column for column in columns}
        self._rows_written = dict.fromkeys(self.columns, 0)
        with ExitStack() as stack:
            if lock is not None:
                stack.enter_context(locked(lock))
            if not there:
                stack.enter_context(locked(directory))
                begin(directory, self.columns.values(), manifest, overwrite=overwrite)
            self._files = {name: stack.enter_context(self._opened(name)) for name in self.columns}
            self._held = stack.pop_all()  # an error before closes all
        size = {name: column.num_bytes(manifest.num_tokens) for name, column in self.columns.items()}
        self._starts = {name: os.fstat(file.fileno()).st_size - size[name] for name, file in self._files.items()}

    def write(self, rows_N: Int64s, **arrays: Array) -> None:
        """Writes rows of some columns, each row of a column once.

        Args:
            rows_N: their numbers; runs of consecutive ones are written together.
            arrays: by the column's name, ``[N]`` or ``[N, width]``.
        """
        cuts = np.flatnonzero(np.diff(rows_N) != 1) + 1
        for name, array in arrays.items():
            column, start = self.columns[name], self._starts[name]
            assert array.shape == column.shape(len(rows_N)), (name, array.shape, column.shape(len(rows_N)))
            data = np.ascontiguousarray(array, dtype=column.dtype)
            for run_N, run in zip(np.split(rows_N, cuts), np.split(data, cuts), strict=True):
                if len(run):  # else no rows were given
                    self._write_at(name, run.data.cast("B"), start + column.num_bytes(int(run_N[0])))
            self._rows_written[name] += len(rows_N)

    def flush(self, rows: int) -> None:
        """Has the rows on the disk that this process has written, so many of each column."""
        assert set(self._rows_written.values()) == {rows}, (self._rows_written, rows)
        for file in self._files.values():
            os.fsync(file.fileno())
        fsync_directory(self.directory)

    def finish(self, lm: Loss, mixture: Loss, rows: int | None = None) -> RetrievalManifest:
        """Marks the retrieval as done, with what the run gave, and returns its manifest.

        Args:
            lm: of the language model alone.
            mixture: with neighbours.
            rows: that this process has written, and others the rest; all of them if left out.
        """
        self.flush(self.manifest.num_tokens if rows is None else rows)
        return finish(self.directory, self.columns.values(), self.manifest, lm, mixture)

    def __enter__(self) -> "RetrievalWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self._held.close()

    def _opened(self, name: str) -> IO[bytes]:
        # Without a buffer: an error comes with the write that it belongs to, and closing never writes.
        path = array_path(self.directory, name)
        try:
            return path.open("r+b", buffering=0)
        except FileNotFoundError as err:
            raise DatastoreError(
                f"{path} is not there, but another process has begun it: all processes write to one directory; give one"
                " that every machine sees, or run a job array (--num-shards), each job of which may have its own"
            ) from err

    def _write_at(self, name: str, data: memoryview, offset: int) -> None:
        try:
            while data:
                written = os.pwrite(self._files[name].fileno(), data, offset)
                data, offset = data[written:], offset + written
        except OSError as err:
            raise OSError(err.errno, err.strerror, str(array_path(self.directory, name))) from err


def begin(directory: Path, columns: Collection[Column], manifest: RetrievalManifest, *, overwrite: bool) -> None:
    """Takes away what was there, writes the manifest, and makes the columns' files, without rows.

    The caller holds the lock.

    Raises:
        ConfigError: the disk is too small.
        DatastoreError: something is there, and ``overwrite`` is not set.
    """
    _require_free(directory, columns, overwrite)
    old = _arrays(directory, columns)
    needed = sum(column.num_bytes(manifest.num_tokens) for column in columns)
    free_soon = sum(file.stat().st_size for file in old)
    require_disk(directory, needed - free_soon, "make room, or give a smaller --k")
    directory.mkdir(parents=True, exist_ok=True)
    # All names, so that a run after this one knows what it may remove.
    names = {file.name for file in old} | {array_path(directory, column.name).name for column in columns}
    begun = manifest.replace(state="writing", files={name: FileRecord() for name in sorted(names)})
    write_record(directory / MANIFEST, begun)
    for file in (*old, *range_paths(directory)):
        file.unlink()  # not emptied: a reader may have it mapped
    for column in columns:
        _make_file(directory, column, manifest.num_tokens)


def finish(
    directory: Path, columns: Iterable[Column], manifest: RetrievalManifest, lm: Loss, mixture: Loss
) -> RetrievalManifest:
    """Marks a retrieval as done whose rows are all on the disk, and returns its manifest."""
    paths = [array_path(directory, column.name) for column in columns]
    files = {path.name: FileRecord(path.stat().st_size, file_sha256(path)) for path in paths}
    done = manifest.replace(state="done", lm=lm, mixture=mixture, files=files)
    write_record(directory / MANIFEST, done)
    return done


def _make_file(directory: Path, column: Column, num_tokens: int) -> None:
    path = array_path(directory, column.name)
    try:
        with path.open("xb", buffering=0) as file:
            header = {"descr": column.dtype, "fortran_order": False, "shape": column.shape(num_tokens)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + column.num_bytes(num_tokens))
    except OSError as err:
        raise OSError(err.errno, err.strerror, str(path)) from err


def is_saved(directory: Path, columns: Iterable[Column], manifest: RetrievalManifest) -> bool:
    """Returns whether a finished retrieval is there that says of itself what ``manifest`` says, with these columns."""
    try:
        found = RetrievalManifest.read(directory)
    except DatastoreError:
        return False
    # The unit and its own text follow from the rest; older versions of this program left them out.
    told = {"distance_unit": manifest.distance_unit, "own_text": manifest.own_text}
    found_but = found.replace(state=manifest.state, lm=UNSET, mixture=UNSET, files={}, **told)
    files = {array_path(directory, column.name).name for column in columns}
    return found.state == "done" and found_but == manifest and set(found.files) == files


def _arrays(directory: Path, columns: Iterable[Column]) -> list[Path]:
    """Returns the files of a retrieval that are there: those its manifest names, and those of ``columns``."""
    names = {array_path(directory, column.name).name for column in columns}
    with suppress(DatastoreError, OSError):
        names |= set(RetrievalManifest.read(directory).files)
    return [directory / name for name in sorted(names) if (directory / name).is_file()]


def _require_free(directory: Path, columns: Iterable[Column], overwrite: bool) -> None:
    """Refuses to replace what is finished, or is no retrieval; says where an earlier run was stopped."""
    if directory.exists() and not directory.is_dir():
        raise DatastoreError(f"{directory} must be a directory, but is a file; give another")
    claim_all("", retrieval_names(directory, [column.name for column in columns]))
    if overwrite or not (directory / MANIFEST).exists():
        return
    found = RetrievalManifest.read(directory)
    if found.state != "writing":
        raise DatastoreError(
            f"{directory} is a finished retrieval of another command; give another directory, or --overwrite"
        )
    if found.ranges is not UNSET:
        raise DatastoreError(
            f"{directory} is being written by a job array of --num-shards {found.ranges} of another command; give"
            " another directory, or --overwrite"
        )
    logger.info("an earlier run of %s was stopped; starting over", directory)
