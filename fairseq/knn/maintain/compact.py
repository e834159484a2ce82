"""Compaction: a datastore and its indexes without the rows that are forgotten.

    1. PREFIX.compact_keys.npy, …    a datastore of the rows that are left, written as any other, resumed as any other
    2. INDEX.compact(.json)          each index without them, its ids numbered anew
    3. keys, values, manifest, then each index and its manifest take the old ones' places; what was forgotten is removed

Until step 3 the old files are what they were. That step is renames only, and goes on from wherever it was stopped: what
has been renamed is gone from its old name. Between two renames sizes, or the ids of datastore and index, do not agree,
and readers refuse. Rows keep their order, and the segments say which rows of each source are left.

Legend: N rows.
"""

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from msgspec import UNSET

from fairseq.errors import ConfigError, DatastoreError, MismatchError, counted
from fairseq.knn.datastore.forgotten import read_forgotten, remove_others
from fairseq.knn.datastore.format import append_path, compact_prefix, keys_path, values_path
from fairseq.knn.datastore.manifest import (
    DatastoreManifest,
    IndexManifest,
    manifest_path,
    read_manifest,
    write_manifest,
)
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.datastore.writer import DatastoreWriter
from fairseq.knn.index.faiss_index import inner_index, read_index, stored_ids, write_index
from fairseq.knn.index.index_file import look_at, require_ours
from fairseq.knn.index.without_rows import selector, take_out
from fairseq.knn.shards.manifest import is_sharded
from fairseq.runtime.interrupts import check, finish_step_first
from fairseq.runtime.progress import Progress
from fairseq.runtime.resources import require_memory
from fairseq.storage.files import file_sha256, fsync_directory, locked
from fairseq.storage.marks import is_of_kind

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 24
GO_ON = "the old files are as they were, and the same command goes on from there"


def compact(prefix: Path, indexes: list[Path], save_interval_s: float) -> str:
    """Takes the forgotten rows out of a datastore's files and of indexes, and returns what was done.

    Raises:
        ConfigError: an index is of a kind that cannot give up rows; or there is too little disk or memory.
        DatastoreError: a file cannot be read.
        MismatchError: an index is another datastore's.
    """
    with ExitStack() as stack:
        for path in (prefix, *indexes):
            stack.enter_context(locked(path))
        manifest = read_manifest(manifest_path(prefix), DatastoreManifest)
        if manifest is None or manifest.state != "complete":
            manifest = Datastore.open(prefix).require_manifest()  # says what is wrong
        if not manifest.forgotten:
            done = [str(path) for path in indexes if _place_index(path, manifest)]
            _clean_up(prefix, manifest)
            if done:
                return f"{', '.join(done)}: compacted, as the datastore was"
            for path in indexes:
                own = read_manifest(manifest_path(path), IndexManifest)
                if own is None or own.store_id != manifest.rows_id:
                    raise MismatchError(
                        f"{path} is not of these rows, and no compaction of it was begun; build it again with"
                        " fairseq-build-dstore --overwrite"
                    )
            return f"{prefix}: nothing is forgotten that is still in the files; nothing to compact"
        forgotten = read_forgotten(prefix, manifest)
        target = without_forgotten(manifest, forgotten)
        manifests = [_check_index(path, manifest, target) for path in indexes]
        for path, own in zip(indexes, manifests, strict=True):
            _require_own(path, own, prefix)
        with finish_step_first():
            _write_store(prefix, manifest, target, forgotten, save_interval_s)
            for path, own in zip(indexes, manifests, strict=True):
                _write_index(path, own, manifest, target, forgotten)
                check(GO_ON)
        new = compact_prefix(prefix)
        for path_of in (keys_path, values_path, manifest_path):
            _take_place(path_of(new), path_of(prefix))
        for path in indexes:
            _place_index(path, target)
        _clean_up(prefix, target)
        if not indexes:
            logger.warning("indexes of %s are of its old rows, and cannot be used any more; build them again", prefix)
    return f"{prefix}: {counted(target.rows, 'row')}, {forgotten.num_rows} fewer; store {target.store_id[:12]}"


def without_forgotten(manifest: DatastoreManifest, forgotten: RowRanges) -> DatastoreManifest:
    """Returns the manifest of the rows that are left, as before they are written."""
    left, first = [], 0
    for segment in manifest.all_segments:
        rest = segment.without(forgotten.within(first, first + segment.rows).shifted(-first))
        first += segment.rows
        if rest.rows:
            left.append(rest)
    # Without any: nothing of this segment is there any more, and its source may be appended again.
    bare = manifest.replace(state="writing", rows_written=0, keys_sha256=(), values_sha256=(), forgotten=UNSET)
    return bare.with_segments(left)


