"""Writes a retrieval row by row, in any order.

The manifest says "writing" before any column is there, and "done" after all of them are on the disk. A run that was
killed starts over: it has cost one evaluation, and its rows came in any order.
"""

import logging
import os
from collections.abc import Iterable
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

    Raises:
        ConfigError: the disk is too small.
        DatastoreError: something is there, and ``overwrite`` is not set.
        FairseqError: another process is writing it.
    """

    def __init__(
        self, directory: Path, columns: Iterable[Column], manifest: RetrievalManifest, *, overwrite: bool = False
    ) -> None:
        self.directory, self.manifest = directory, manifest
        self.columns = {column.name: column for column in columns}
        self._rows_written = dict.fromkeys(self.columns, 0)
        with ExitStack() as stack:
            stack.enter_context(locked(directory))
            self._begin(overwrite)
            self._files = {name: stack.enter_context(self._new_file(column)) for name, column in self.columns.items()}
            self._held = stack.pop_all()  # an error before closes all
        self._starts = {name: file.tell() for name, file in self._files.items()}

    def _begin(self, overwrite: bool) -> None:
        """Writes the manifest, and takes away what was there."""
        columns = self.columns.values()
        _require_free(self.directory, columns, overwrite)
        old = _arrays(self.directory, columns)
        needed = sum(column.num_bytes(self.manifest.num_tokens) for column in columns)
        free_soon = sum(file.stat().st_size for file in old)
        require_disk(self.directory, needed - free_soon, "make room, or give a smaller --k")
        self.directory.mkdir(parents=True, exist_ok=True)
        # All names, so that a run after this one knows what it may remove.
        names = {file.name for file in old} | {array_path(self.directory, name).name for name in self.columns}
        begun = self.manifest.replace(state="writing", files={name: FileRecord() for name in sorted(names)})
        write_record(self.directory / MANIFEST, begun)
        for file in old:
            file.unlink()  # not emptied: a reader may have it mapped

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

    def finish(self, lm: Loss, mixture: Loss) -> RetrievalManifest:
        """Marks the retrieval as done, with what the run gave, and returns its manifest."""
        for name, count in self._rows_written.items():
            assert count == self.manifest.num_tokens, (name, count, self.manifest.num_tokens)
        for file in self._files.values():
            os.fsync(file.fileno())
        fsync_directory(self.directory)
        paths = [array_path(self.directory, name) for name in self.columns]
        files = {path.name: FileRecord(path.stat().st_size, file_sha256(path)) for path in paths}
        done = self.manifest.replace(state="done", lm=lm, mixture=mixture, files=files)
        write_record(self.directory / MANIFEST, done)
        return done

    def __enter__(self) -> "RetrievalWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self._held.close()

    def _new_file(self, column: Column) -> IO[bytes]:
        # Without a buffer: an error comes with the write that it belongs to, and closing never writes.
        path = array_path(self.directory, column.name)
        file = path.open("w+b", buffering=0)
        try:
            header = {"descr": column.dtype, "fortran_order": False, "shape": column.shape(self.manifest.num_tokens)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + column.num_bytes(self.manifest.num_tokens))
        except OSError as err:
            file.close()
            raise OSError(err.errno, err.strerror, str(path)) from err
        return file

    def _write_at(self, name: str, data: memoryview, offset: int) -> None:
        try:
            while data:
                written = os.pwrite(self._files[name].fileno(), data, offset)
                data, offset = data[written:], offset + written
        except OSError as err:
            raise OSError(err.errno, err.strerror, str(array_path(self.directory, name))) from err


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
    if RetrievalManifest.read(directory).state != "writing":
        raise DatastoreError(
            f"{directory} is a finished retrieval of another command; give another directory, or --overwrite"
        )
    logger.info("an earlier run of %s was stopped; starting over", directory)
