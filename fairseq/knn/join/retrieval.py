"""A retrieval that the jobs of an array have written, made whole.

Each job has written its rows into one directory, or into one of its own, at their places in the whole. Rows that lie
elsewhere are copied into the first directory; then come the checksums, the manifest, and the result of the whole. A
join that was stopped goes on: what was copied has its record there.
"""

import functools
import logging
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.join.jobs import differences
from fairseq.knn.join.results import ShardResult, joined
from fairseq.knn.retrieval.format import Column, RetrievalManifest, array_path, range_paths
from fairseq.knn.retrieval.job_array import RangeRecord, run_of, said_of
from fairseq.knn.retrieval.recorder import losses_of
from fairseq.knn.retrieval.results import Kept, keep, plain
from fairseq.knn.retrieval.retrieval import columns_of_run
from fairseq.knn.retrieval.writer import finish
from fairseq.runtime.progress import Progress, at_work
from fairseq.storage.files import fsync_directory, locked
from fairseq.storage.records import as_json, write_record

logger = logging.getLogger(__name__)

_COPIED_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class _Range:
    """What a job has written: the directory, the record's name there, and the record."""

    directory: Path
    name: str
    record: RangeRecord

    @property
    def rows(self) -> RowRanges:
        """Its rows."""
        return self.record.rows if self.record.rows is not UNSET else RowRanges.of()


def join_retrieval(directories: Sequence[Path]) -> str:
    """Makes the retrieval in the first directory whole, and returns what one process prints.

    Raises:
        ConfigError: a job's rows are missing or there twice.
        DatastoreError: a directory is not one that jobs write, or is damaged.
        MismatchError: a job is of another run.
        FairseqError: another process is writing it.
    """
    target = directories[0]
    with locked(target):
        manifest = RetrievalManifest.read(target)
        if manifest.state == "done" and not range_paths(target):
            return f"{target} is whole already: there is nothing to join"
        _check_directories(directories)
        ranges = [
            _Range(directory, path.name, RangeRecord.read(path))
            for directory in directories
            for path in range_paths(directory)
        ]
        if not ranges:
            raise ConfigError(f"no job of {' '.join(map(str, directories))} is done; wait for them, or run them again")
        shards = [
            ShardResult.of(one.record.result, str(one.directory / one.name), one.record.command, one.record.speed)
            for one in _without_copies(ranges, target)
        ]
        whole = joined(shards)
        _check_rows(ranges, manifest)
        if manifest.state == "writing":
            _copy_all(ranges, target, manifest)
            with at_work("checksums of the retrieval"):
                manifest = finish(target, _columns(manifest), manifest.replace(ranges=UNSET), *losses_of(whole.found))
    said = {"split": manifest.split, "lm": as_json(manifest.lm), **whole.record}
    keep(Kept(target, "evaluation", plain(said)), ["fairseq-knnlm", "join", *map(str, directories)], whole.speed)
    for path in range_paths(target):
        path.unlink()
    return "\n".join([*whole.lines, f"{target} is whole"])


def _columns(manifest: RetrievalManifest) -> tuple[Column, ...]:
    return columns_of_run(manifest.k, manifest.datastore.rows or 0)


def _check_directories(directories: Sequence[Path]) -> None:
    """Raises where a directory is not one that the jobs of one array write, or has lost a file."""
    first = RetrievalManifest.read(directories[0])
    for directory in directories:
        manifest = RetrievalManifest.read(directory)
        if manifest.state == "done" and directory != directories[0]:
            raise ConfigError(f"{directory} is a whole retrieval; leave it out")
        if manifest.state == "writing" and manifest.ranges is UNSET:
            raise ConfigError(
                f"{directory} is not written by a job array, but unfinished; run its fairseq-eval-lm --save-retrieval"
                " again"
            )
        if differing := differences(said_of(first), said_of(manifest)):
            raise MismatchError(f"{directory} is of another run than {directories[0]}: {differing[0]}; leave it out")
        for column in _columns(manifest):
            path = array_path(directory, column.name)
            if not path.is_file() or path.stat().st_size <= column.num_bytes(manifest.num_tokens):
                raise DatastoreError(f"{path} is not whole; remove {directory}, and run its jobs again")
        for path in range_paths(directory):
            if RangeRecord.read(path).run != run_of(manifest):
                raise MismatchError(f"{path} is of another run than the manifest beside it; remove it, and run its job")


def _without_copies(ranges: Sequence[_Range], target: Path) -> list[_Range]:
    """Returns the ranges without those that a join which was stopped has copied: their records are the same."""
    there = [one.record for one in ranges if one.directory == target]
    return [one for one in ranges if one.directory == target or one.record not in there]


def _check_rows(ranges: Sequence[_Range], manifest: RetrievalManifest) -> None:
    """Raises DatastoreError unless the jobs' records name every row."""
    rows = functools.reduce(operator.or_, (one.rows for one in ranges)).num_rows
    if rows != manifest.num_tokens:
        raise DatastoreError(
            f"the jobs have written {rows} rows, but there are {manifest.num_tokens}; run them again with --overwrite"
        )


def _copy_all(ranges: Sequence[_Range], target: Path, manifest: RetrievalManifest) -> None:
    """Copies the rows of other directories to a directory, and then their records, and has all on the disk."""
    elsewhere = [one for one in ranges if one.directory != target and not (target / one.name).is_file()]
    columns = _columns(manifest)
    row_bytes = sum(column.num_bytes(1) for column in columns)
    with Progress("copy", sum(one.rows.num_rows for one in elsewhere) * row_bytes, "bytes") as progress:
        for one in elsewhere:
            for column in columns:
                _copy(one, target, column, manifest.num_tokens, progress)
            fsync_directory(target)
            write_record(target / one.name, one.record)


def _copy(one: _Range, target: Path, column: Column, num_tokens: int, progress: Progress) -> None:
    """Copies a job's rows of a column."""
    paths = (array_path(one.directory, column.name), array_path(target, column.name))
    with paths[0].open("rb") as source, paths[1].open("r+b", buffering=0) as copy:
        start = os.fstat(source.fileno()).st_size - column.num_bytes(num_tokens)
        for first, stop in one.rows.pairs:
            offset, end = (start + column.num_bytes(row) for row in (first, stop))
            while offset < end:
                data = os.pread(source.fileno(), min(end - offset, _COPIED_AT_ONCE), offset)
                if not data:
                    raise DatastoreError(f"{paths[0]} is too short; run its jobs again")
                offset += os.pwrite(copy.fileno(), data, offset)
                progress.advance(len(data))
        os.fsync(copy.fileno())
