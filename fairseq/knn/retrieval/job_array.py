"""A retrieval that the jobs of an array write: each its own rows, and a record of them when they are on the disk.

    DIR/manifest.json            "writing", by so many jobs
    DIR/range-2-of-4.json        job 2 is done: its rows, and the result of its share

The first job makes the files, the others find them. A job that is given again finds its record, and has nothing to do;
without one it writes its rows anew. Jobs write to one directory, or each to its own: rows are at their places in the
whole, and files are sparse. ``fairseq-knnlm join`` (fairseq/knn/join) puts them together.
"""

import hashlib
import json
import logging
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec import UNSET, UnsetType

from fairseq.arrays import Int64s
from fairseq.errors import DatastoreError
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.retrieval.format import Column, RetrievalManifest, array_path, range_path, range_paths
from fairseq.knn.retrieval.writer import begin, is_saved
from fairseq.runtime.shares import Share
from fairseq.storage.files import locked
from fairseq.storage.records import Count, Positive, Record, as_json, read_record, write_record

logger = logging.getLogger(__name__)

# Jobs of an array start at the same moment; one makes the files meanwhile.
_PATIENCE_S = 60.0


class RangeRecord(Record, frozen=True, kw_only=True):
    """What one job of an array has written.

    Attributes:
        number, count: which job, and of how many.
        run: what they write, as ``run_of`` has it.
        rows: of the retrieval, if there are any.
        result: of its share, as ``--results-path`` has it.
        command: its words.
        speed: what took how long.
    """

    kind: Literal["retrieval-range"] = "retrieval-range"
    version: Literal[1] = 1
    number: Count
    count: Positive
    run: str
    rows: RowRanges | UnsetType = UNSET
    result: dict[str, Any]
    command: list[str]
    speed: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> "RangeRecord":
        """Returns the record in a file; raises DatastoreError where it is not sound."""
        return read_record(path, cls, DatastoreError, "remove it, and run its job again")


def run_of(manifest: RetrievalManifest) -> str:
    """Returns a hash of what a retrieval is of; the same for all of its jobs, whether they are done or not."""
    return hashlib.sha256(json.dumps(said_of(manifest), sort_keys=True).encode()).hexdigest()


def said_of(manifest: RetrievalManifest) -> dict[str, Any]:
    """Returns what a manifest says from the beginning on, as JSON has it."""
    said: dict[str, Any] = as_json(manifest.replace(state="writing", lm=UNSET, mixture=UNSET, ranges=UNSET, files={}))
    return said


def open_range(
    directory: Path, columns: Collection[Column], manifest: RetrievalManifest, share: Share, *, overwrite: bool
) -> bool:
    """Makes the files unless another job has; returns whether this job's rows are still to be written.

    Raises:
        ConfigError: the disk is too small.
        DatastoreError: something else is there, and ``overwrite`` is not set.
        FairseqError: another process is writing it.
    """
    with locked(directory, timeout_s=_PATIENCE_S):
        if not overwrite and is_saved(directory, columns, manifest):
            logger.info("%s is there already, of this model, data and datastore; it stays as it is", directory)
            return False
        if not _is_begun(directory, columns, manifest, share.count):
            begin(directory, columns, manifest.replace(ranges=share.count), overwrite=overwrite)
        record = range_path(directory, share)
        if record.is_file():
            if not overwrite:
                logger.info("%s has the rows of job %d of %d already; they stay", directory, share.number, share.count)
                return False
            record.unlink()
    return True


def save_range(
    directory: Path,
    manifest: RetrievalManifest,
    share: Share,
    rows_N: Int64s,
    result: dict[str, Any],
    command: list[str],
    speed: dict[str, float],
) -> None:
    """Notes that a job's rows are on the disk."""
    row_N = np.sort(rows_N)
    first_R = np.flatnonzero(np.diff(row_N, prepend=-2) != 1)
    last_R = np.append(first_R[1:], len(row_N)) - 1
    rows = RowRanges(row_N[first_R], row_N[last_R] + 1) if len(row_N) else UNSET
    record = RangeRecord(
        number=share.number,
        count=share.count,
        run=run_of(manifest),
        rows=rows,
        result=result,
        command=command,
        speed=speed,
    )
    write_record(range_path(directory, share), record)


def how_far(directory: Path, manifest: RetrievalManifest) -> str:
    """Returns how many jobs have written their rows, and what to do then; empty for what no array writes."""
    if manifest.ranges is UNSET:
        return ""
    done = len(range_paths(directory))
    return f"{done} of {manifest.ranges} jobs are done; when all are: fairseq-knnlm join {shlex.quote(str(directory))}"


def _is_begun(directory: Path, columns: Collection[Column], manifest: RetrievalManifest, count: int) -> bool:
    """Returns whether another job of the same array has made all files."""
    try:
        found = RetrievalManifest.read(directory)
    except DatastoreError:
        return False
    if found.state != "writing" or found.ranges != count or run_of(found) != run_of(manifest):
        return False
    paths = [(array_path(directory, column.name), column.num_bytes(manifest.num_tokens)) for column in columns]
    return all(path.is_file() and path.stat().st_size > size for path, size in paths)
