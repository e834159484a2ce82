"""Building the index of a datastore, so that an interrupted build goes on.

    sample rows ── train ──► INDEX.trained(.json) ── add rows in order ──► INDEX.partial(.json) ──► INDEX(.json)

Ids are row numbers, since rows are added in order and FAISS numbers them so. Every stage is written under another name
and renamed, and its manifest comes after it: a file whose manifest names this datastore and this specification is
whole and ours. What does not match is made again. The default is that of the original, ``IVF4096,PQ64``: an inverted
file with 8-bit product codes of 64 bytes (Jégou et al., 2011), trained on a million rows.

Legend: N rows · D key width.
"""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.errors import ConfigError, DatastoreError
from fairseq.files import fsync_directory
from fairseq.knn.config import BuildConfig
from fairseq.knn.datastore import Datastore, gather_rows
from fairseq.knn.faiss_index import faiss_reason, num_lists, read_index, set_nprobe, write_index
from fairseq.knn.manifest import IndexManifest, manifest_path, read_manifest, write_manifest
from fairseq.log import Progress, format_duration

logger = logging.getLogger(__name__)

# Seconds of adding between two files to resume from: writing one takes seconds for the largest stores.
SAVE_INTERVAL_S = 600.0
# What FAISS asks for: product codes need 2**8 points, and k-means 39 a list for centroids that are worth something.
PQ_CENTROIDS = 256
POINTS_PER_CENTROID = 39


@dataclass(frozen=True)
class _Build:
    """One build: the datastore, its settings, the file, and the manifest that the file will carry."""

    store: Datastore
    config: BuildConfig
    path: Path
    manifest: IndexManifest
    log_format: str

    def stage(self, name: str) -> Path:
        return Path(f"{self.path}.{name}")


