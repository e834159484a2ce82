"""Opening an index in shards: what the coordinator reads itself, and whether the shards are what it takes them for.

    here                 INDEX.shards.json, INDEX.trained, PREFIX.json; values only to show rows with their text
    at each shard        fairseq/knn/distributed/shard_files.py

Every shard reports what it is when it starts. Any difference, between shards or from what lies here, refuses the run: a
search of other rows, or by another version, would give numbers that only look right.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.forgotten import read_forgotten
from fairseq.knn.datastore.format import values_path
from fairseq.knn.datastore.identity import require_model, short
from fairseq.knn.datastore.manifest import DatastoreManifest
from fairseq.knn.datastore.store import Datastore, check_ids, map_files
from fairseq.knn.distributed.backend import ShardBackend
from fairseq.knn.distributed.local_backend import LocalBackend
from fairseq.knn.distributed.messages import ShardIdentity
from fairseq.knn.distributed.shard_files import ShardSettings, indexed_state, versions
from fairseq.knn.distributed.sharded_store import ShardedStore
from fairseq.knn.distributed.two_phases import TwoPhases
from fairseq.knn.index.faiss_index import metric_name, read_index
from fairseq.knn.search.preassigned import inverted_file
from fairseq.knn.shards.manifest import ShardsManifest, read_shards, shard_path
from fairseq.models.protocol import ModelIdentity
from fairseq.storage.files import file_sha256

logger = logging.getLogger(__name__)

_AGAIN = "copy the files of one build to every machine"
# What a shard reports, and what to do where it is another one's.
_FIELDS = {
    "set_id": ("belongs to the index", _AGAIN),
    "rows_id": ("has rows of datastore", _AGAIN),
    "forgotten_sha256": ("leaves out the forgotten rows", "copy PREFIX.json and PREFIX.forgotten.*.json there"),
}


def open_sharded(
    prefix: str | Path,
    index: str | Path,
    config: KNNConfig,
    model: ModelIdentity | None,
    *,
    rows: int | None = None,
    key_fp16: bool = False,
) -> ShardedStore:
    """Returns a datastore whose index lies in shards, after checking that all belong together.

    Args:
        prefix: of the datastore's files.
        index: name of the whole index.
        config: settings; ``knn_backend`` says where the shards are.
        model: that the datastore must have been written with, as far as both are known.
        rows: ``--dstore-size``, which must be that of the index.
        key_fp16: ``--dstore-fp16``.

    Raises:
        ConfigError: a flag that shards do not have.
        DatastoreError: a file cannot be read.
        MismatchError: they do not belong together.
    """
    shards = read_shards(index)
    manifest, state = indexed_state(prefix, index, shards)
    _check_flags(prefix, index, config, shards, state, rows, key_fp16)
    require_model(prefix, manifest.model, model, allow_mismatch=config.allow_mismatch)
    trained = _trained(index, shards, config)
    datastore = _described(Path(prefix), manifest, state)
    vocabulary_size = (model.vocabulary_size if model is not None else None) or datastore.model.vocabulary_size
    if vocabulary_size and len(datastore.values_N) and not shards.has_rows:
        check_ids(datastore.prefix, datastore.values_N, vocabulary_size)
    settings = ShardSettings.of(config, vocabulary_size)
    backend = _backend(prefix, index, shards.num_shards, settings, config)
    try:
        check_identities(backend.identities(), index, shards, manifest)
    except MismatchError:
        backend.close()
        raise
    if state.rows < manifest.rows:
        logger.warning(
            "%s has the first %d of %d rows of %s: those appended since are not found; build the shards again",
            index,
            state.rows,
            manifest.rows,
            prefix,
        )
    search = TwoPhases(
        backend,
        [own.num_rows for own in shards.rows_of_shards],
        trained,
        config.probe,
        sends_queries=settings.needs_keys,
        in_flight=config.knn_in_flight,
    )
    return ShardedStore(datastore, shards, search, config, vocabulary_size)


def check_identities(
    identities: Sequence[ShardIdentity], index: str | Path, shards: ShardsManifest, manifest: DatastoreManifest
) -> None:
    """Raises MismatchError where a shard is not the one that it is taken for, or runs other versions."""
    wanted = {
        "set_id": shards.set_id,
        "rows_id": manifest.rows_id if manifest.rows == shards.index.rows else shards.index.store_id,
        "forgotten_sha256": manifest.forgotten.sha256 if manifest.forgotten else "",
    }
    own = versions()
    for number, found in enumerate(identities):
        whose = f"shard {number} of {index} on {found.node}"
        if (found.number, found.rows) != (number, shards.rows_of_shards[number].num_rows):
            raise MismatchError(
                f"{whose} says that it is shard {found.number} of {found.rows} rows, but must have"
                f" {shards.rows_of_shards[number].num_rows}; {_AGAIN}"
            )
        for name, (words, remedy) in _FIELDS.items():
            there, here = short(getattr(found, name)) or "none", short(wanted[name]) or "none"
            if there != here:
                raise MismatchError(f"{whose} {words} {there}, but here it is {here}; {remedy}")
        for program in sorted({*own, *found.versions}):
            there, here = found.versions.get(program, "none"), own.get(program, "none")
            if there != here:
                raise MismatchError(
                    f"{whose} runs {program} {there}, but this machine {here}; install the same versions everywhere"
                )


def _check_flags(
    prefix: str | Path,
    index: str | Path,
    config: KNNConfig,
    shards: ShardsManifest,
    state: DatastoreManifest,
    rows: int | None,
    key_fp16: bool,
) -> None:
    if state.state != "complete":
        raise DatastoreError(f"{prefix} is unfinished; write it again with the same command, which goes on from there")
    if config.gpu_index:
        raise ConfigError(f"--gpu-index searches an index in one file, but {index} lies in shards; leave the flag out")
    if rows not in (None, shards.index.rows):
        raise ConfigError(f"--dstore-size {rows}: {index} has {shards.index.rows} rows; leave the flag out")
    if key_fp16 and state.key_dtype != "float16":
        raise MismatchError(f"--dstore-fp16: {prefix} has {state.key_dtype} keys; leave the flag out")


def _trained(index: str | Path, shards: ShardsManifest, config: KNNConfig) -> Any:
    """Returns the trained index without rows, which chooses the lists of a query."""
    path = Path(f"{index}.trained")
    if not path.is_file():
        raise DatastoreError(
            f"{path} is not there, by which lists are chosen; copy it from where the shards were built"
        )
    if file_sha256(path) != shards.trained_sha256:
        raise MismatchError(
            f"{path} is not the one that the shards of {index} were built from: it was exchanged; copy it from there"
        )
    trained = read_index(path)
    if inverted_file(trained) is None:
        raise DatastoreError(f"{path} has no inverted lists, which shards are made of; build the shards again")
    if metric_name(trained) != config.faiss_metric_type:
        raise MismatchError(
            f"{index} was built for the metric {metric_name(trained)}, but --faiss-metric-type is"
            f" {config.faiss_metric_type}; give --faiss-metric-type {metric_name(trained)}"
        )
    return trained


def _described(prefix: Path, manifest: DatastoreManifest, state: DatastoreManifest) -> Datastore:
    """Returns a datastore as its manifest describes it; with values where they lie here, never with keys."""
    values_N = map_files(prefix, state.layout)[1] if values_path(prefix).is_file() else np.empty(0, state.value_dtype)
    forgotten = read_forgotten(prefix, manifest).within(0, state.rows)
    return Datastore(
        prefix, state.rows, state.dimension, None, values_N, state, state.store_id, state.rows_id, forgotten
    )


def _backend(
    prefix: str | Path, index: str | Path, count: int, settings: ShardSettings, config: KNNConfig
) -> ShardBackend:
    """Returns what has the shards; raises DatastoreError for one that is missing, before any is opened."""
    if config.knn_backend == "ray":
        from fairseq.knn.distributed.ray_backend import RayBackend  # which alone imports Ray

        return RayBackend.open(prefix, index, count, settings, address=config.ray_address, timeout=config.knn_timeout)
    missing = [number for number in range(count) if not shard_path(index, number, count).is_file()]
    if missing:
        which = f"{'shard' if len(missing) == 1 else 'shards'} {', '.join(map(str, missing))}"
        raise DatastoreError(
            f"{index} lacks {which} of {count}; build with fairseq-build-dstore --num-shards {count} --shard-id"
            f" {missing[0]}, or copy {shard_path(index, missing[0], count)} here"
        )
    return LocalBackend.open(prefix, index, count, settings)
