"""Building one shard: its rows' lists, codes and numbers, as one build of all rows has them.

    1. INDEX.shard-i-of-P_keys.npy, …_vals.npy      copies of its own rows, where they are wanted
    2. INDEX.shard-i-of-P.partial(.json)            the trained index with the first of its rows
    3. INDEX.shard-i-of-P, then its manifest        the whole shard

Rows are added by cells (fairseq/knn/index/training.py): where a cell has rows of other shards as well, these are
computed too, and left out.

Legend: N rows · D key width · C cells.
"""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Array, Int64s
from fairseq.errors import DatastoreError
from fairseq.knn.datastore.format import keys_path, values_path
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import check_finite, gather_rows
from fairseq.knn.index.build import (
    GO_ON,
    Build,
    read_whole,
    remove_partial,
    resumed,
    rows_at_a_time,
    save_index,
)
from fairseq.knn.index.faiss_index import set_nprobe
from fairseq.knn.index.training import Adder
from fairseq.knn.shards.manifest import ShardsManifest, shard_path
from fairseq.runtime.interrupts import asked_to_stop, check, finish_step_first
from fairseq.runtime.progress import Progress
from fairseq.runtime.resources import require_disk
from fairseq.storage.files import atomic_write, locked
from fairseq.storage.fingerprint import fingerprint

logger = logging.getLogger(__name__)

COPY_AGAIN = "the copy of the rows is not saved; the same command copies them again"


def build_shard(build: Build, plan: ShardsManifest, number: int) -> IndexManifest:
    """Writes a shard, going on from an interrupted build of it, and returns its manifest.

    Args:
        build: of the whole index.
        plan: how its rows are dealt.
        number: of the shard.

    Raises:
        DatastoreError: the trained index is not what it was, or rows are missing in the end.
    """
    path, target = shard_path(build.path, number, plan.num_shards), plan.of_shard(number)
    rows = plan.rows_of_shards[number]
    part = Build(build.store, build.config, path, target)
    with locked(path):
        again = build.config.overwrite and build.config.shard_id == number
        manifest = None if again else whole_shard(path, target)
        if manifest is not None:
            logger.info("%s is there already; nothing to do", path)
            remove_partial(path)
            return manifest
        with finish_step_first():
            index = None if again else resumed(part, "partial")
            if plan.has_rows and (index is None or not _rows_sizes(build, rows, path)):
                copy_rows(build, rows, path)
            index = index or trained_index(build, plan)
            _add(part, index, rows)
            set_nprobe(index, target.nprobe)
            copies = tuple(fingerprint(file) for file in (keys_path(path), values_path(path)) if plan.has_rows)
            if len(copies) == 2:
                target = target.replace(rows_fingerprints=copies)
            manifest = save_index(index, path, target)
        remove_partial(path)
    return manifest


def whole_shard(path: Path, target: IndexManifest) -> IndexManifest | None:
    """Returns the manifest of a shard that is there, whole and of the same set; else None."""
    manifest = read_manifest(manifest_path(path), IndexManifest)
    if manifest is None or manifest.of_no_file() != target.of_no_file() or not path.is_file():
        return None
    return manifest if path.stat().st_size == manifest.num_bytes else None


def trained_index(build: Build, plan: ShardsManifest) -> Any:
    """Returns the trained index that all shards begin with."""
    path = build.stage("trained")
    manifest = read_manifest(manifest_path(path), IndexManifest)
    if manifest is None or manifest.sha256 != plan.trained_sha256 or not path.is_file():
        raise DatastoreError(
            f"{path} is not the trained index that the shards of {build.path} began with; restore it, or begin anew"
            " with --overwrite"
        )
    return read_whole(path, manifest)


def _add(part: Build, index: Any, rows: RowRanges) -> None:
    """Adds the rows of a shard that its index does not hold yet, in order."""
    store, step, config = part.store, rows_at_a_time(part), part.config
    shard = part.manifest.shard
    assert store.keys_ND is not None and shard
    add = Adder(index, quick=config.effort == "quick", gpu=config.gpu_index)
    cell = min(add.cell, step)
    saved_s = time.monotonic()
    with Progress(
        f"add to shard {shard.number} of {shard.count}", rows.num_rows, "keys", done=index.ntotal
    ) as progress:
        while index.ntotal < rows.num_rows:
            before = int(index.ntotal)
            ids_N = _cells(rows, before, cell, step, store.rows)
            chunk_ND = gather_rows(store.keys_ND, ids_N)
            check_finite(store.prefix, chunk_ND)
            is_next_N = rows.holds(ids_N) & (ids_N >= rows.nth(np.array(before)))
            add(chunk_ND, np.where(is_next_N, ids_N, -1))
            progress.advance(index.ntotal - before)
            due = asked_to_stop() or time.monotonic() - saved_s >= config.save_interval_s
            if due and index.ntotal < rows.num_rows:
                save_index(index, part.stage("partial"), part.manifest.replace(rows=index.ntotal))
                saved_s = time.monotonic()
                check(GO_ON)
    if index.ntotal != rows.num_rows:
        raise DatastoreError(f"{part.path} must hold {rows.num_rows} keys, but holds {index.ntotal}; build it again")


def _cells(rows: RowRanges, done: int, cell: int, step: int, total: int) -> Int64s:
    """Returns the rows of the next cells that hold some of ``rows``, after the first ``done`` of them.

    Args:
        rows: of the shard.
        done: how many of them are added.
        cell: rows of a cell.
        step: rows that are read at a time, at least one cell's.
        total: rows of the datastore.
    """
    # No fewer own rows than ``step`` lie in the cells that are wanted, if there are as many.
    own_N = rows.nth(np.arange(done, min(done + step, rows.num_rows)))
    cell_C = np.unique(own_N // cell)[: max(step // cell, 1)]
    ids_N: Int64s = (cell_C[:, None] * cell + np.arange(cell)).ravel()
    return ids_N[ids_N < total]


def _rows_sizes(build: Build, rows: RowRanges, path: Path) -> bool:
    """Returns whether the copies of a shard's rows are there, by their sizes."""
    return all(
        file.is_file() and file.stat().st_size == rows.num_rows * array[:1].nbytes
        for file, array in _copies(build, path)
    )


def _copies(build: Build, path: Path) -> list[tuple[Path, Array]]:
    """Returns the files that a shard's rows are copied to, and what from."""
    assert build.store.keys_ND is not None
    return [(keys_path(path), build.store.keys_ND), (values_path(path), build.store.values_N)]


def copy_rows(build: Build, rows: RowRanges, path: Path) -> None:
    """Copies a shard's keys and values beside it, ascending by row, in the datastore's own dtypes."""
    copies, step = _copies(build, path), rows_at_a_time(build)
    num_bytes = sum(rows.num_rows * array[:1].nbytes for _, array in copies)
    require_disk(path, num_bytes, "make room, or leave --with-rows out")
    manifest_path(path).unlink(missing_ok=True)
    with Progress("copy the shard's rows", len(copies) * rows.num_rows, "rows") as progress:
        for file, array in copies:
            with atomic_write(file) as out:
                for start in range(0, rows.num_rows, step):
                    row_N = rows.nth(np.arange(start, min(start + step, rows.num_rows)))
                    out.write(np.ascontiguousarray(array[row_N]).tobytes())
                    progress.advance(len(row_N))
                    check(COPY_AGAIN)