def build_index(store: Datastore, config: BuildConfig, index_path: str | Path, log_format: str) -> IndexManifest:
    """Writes the index of a datastore, going on from an interrupted build of the same, and returns its manifest.

    Raises:
        ConfigError: the specification does not suit the datastore.
        DatastoreError: an index is there already, without ``--overwrite``; or keys are missing at the end.
    """
    path = Path(index_path)
    if path.exists() and not config.overwrite:
        raise DatastoreError(f"{path} exists; --overwrite replaces it")
    if config.starting_point:
        logger.warning(
            "--starting-point %d has no effect: an interrupted build resumes by itself", config.starting_point
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    empty = new_index(config, store.dimension)
    build = _Build(store, config, path, _manifest(store, config, empty), log_format)
    index = _resumed(build, "partial")
    if index is None:
        index = _resumed(build, "trained")
    if index is None:
        index = _trained(build, empty)
    _add(build, index)
    if index.ntotal != store.rows:
        raise DatastoreError(f"{path} must hold {store.rows} keys, but holds {index.ntotal}; build it again")
    set_nprobe(index, config.probe)
    _save(index, path, build.manifest)
    for leftover in (build.stage("partial"), manifest_path(build.stage("partial"))):
        leftover.unlink(missing_ok=True)
    return build.manifest


def new_index(config: BuildConfig, dimension: int) -> Any:
    """Returns an untrained index.

    Raises:
        ConfigError: the specification cannot be built for keys of this width.
    """
    import faiss

    if config.index_spec is None:
        if dimension % config.code_size:
            raise ConfigError(
                f"--code-size {config.code_size} must divide the key width {dimension};"
                f" try {_divisor(config, dimension)}"
            )
        return faiss.IndexIVFPQ(faiss.IndexFlatL2(dimension), dimension, config.ncentroids, config.code_size, 8)
    try:
        return faiss.index_factory(dimension, config.index_spec)
    except RuntimeError as err:
        raise ConfigError(
            f"--index-spec {config.index_spec} must be a FAISS factory string for keys of width {dimension}, but"
            f" FAISS says: {faiss_reason(err)}"
        ) from err


def _divisor(config: BuildConfig, dimension: int) -> int:
    return max(size for size in range(1, config.code_size) if dimension % size == 0)


def _manifest(store: Datastore, config: BuildConfig, index: Any) -> IndexManifest:
    import faiss

    assert store.store_id is not None
    return IndexManifest(
        spec=config.index_spec or f"IVF{config.ncentroids},PQ{config.code_size}",
        metric="l2",
        dimension=store.dimension,
        rows=store.rows,
        nlist=num_lists(index),
        store_id=store.store_id,
        seed=config.seed,
        sample=min(config.train_sample, store.rows),
        faiss_version=faiss.__version__,
    )


def _resumed(build: _Build, name: str) -> Any | None:
    """Returns what an earlier run of the same build left at a stage, or None."""
    path = build.stage(name)
    found = read_manifest(manifest_path(path), IndexManifest)
    if found is None or not path.is_file():
        return None
    if replace(found, rows=build.manifest.rows) != build.manifest:
        logger.info("%s is of another datastore or specification; it is made again", path)
        return None
    index = read_index(path)
    if index.ntotal != found.rows or index.d != found.dimension:
        logger.warning("%s has %d keys, but its manifest says %d; it is made again", path, index.ntotal, found.rows)
        return None
    logger.info("going on from %s, with %d keys", path, index.ntotal)
    return index


def _trained(build: _Build, index: Any) -> Any:
    if index.is_trained:
        return index
    count = build.manifest.sample
    _check_sample(build, index, count)
    start = time.monotonic()
    logger.info("reading %d of %d rows to train on", count, build.store.rows)
    sample_ND = sample_keys(build.store, count, build.config.seed)
    logger.info("training %s on %d rows (read in %s)", build.manifest.spec, count, _since(start))
    start = time.monotonic()
    try:
        index.train(sample_ND)
    except RuntimeError as err:
        raise ConfigError(f"{build.manifest.spec} cannot be trained on {count} rows: {faiss_reason(err)}") from err
    logger.info("trained in %s", _since(start))
    _save(index, build.stage("trained"), replace(build.manifest, rows=0))
    return index


def sample_keys(store: Datastore, count: int, seed: int) -> npt.NDArray[np.float32]:
    """Returns ``count`` rows' keys as float32, drawn without replacement, in the order of the file."""
    assert store.keys_ND is not None
    if count == store.rows:
        row_ids = np.arange(store.rows, dtype=np.int64)
    else:
        row_ids = np.sort(np.random.default_rng(seed).choice(store.rows, count, replace=False, shuffle=False))
    return gather_rows(store.keys_ND, row_ids)


def _check_sample(build: _Build, index: Any, count: int) -> None:
    """Refuses, before anything is read, to train on fewer rows than there are centroids."""
    nlist = num_lists(index)
    needed = max(nlist, PQ_CENTROIDS) if build.config.index_spec is None else nlist
    if count < needed:
        name = "--ncentroids" if build.config.index_spec is None else f"--index-spec {build.manifest.spec}:"
        raise ConfigError(
            f"{name} {nlist} lists need {needed} rows to train on, but there are {count}; use"
            f" {max(count // POINTS_PER_CENTROID, 1)} lists or fewer, or --index-spec Flat for so small a store"
        )
    if count < POINTS_PER_CENTROID * nlist:
        logger.warning(
            "%d rows are few to train %d inverted lists on; %d lists or fewer would do",
            count, nlist, max(count // POINTS_PER_CENTROID, 1),
        )  # fmt: skip


def _add(build: _Build, index: Any) -> None:
    """Adds the rows that the index does not hold yet, in order."""
    store, step = build.store, build.config.num_keys_to_add_at_a_time
    assert store.keys_ND is not None
    saved = time.monotonic()
    with Progress("add to the index", store.rows, "keys", build.log_format, done=index.ntotal) as progress:
        for start in range(index.ntotal, store.rows, step):
            chunk_ND = np.ascontiguousarray(store.keys_ND[start : min(start + step, store.rows)], dtype=np.float32)
            try:
                index.add(chunk_ND)
            except RuntimeError as err:
                raise ConfigError(f"{build.manifest.spec} takes no rows in order: {faiss_reason(err)}") from err
            progress.advance(len(chunk_ND))
            if time.monotonic() - saved >= SAVE_INTERVAL_S and index.ntotal < store.rows:
                _save(index, build.stage("partial"), replace(build.manifest, rows=index.ntotal))
                saved = time.monotonic()


def _save(index: Any, path: Path, manifest: IndexManifest) -> None:
    """Writes an index, then its manifest; the old manifest goes first, so that none ever describes another file."""
    manifest_path(path).unlink(missing_ok=True)
    fsync_directory(path.parent)
    write_index(index, path)
    write_manifest(manifest_path(path), manifest)


def _since(start: float) -> str:
    return format_duration(time.monotonic() - start)
