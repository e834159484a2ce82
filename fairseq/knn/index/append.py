"""Adding to an index the rows that were appended to its datastore: ``fairseq-build-dstore --append``.

The index is known by the id that the datastore had when it was built (fairseq/knn/datastore/manifest.py). Its
centroids and codes stay as they were trained; drift.py measures how far the new rows are from them.

    INDEX, INDEX.json       the index as it was, in use until the new one takes its place
    INDEX.partial(.json)    the index with new rows; with all of them, it is renamed, and INDEX.json written

A killed run goes on from ``INDEX.partial``, or finds the renaming done and writes the manifest.
"""

import logging
from dataclasses import replace
from pathlib import Path

from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.build import (
    Build,
    add_rows,
    build_index,
    read_whole,
    remove_partial,
    require_room,
    resumed,
    rows_at_a_time,
    save_index,
)
from fairseq.knn.index.choose import check_kind
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.drift import measure_drift
from fairseq.runtime.interrupts import finish_step_first
from fairseq.storage.files import file_sha256, fsync_directory, locked
from fairseq.storage.outputs import claim_index
from fairseq.storage.stores import shards_name

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
        return _retrained(store, config, path)
    claim_index("", path, overwrite=False)
    with locked(path), finish_step_first():
        old = _manifest_of(path)
        if old.store_id == store.rows_id:
            logger.info("%s has all rows of %s already; nothing to do", path, store.prefix)
            remove_partial(path)
            return old
        _check_origin(old, store, path)
        target = old.replace(
            rows=store.rows,
            store_id=store.rows_id or "",
            trained_on=old.trained_on or old.store_id,
            datastore=config.datastore,
        ).of_no_file()
        build = Build(store, replace(config, effort=old.effort), path, target)
        partial = build.stage("partial")
        manifest = _manifest_to_rename(build)
        if manifest is None:
            index = resumed(build, "partial") or read_whole(path, old)
            check_kind(index, old.spec, store.rows, rows_at_a_time(build))
            require_room(build, index)
            measure_drift(index, store, old.rows, config.drift_warning)
            add_rows(build, index)
            manifest = save_index(index, partial, target)
            partial.replace(path)
            fsync_directory(path.parent)
        manifest_path(partial).replace(manifest_path(path))
        fsync_directory(path.parent)
    return manifest


def _retrained(store: Datastore, config: BuildConfig, path: Path) -> IndexManifest:
    """Builds an index of all rows, to the specification of the one that is there; returns its manifest."""
    old = _manifest_of(path)
    if old.store_id == store.rows_id and not old.trained_on:
        logger.info("%s is trained on all rows of this datastore already; nothing to do", path)
        return old
    _check_origin(old, store, path)
    config = replace(
        config,
        append=False,
        retrain=False,
        overwrite=True,
        index_spec=old.spec,
        effort=old.effort,
        probe=old.nprobe or config.probe,
    )
    return build_index(store, config, path)


def _manifest_of(path: Path) -> IndexManifest:
    """Returns the manifest of the index that rows are added to; with a killed ``--retrain``, of the one to come."""
    manifest = read_manifest(manifest_path(path), IndexManifest)
    if (manifest is not None and manifest.lists) or (not path.exists() and shards_name(path).is_file()):
        form, merge = ("on the disk", " --merge disk") if manifest is not None else ("in shards", "")
        raise DatastoreError(
            f"{path} has its lists {form}, to which no rows can be added; build it again with --num-shards N{merge}"
            " --overwrite"
        )
    manifest = manifest or read_manifest(manifest_path(f"{path}.partial"), IndexManifest)
    if manifest is None or not path.is_file():
        why = "has no manifest" if path.is_file() else "does not exist"
        raise DatastoreError(f"{path} {why}, so nothing can be added to it; build it without --append")
    return manifest


def _check_origin(old: IndexManifest, store: Datastore, path: Path) -> None:
    states = store.manifest.earlier_states() if store.manifest is not None else ()
    if all(old.store_id != state.rows_id for state in states):
        raise MismatchError(
            f"{path} was built from datastore {old.store_id[:12]}, which {store.prefix} (rows"
            f" {str(store.rows_id)[:12]}) is not and was not before rows were appended; build it with --overwrite"
        )


def _manifest_to_rename(build: Build) -> IndexManifest | None:
    """Returns the manifest that a killed run has left to be renamed, its index being in its place; else None."""
    partial = build.stage("partial")
    manifest = read_manifest(manifest_path(partial), IndexManifest)
    if manifest is None or partial.exists() or manifest.rows != build.store.rows or not build.is_of(manifest):
        return None
    return manifest if file_sha256(build.path) == manifest.sha256 else None
