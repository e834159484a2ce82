"""Building the index of a datastore, so that an interrupted build goes on.

    sample rows ── train ──► INDEX.trained(.json) ── add rows in order ──► INDEX.partial(.json) ──► INDEX(.json)

Ids are row numbers, since rows are added in order and FAISS numbers them so. Every stage is written under another name
and renamed, and its manifest comes after it: a file whose manifest names this datastore and this specification is
whole and ours. What does not match is made again. SIGINT and SIGTERM wait for the training, or for the chunk that is
being added, and what is done is saved. The default is that of the original, ``IVF4096,PQ64``: an inverted file with
8-bit product codes of 64 bytes (Jégou et al., 2011), trained on a million rows.

Legend: N rows · D key width.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fairseq.arrays import Float32s
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest, write_manifest
from fairseq.knn.datastore.store import Datastore, check_finite, gather_rows
from fairseq.knn.index.choose import check_kind, new_index, resolved
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import code_bytes, num_lists, read_index, set_nprobe, write_index
from fairseq.knn.index.lists import check_lists
from fairseq.knn.index.reading import faiss_reason
from fairseq.knn.index.training import FAISS_ROWS, Adder, points_wanted, train
from fairseq.runtime.interrupts import advising, asked_to_stop, check, finish_step_first
from fairseq.runtime.log import format_duration
from fairseq.runtime.progress import Progress, at_work
from fairseq.runtime.resources import require_disk, require_memory
from fairseq.storage.files import file_sha256, fsync_directory, locked
from fairseq.storage.outputs import claim_index
from fairseq.storage.stores import lists_name, shard_names, shards_name

logger = logging.getLogger(__name__)

GO_ON = "what was added is saved, and the same command goes on from there"
TRAIN_AGAIN = "the training is not saved; the same command trains again"
ID_BYTES = 8  # of a key in an inverted list
LINK_BYTES = 4 * 64  # of a key in a graph, HNSW32's
ADDED_BYTES = 1 << 28  # most bytes of rows that are added at a time, which is quick enough: wide rows are many bytes


@dataclass(frozen=True)
class Build:
    """One build: the datastore, its settings, the file, the manifest that it will carry; seconds of what was done."""

    store: Datastore
    config: BuildConfig
    path: Path
    manifest: IndexManifest
    times: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str) -> Path:
        """Returns the file of an unfinished build: ``trained`` or ``partial``."""
        return Path(f"{self.path}.{name}")

    def is_of(self, manifest: IndexManifest | None) -> bool:
        """Returns whether a manifest is of this build, at whatever stage; the nprobe is set in the end."""
        own = self.manifest.of_no_file()
        same = {"rows": own.rows, "nprobe": own.nprobe, "datastore": own.datastore}
        return manifest is not None and own == manifest.of_no_file().replace(**same)


def build_index(
    store: Datastore, config: BuildConfig, index_path: str | Path, times: dict[str, float] | None = None
) -> IndexManifest:
    """Writes the index of a datastore, going on from an interrupted build of the same, and returns its manifest.

    Args:
        store: the datastore.
        config: settings.
        index_path: file to write.
        times: takes the seconds of ``train`` and ``add``, where they were done.

    Raises:
        ConfigError: the specification does not suit the datastore.
        DatastoreError: an index is there already, without ``--overwrite``; or keys are missing at the end.
    """
    path = Path(index_path)
    claim_index("", path, overwrite=config.overwrite)
    with locked(path):
        config = resolved(config, store, path)
        index = new_index(config, store.dimension)
        build = Build(store, config, path, manifest_of_build(store, config, index), {} if times is None else times)
        manifest = None if config.overwrite else _finished(build)
        if manifest is None:
            check_kind(index, build.manifest.spec, store.rows, rows_at_a_time(build))
            require_room(build, index)
            index = resumed(build, "partial") or resumed(build, "trained") or index
            with finish_step_first():
                if not index.is_trained:
                    train_index(build, index)
                add_rows(build, index)
            set_nprobe(index, config.probe)
            partial = manifest_path(build.stage("partial"))
            if not build.is_of(read_manifest(partial, IndexManifest)):  # whose the index is, until its own is written
                write_manifest(partial, build.manifest)
            manifest = save_index(index, path, build.manifest)
            lists_name(path).unlink(missing_ok=True)  # of an index that was replaced
            remove_shards(path)
        remove_partial(path)
    return manifest


def _finished(build: Build) -> IndexManifest | None:
    """Returns the manifest of the index that is there, if it is the one to build, or None where there is none.

    Raises:
        DatastoreError: another index is in the way.
    """
    path = build.path
    if not path.exists():
        if shards_name(path).is_file():
            raise DatastoreError(f"{path} is in shards, finished or not; give --num-shards to go on, or --overwrite")
        return None
    manifest = read_manifest(manifest_path(path), IndexManifest)
    whose = keep = ""
    if manifest is not None:
        is_whole = manifest.nprobe == build.manifest.nprobe and manifest.num_bytes == path.stat().st_size
        if is_whole and build.is_of(manifest):
            logger.info("%s is there already, built from this datastore to this specification; nothing to do", path)
            return manifest
        whose = f", of datastore {manifest.store_id[:12]} with {manifest.spec} (this build: {build.manifest.spec})"
        if build.config.index_spec is None and manifest.store_id == build.manifest.store_id:
            keep = f"give the --index-spec that it was built with ({manifest.spec}, or auto) to keep it; "
    elif build.is_of(read_manifest(manifest_path(build.stage("partial")), IndexManifest)):
        return None  # killed before its manifest was written
    raise DatastoreError(f"{path} exists{whose}; {keep}--overwrite replaces it, --append adds rows to it")


def remove_partial(path: Path) -> None:
    """Removes what an unfinished build of an index has saved beside it."""
    for leftover in (Path(f"{path}.partial"), manifest_path(f"{path}.partial")):
        leftover.unlink(missing_ok=True)


def remove_shards(path: Path) -> None:
    """Removes the shards of an index; their manifest goes last, which says whose they are."""
    for other, _ in shard_names(path):
        other.unlink(missing_ok=True)
    shards_name(path).unlink(missing_ok=True)
    fsync_directory(path.parent)


def require_room(build: Build, index: Any) -> None:
    """Refuses a build that does not fit; the final index and an earlier one are there together for a moment."""
    store, width_bytes = build.store, build.store.dimension * 4
    sample = 0 if index.is_trained else 2 * build.manifest.sample * width_bytes
    key = code_bytes(index) or width_bytes + LINK_BYTES
    size = store.rows * (key + ID_BYTES) + build.manifest.nlist * width_bytes
    smaller = "" if build.config.append else ", or choose an --index-spec with fewer bytes per key"
    sooner = "" if build.config.append else "--train-sample or "
    require_disk(build.path, 2 * size, f"make room{smaller}")
    require_memory(
        f"building {build.path}",
        max(sample, size + rows_at_a_time(build) * width_bytes),
        f"lower {sooner}--num-keys-to-add-at-a-time{smaller}",
    )


def manifest_of_build(store: Datastore, config: BuildConfig, index: Any) -> IndexManifest:
    """Returns what the index will say of itself, whatever its file will be."""
    assert store.rows_id is not None
    most = config.train_sample
    if config.effort == "quick":
        most = min(most, points_wanted(num_lists(index)))
    return IndexManifest(
        spec=config.index_spec or f"IVF{config.ncentroids},PQ{config.code_size}",
        metric="l2",
        dimension=store.dimension,
        rows=store.rows,
        nlist=num_lists(index),
        nprobe=config.probe if num_lists(index) else 0,
        store_id=store.rows_id,
        seed=config.seed,
        sample=min(most, store.rows_left),
        faiss_version=faiss.__version__,
        effort="quick" if config.effort == "quick" else "thorough",
        datastore=config.datastore,
        num_bytes=0,
        sha256="",
    )


def resumed(build: Build, name: str) -> Any | None:
    """Returns what an earlier run of the same build left at a stage, or None."""
    path = build.stage(name)
    manifest = read_manifest(manifest_path(path), IndexManifest)
    if manifest is None or not path.is_file():
        return None
    if not build.is_of(manifest):
        logger.info("%s is of another datastore or specification; it is made again", path)
        return None
    try:
        index = read_whole(path, manifest)
    except DatastoreError:
        logger.warning("%s is damaged; it is made again", path)
        return None
    logger.info("going on from %s, with %d keys", path, index.ntotal)
    return index


def read_whole(path: Path, manifest: IndexManifest) -> Any:
    """Returns the index in a file; raises DatastoreError where it is not what its manifest says."""
    if file_sha256(path) == manifest.sha256:
        index = read_index(path)
        if index.ntotal == manifest.rows and index.d == manifest.dimension:
            return index
    raise DatastoreError(f"{path} is damaged: it is not what its manifest says; build it again with --overwrite")


def train_index(build: Build, index: Any, replace: Callable[[], None] | None = None) -> None:
    """Trains an index on a sample of rows, and saves it; before, ``replace`` removes what was built earlier."""
    config, count = build.config, build.manifest.sample
    check_lists(build.config.index_spec, build.manifest.nlist, count, build.store.rows_left, config.probe)
    start = time.monotonic()
    logger.info("reading %d of %d rows to train on", count, build.store.rows)
    sample_ND = sample_keys(build.store, count, config.seed)
    read_s = time.monotonic() - start
    logger.info("training %s on %d rows (read in %s)", build.manifest.spec, count, format_duration(read_s))
    check_finite(build.store.prefix, sample_ND)
    start = time.monotonic()
    try:
        with at_work("train the index"), finish_step_first("the training, which is saved"), advising(TRAIN_AGAIN):
            train(index, sample_ND, config.seed, quick=config.effort == "quick", gpu=config.gpu_index)
    except RuntimeError as err:
        raise ConfigError(f"{build.manifest.spec} cannot be trained on {count} rows: {faiss_reason(err)}") from err
    build.times["train"] = time.monotonic() - start
    logger.info("trained in %s", format_duration(build.times["train"]))
    if replace is not None:
        replace()
    save_index(index, build.stage("trained"), build.manifest.replace(rows=0))
    check("the trained index is saved, and the same command goes on from there")


def sample_keys(store: Datastore, count: int, seed: int) -> Float32s:
    """Returns ``count`` rows' keys as float32, drawn without replacement, in the order of the file; none forgotten."""
    assert store.keys_ND is not None
    places = np.arange(store.rows_left, dtype=np.int64)
    if count != store.rows_left:
        places = np.sort(np.random.default_rng(seed).choice(store.rows_left, count, replace=False, shuffle=False))
    return gather_rows(store.keys_ND, store.left.nth(places))