def _write_store(
    prefix: Path,
    manifest: DatastoreManifest,
    target: DatastoreManifest,
    forgotten: RowRanges,
    save_interval_s: float,
) -> None:
    """Writes the datastore of the rows that are left, unless it is there."""
    new = compact_prefix(prefix)
    written = read_manifest(manifest_path(new), DatastoreManifest)
    if written is not None and written.rows_id == target.rows_id and written.state == "complete":
        return  # and perhaps half in its place
    if manifest.value_dtype == "int16":
        raise DatastoreError(f"{prefix} has int16 values, which are no longer written; fairseq-knnlm adopt widens them")
    store = Datastore.open(prefix)
    assert store.keys_ND is not None
    left = forgotten.complement(store.rows)
    step = max(BLOCK_BYTES // target.layout.key_bytes, 1)
    with DatastoreWriter.create(new, target, overwrite=True, save_interval_s=save_interval_s) as writer:
        with Progress("compact", target.rows, "rows", done=writer.rows_done) as progress:
            while writer.rows_done < target.rows:
                row_N = left.nth(np.arange(writer.rows_done, min(writer.rows_done + step, target.rows)))
                writer.append(np.asarray(store.keys_ND[row_N]), np.asarray(store.values_N[row_N]))
                progress.advance(len(row_N))
                check(GO_ON)
        writer.finish()


def _check_index(path: Path, manifest: DatastoreManifest, target: DatastoreManifest) -> IndexManifest:
    """Returns an index's manifest, before anything is written; refuses one of another datastore, or that keeps rows."""
    file = None if is_sharded(path) else look_at(path)
    if file is None or (file.manifest is not None and file.manifest.lists):
        raise ConfigError(
            f"{path} has its lists {'in shards' if file is None else 'on the disk'}, which cannot give up rows; leave"
            " it out of --indexfile, and build it again afterwards"
        )
    require_ours(file)
    index = read_index(path, mapped=True)
    inner = inner_index(index)
    can = isinstance(inner, (faiss.IndexIVF, faiss.IndexIDMap, faiss.IndexFlatCodes))
    if not can or isinstance(inner, faiss.IndexIVFPQR):  # whose second codes stay
        raise ConfigError(
            f"{path} is an {type(inner).__name__}, which cannot give up rows; leave it out of --indexfile, and"
            " build it again afterwards"
        )
    own = read_manifest(manifest_path(path), IndexManifest)
    if own is None:
        raise DatastoreError(f"{path} has no manifest; build it with fairseq-build-dstore, after the compaction")
    if own.store_id not in (manifest.rows_id, target.rows_id) or index.ntotal not in (manifest.rows, target.rows):
        raise MismatchError(
            f"{path} was built from datastore {own.store_id[:12]}, but this one's rows are {manifest.rows_id[:12]};"
            " give --indexfile the datastore's own (fairseq-build-dstore --append brings it up to date)"
        )
    return own


def _require_own(path: Path, own: IndexManifest, prefix: Path) -> None:
    """Raises MismatchError for an index that serves another datastore of the same rows: this one, or that, is a copy.

    An index says which datastore it was built from. An older one does not; then no other may lie beside it.
    """
    here = Path(os.path.realpath(path)).parent
    if own.datastore:
        others = [here / own.datastore]
    else:
        others = [other.with_suffix("") for other in here.glob("*.json") if is_of_kind(other, "datastore")]
    for other in others:
        found = None
        if os.path.realpath(other) != os.path.realpath(prefix):
            found = read_manifest(manifest_path(other), DatastoreManifest)
        if found is not None and found.rows_id == own.store_id:
            raise MismatchError(
                f"{path} is the index of {os.path.realpath(other)}, which has the same rows as {prefix}; give"
                " --indexfile the datastore's own, or leave it out and build one with fairseq-build-dstore"
            )


def _write_index(
    path: Path, own: IndexManifest, manifest: DatastoreManifest, target: DatastoreManifest, forgotten: RowRanges
) -> None:
    """Writes an index of the rows that are left, unless it is there."""
    new = compact_prefix(path)
    written = read_manifest(manifest_path(new), IndexManifest)
    same = written is not None and written.store_id == target.rows_id
    if written is not None and same and new.is_file() and file_sha256(new) == written.sha256:
        return
    require_memory(f"compacting {path}", path.stat().st_size, "leave it out of --indexfile, and build it again")
    index = read_index(path)
    renumber_without(index, forgotten, manifest.rows)
    assert index.ntotal == target.rows, (index.ntotal, target.rows)
    manifest_path(new).unlink(missing_ok=True)
    write_index(index, new)
    write_manifest(
        manifest_path(new),
        own.replace(
            rows=target.rows,
            store_id=target.rows_id,
            trained_on=own.trained_on or own.store_id,
        ).of_file(new),
    )


def renumber_without(index: Any, forgotten: RowRanges, rows: int) -> None:
    """Takes rows out of an index in memory, and gives the others the ids 0, 1, … in their order."""
    if isinstance(inner_index(index), faiss.IndexFlatCodes):  # its ids are positions, which close up
        index.remove_ids(selector(forgotten))
        return
    removed = take_out(index, forgotten)
    assert removed
    left = forgotten.complement(rows)
    for ids in stored_ids(index):
        ids[:] = left.place_of(ids)


def _place_index(path: Path, manifest: DatastoreManifest) -> bool:
    """Puts a compacted index into its place, if it is the datastore's; returns whether there was one."""
    new = compact_prefix(path)
    written = read_manifest(manifest_path(new), IndexManifest)
    if written is None or written.store_id != manifest.rows_id:
        return False
    _take_place(new, path)
    _take_place(manifest_path(new), manifest_path(path))
    return True


def _take_place(path: Path, place: Path) -> None:
    if path.exists():
        path.replace(place)
        fsync_directory(place.parent)


def _clean_up(prefix: Path, manifest: DatastoreManifest) -> None:
    append_path(prefix).unlink(missing_ok=True)  # rows that were being appended were behind the old ones
    with locked(compact_prefix(prefix)):
        pass  # takes away the lock's file of a writer that was killed
    remove_others(prefix, manifest)
