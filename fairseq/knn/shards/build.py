"""Building an index in shards, all one after the other or each by a job of its own.

    sample rows ── train ──► INDEX.trained ──► INDEX.shards.json         by whichever job comes first
    own rows of shard i ── add, ids are row numbers ──► INDEX.shard-i-of-P   by any job, resumed as any build
    all shards ── merge ──► INDEX, or INDEX and INDEX.ivfdata            by the command that is asked to (merge.py)

What is fixed at the start, the row map and the trained index, is written once: a job that comes later takes it. A shard
is whole when its manifest is there, and belongs to the others by the id of the set in it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import faiss

from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.build import (
    Build,
    manifest_of_build,
    remove_shards,
    require_room,
    resumed,
    rows_at_a_time,
    train_index,
)
from fairseq.knn.index.choose import check_kind, new_index, resolved
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import inner_index
from fairseq.knn.shards.deal import block_rows_for, deal
from fairseq.knn.shards.manifest import ShardsManifest, read_shards, shards_path, write_shards
from fairseq.knn.shards.merge import merge_in_memory, merge_on_disk
from fairseq.knn.shards.shard import build_shard
from fairseq.runtime.interrupts import finish_step_first
from fairseq.storage.files import lock_name, locked
from fairseq.storage.outputs import claim_index
from fairseq.storage.stores import lists_name

logger = logging.getLogger(__name__)

MERGES = {"memory": merge_in_memory, "disk": merge_on_disk}


def build_in_shards(store: Datastore, config: BuildConfig, index_path: str | Path) -> list[IndexManifest]:
    """Builds shards of an index, or all of them and the index that they are merged to; returns their manifests.

    Args:
        store: the datastore.
        config: settings; ``num_shards`` says how many, ``shard_id`` which one alone, ``merge`` what becomes of them.
        index_path: of the whole.

    Raises:
        ConfigError: the index cannot be built, or not in shards.
        DatastoreError: another index is there, or shards of another one.
    """
    path = Path(index_path)
    claim_index("", path, overwrite=config.overwrite)
    with _first_come(path):
        config = resolved(config, store, path)
        build, plan = _begun(store, config, path)
    if plan is None:  # merged already
        return [_merged(build)]
    numbers = range(plan.num_shards) if config.shard_id is None else [config.shard_id]
    built = [build_shard(build, plan, number) for number in numbers]
    if config.merge == "none":
        return built
    with locked(path):
        manifest = MERGES[config.merge](build, plan, built)
        remove_shards(path)
    return [manifest]


@contextmanager
def _first_come(path: Path) -> Iterator[None]:
    """Has one job at a time look at what is there, and train what is not; the others wait."""
    if lock_name(path).exists():
        logger.info("%s is locked; waiting for the job that trains or merges it, unless that was killed", path)
    with locked(path, timeout_s=-1):
        yield


def _begun(store: Datastore, config: BuildConfig, path: Path) -> tuple[Build, ShardsManifest | None]:
    """Returns the build and how its rows are dealt, trained before or now; None where the index is merged already.

    Raises:
        ConfigError: an index of this kind has no shards.
        DatastoreError: the name is taken.
    """
    assert config.num_shards is not None
    index = new_index(config, store.dimension)
    build = Build(store, config, path, manifest_of_build(store, config, index))
    check_shardable(index, build.manifest.spec)
    begins_anew = config.overwrite and config.shard_id is None
    if not begins_anew:
        plan = _plan_there(build)
        if _is_merged(build, plan):
            remove_shards(path)
            return build, None
        if plan is not None:
            return build, plan
    block_rows = block_rows_for(store.rows, config.num_shards)
    if store.rows < config.num_shards:
        raise ConfigError(
            f"--num-shards {config.num_shards} is more than the {store.rows} rows of {store.prefix}; lower it"
        )
    check_kind(index, build.manifest.spec, store.rows, rows_at_a_time(build))
    require_room(build, index)
    replace = partial(_remove_index, path) if begins_anew else None
    if resumed(build, "trained") is None:
        with finish_step_first():
            train_index(build, index, replace)
    elif replace is not None:
        replace()
    manifest = read_manifest(manifest_path(build.stage("trained")), IndexManifest)
    assert manifest is not None
    plan = ShardsManifest(
        index=build.manifest,
        trained_sha256=manifest.sha256,
        block_rows=block_rows,
        deal_seed=config.seed,
        rows_of_shards=tuple(deal(store.rows, config.num_shards, block_rows, config.seed)),
        has_rows=config.with_rows,
    )
    write_shards(path, plan)
    return build, plan


def _plan_there(build: Build) -> ShardsManifest | None:
    """Returns how the rows are dealt, if the same build was begun; raises DatastoreError where it was another."""
    path, config = build.path, build.config
    if not shards_path(path).is_file():
        return None
    plan, own = read_shards(path), build.manifest
    instead = ""
    if plan.index.store_id != own.store_id:
        instead = f"of datastore {plan.index.store_id[:12]}, not of {build.store.prefix} ({own.store_id[:12]})"
    elif plan.num_shards != config.num_shards:
        instead = f"for --num-shards {plan.num_shards}, not {config.num_shards}"
    elif plan.index.replace(datastore=own.datastore) != own:
        names = [name for name in own.__struct_fields__ if getattr(own, name) != getattr(plan.index, name)]
        said = [f"{name} {getattr(plan.index, name)}" for name in names if name != "datastore"]
        instead = f"with {', '.join(said)}, not as this command says"
    elif config.with_rows and not plan.has_rows:
        instead = "without --with-rows"
    if instead:
        raise DatastoreError(
            f"{shards_path(path)}: shards of {path} were begun {instead}; give the same flags to go on, or --overwrite"
            " without --shard-id to begin anew"
        )
    return plan


def _is_merged(build: Build, plan: ShardsManifest | None) -> bool:
    """Returns whether the index is there that the shards are to be merged to.

    Raises:
        DatastoreError: another file is in the way.
    """
    path, how = build.path, build.config.merge
    if not path.exists():
        return False
    manifest = read_manifest(manifest_path(path), IndexManifest)
    if manifest is None and plan is not None and how != "none":
        return False  # killed before its manifest was written
    form = "disk" if manifest is not None and manifest.lists else "memory"
    if manifest is not None and build.is_of(manifest) and how == form and manifest.nprobe == build.manifest.nprobe:
        return True
    raise DatastoreError(
        f"{path} exists, as an index in one file; --overwrite without --shard-id replaces it, or give another"
        " --faiss-index"
    )


def _merged(build: Build) -> IndexManifest:
    manifest = read_manifest(manifest_path(build.path), IndexManifest)
    assert manifest is not None
    logger.info("%s is there already, merged from shards of this datastore; nothing to do", build.path)
    return manifest


def check_shardable(index: Any, spec: str) -> None:
    """Raises ConfigError for an index whose rows cannot be put into lists by several builds."""
    inner = inner_index(index)
    held: Any = inner.invlists if isinstance(inner, faiss.IndexIVF) else None
    lists = faiss.downcast_InvertedLists(held) if held is not None else None
    apart = (faiss.IndexIVFPQR, getattr(faiss, "IndexIVFFlatDedup", faiss.IndexIVFPQR))
    if not isinstance(lists, faiss.ArrayInvertedLists) or isinstance(inner, apart):
        raise ConfigError(
            f"{spec} has no plain inverted lists, so that it cannot be built in shards; give --index-spec IVF… with PQ,"
            " SQ or Flat (OPQ or PCA may stand before it), or leave --num-shards out"
        )


def _remove_index(path: Path) -> None:
    """Removes an index, its manifest first, and its shards."""
    for other in (manifest_path(path), path):
        other.unlink(missing_ok=True)
    lists_name(path).unlink(missing_ok=True)
    remove_shards(path)