def rows_at_a_time(build: Build) -> int:
    """Returns how many rows are added at a time: ``--num-keys-to-add-at-a-time``, less of wide rows; whole cells."""
    most = min(build.config.num_keys_to_add_at_a_time, max(ADDED_BYTES // (4 * build.store.dimension), 1))
    return min(most - most % FAISS_ROWS or most, build.store.rows)


def add_rows(build: Build, index: Any) -> None:
    """Adds the rows that the index does not hold yet, in order.

    Raises:
        ConfigError: it takes none.
        DatastoreError: it does not hold all of them in the end.
    """
    store, step = build.store, rows_at_a_time(build)
    assert store.keys_ND is not None
    add = Adder(index, quick=build.config.effort == "quick", gpu=build.config.gpu_index)
    start_s = saved_s = time.monotonic()
    with Progress("add to the index", store.rows, "keys", done=index.ntotal) as progress:
        for start in range(index.ntotal, store.rows, step):
            chunk_ND = np.ascontiguousarray(store.keys_ND[start : start + step], dtype=np.float32)
            check_finite(store.prefix, chunk_ND, start)
            try:
                add(chunk_ND)
            except RuntimeError as err:
                raise ConfigError(f"{build.manifest.spec} takes no rows in order: {faiss_reason(err)}") from err
            progress.advance(len(chunk_ND))
            due = asked_to_stop() or time.monotonic() - saved_s >= build.config.save_interval_s
            if due and index.ntotal < store.rows:
                save_index(index, build.stage("partial"), build.manifest.replace(rows=index.ntotal))
                saved_s = time.monotonic()
                check(GO_ON)
    build.times["add"] = time.monotonic() - start_s
    if index.ntotal != store.rows:
        raise DatastoreError(f"{build.path} must hold {store.rows} keys, but holds {index.ntotal}; build it again")


def save_index(index: Any, path: Path, manifest: IndexManifest) -> IndexManifest:
    """Writes an index, then its manifest; the old manifest goes first, so that none ever describes another file."""
    if manifest_path(path).exists():
        manifest_path(path).unlink()
        fsync_directory(path.parent)
    with at_work("write the index and its checksum"):
        write_index(index, path)
        manifest = manifest.of_file(path)
    write_manifest(manifest_path(path), manifest)
    return manifest
