"""Adding to an index the rows that were appended to its datastore: ``build_dstore.py --append``.

The index is known by the id that the datastore had when it was built (fairseq/knn/datastore/segments.py). Its
centroids and codes stay as they were trained; drift.py measures how far the new rows are from them.

    INDEX, INDEX.json       the index as it was, in use until the new one takes its place
    INDEX.partial(.json)    the index with new rows; with all of them, it is renamed, and INDEX.json written

A killed run goes on from ``INDEX.partial``, or finds the renaming done and writes the manifest.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest, write_manifest
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.build import (
    Build,
    add_rows,
    build_index,
    remove_partial,
    resumed,
    rows_at_a_time,
    same_build,
    save_index,
)
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.drift import measure_drift
from fairseq.knn.index.faiss_index import read_index
from fairseq.runtime.files import file_sha256, fsync_directory, locked
from fairseq.runtime.interrupts import finish_step_first
from fairseq.runtime.resources import require_disk, require_memory

logger = logging.getLogger(__name__)


def append_to_index(store: Datastore, config: BuildConfig, index_path: str | Path) -> IndexManifest:
    """Adds the rows that an index lacks, or with ``--retrain`` builds it anew as it was built; returns its manifest.

    Raises:
        ConfigError: there is too little disk or memory.
        DatastoreError: there is no index with a manifest, or it is damaged.
        MismatchError: it was not built from this datastore, as it is or as it was.
    """
    path = Path(index_path)
    if config.retrain:
        found = _manifest_of(path)
        if found.store_id == store.rows_id and not found.trained_on:
            logger.info("%s is trained on all rows of this datastore already; nothing to do", path)
            return found
        _check_origin(found, store, path)
        again = replace(
            config,
            append=False,
            retrain=False,
            overwrite=True,
            index_spec=found.spec,
            effort=found.effort,
            probe=found.nprobe or config.probe,
        )
        return build_index(store, again, path)
    with locked(path), finish_step_first():
        found = _manifest_of(path)
        if found.store_id == store.rows_id:
            logger.info("%s has all rows of %s already; nothing to do", path, store.prefix)
            _remove_leftover(path)
            return found
        _check_origin(found, store, path)
        wanted = found.replace(
            rows=store.rows,
            store_id=store.rows_id or "",
            trained_on=found.trained_on or found.store_id,
            num_bytes=0,
            sha256="",
        )
        build = Build(store, replace(config, effort=found.effort), path, wanted)
        done = _renamed(build)
        if done is None:
            index = resumed(build, "partial")
            index = index if index is not None else _opened(path, found)
            _require_room(build, index)
            measure_drift(index, store, found.rows, config.drift_warning)
            add_rows(build, index)
            if index.ntotal != store.rows:
                raise DatastoreError(f"{path} must get {store.rows} keys, but has {index.ntotal}; build it again")
            done = save_index(index, build.stage("partial"), wanted)
            build.stage("partial").replace(path)
            fsync_directory(path.parent)
        write_manifest(manifest_path(path), done)
        remove_partial(build)
    return done


def _manifest_of(path: Path) -> IndexManifest:
    """Returns the manifest of the index that rows are added to; with a killed ``--retrain``, of the one to come."""
    found = read_manifest(manifest_path(path), IndexManifest)
    found = found if found is not None else read_manifest(manifest_path(f"{path}.partial"), IndexManifest)
    if found is None or not path.is_file():
        why = "has no manifest" if path.is_file() else "does not exist"
        raise DatastoreError(f"{path} {why}, so nothing can be added to it; build it without --append")
    return found


def _check_origin(found: IndexManifest, store: Datastore, path: Path) -> None:
    states = store.manifest.earlier_states() if store.manifest is not None else ()
    if all(found.store_id != state.rows_id for state in states):
        raise MismatchError(
            f"{path} was built from datastore {found.store_id[:12]}, which {store.prefix} (rows"
            f" {str(store.rows_id)[:12]}) is not and was not before rows were appended; build it with --overwrite"
        )


def _remove_leftover(path: Path) -> None:
    for leftover in (Path(f"{path}.partial"), manifest_path(f"{path}.partial")):
        leftover.unlink(missing_ok=True)


def _renamed(build: Build) -> IndexManifest | None:
    """Returns the manifest that a run has not come to write which was killed after the index took its place."""
    found = read_manifest(manifest_path(build.stage("partial")), IndexManifest)
    if found is None or build.stage("partial").exists() or found.rows != build.store.rows:
        return None
    return found if same_build(found, build.manifest) and file_sha256(build.path) == found.sha256 else None


def _opened(path: Path, found: IndexManifest) -> Any:
    if file_sha256(path) != found.sha256:
        raise DatastoreError(f"{path} is damaged, its checksum is not its manifest's; build it again with --overwrite")
    index = read_index(path)
    if index.ntotal != found.rows:
        raise DatastoreError(f"{path} must have {found.rows} keys, but has {index.ntotal}; build it with --overwrite")
    return index


def _require_room(build: Build, index: Any) -> None:
    """Refuses what does not fit: old and new index are there together for a moment."""
    size = build.path.stat().st_size / max(index.ntotal, 1) * build.store.rows
    require_disk(build.path, int(2 * size), "make room; nothing was changed")
    chunk = rows_at_a_time(build) * build.store.dimension * 4
    require_memory(f"adding rows to {build.path}", int(size) + chunk, "lower --num-keys-to-add-at-a-time")
