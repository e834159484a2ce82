"""What is wrong with an index in shards, for ``fairseq-knnlm check``: that all are there, whole, and of one index."""

from pathlib import Path

import numpy as np

from fairseq.knn.datastore.format import keys_path, values_path
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.index.faiss_index import read_index, stored_ids
from fairseq.knn.shards.manifest import ShardsManifest, shard_path
from fairseq.storage.files import file_sha256
from fairseq.storage.fingerprint import fingerprint


def shards_there(path: Path, plan: ShardsManifest) -> list[int]:
    """Returns the numbers of the shards whose manifests are there and of this index."""
    return [number for number in range(plan.num_shards) if _said_of(path, plan, number) is not None]


def _said_of(path: Path, plan: ShardsManifest, number: int) -> IndexManifest | None:
    manifest = read_manifest(manifest_path(shard_path(path, number, plan.num_shards)), IndexManifest)
    if manifest is None or manifest.of_no_file() != plan.of_shard(number).of_no_file():
        return None
    return manifest


def row_map_problem(path: Path, plan: ShardsManifest) -> str | None:
    """Returns what is wrong with the row map of an index in shards."""
    pairs = RowRanges.of(pair for rows in plan.rows_of_shards for pair in rows.pairs).pairs
    whole = [[0, plan.index.rows]]
    return None if pairs == whole else f"the row map of {path} has the rows {pairs[:4]}, but must have {whole}"


def trained_problem(path: Path, plan: ShardsManifest) -> str | None:
    """Returns what is wrong with the trained index, by which a search chooses lists."""
    trained = Path(f"{path}.trained")
    if not trained.is_file():
        return f"{trained} is not there; restore it, or build the shards again with --overwrite"
    same = file_sha256(trained) == plan.trained_sha256
    return None if same else f"{trained} is not what the shards began with; restore it, or build them again"


def shard_problem(path: Path, plan: ShardsManifest, number: int, *, fast: bool) -> str | None:
    """Returns what is wrong with a shard.

    Args:
        path: of the whole index.
        plan: how its rows are dealt.
        number: of the shard.
        fast: compare fingerprints, not every byte, nor the ids in its lists.
    """
    shard, manifest = shard_path(path, number, plan.num_shards), _said_of(path, plan, number)
    again = f"build it again with --num-shards {plan.num_shards} --shard-id {number} --overwrite"
    if manifest is None:
        other = manifest_path(shard).is_file()
        return f"{shard} is {'of another index' if other else 'not there, or unfinished'}; {again}"
    if not shard.is_file():
        return f"{shard} is not there; {again}"
    if shard.stat().st_size != manifest.num_bytes:
        return f"{shard} must have {manifest.num_bytes} bytes by its manifest; remove it, and {again}"
    same = fingerprint(shard) == manifest.fingerprint if fast else file_sha256(shard) == manifest.sha256
    if not same:
        return f"{shard} is not the file that its manifest was written for; remove it, and {again}"
    if plan.has_rows:
        files = (keys_path(shard), values_path(shard))
        found = tuple(fingerprint(file) if file.is_file() else "" for file in files)
        if found != manifest.rows_fingerprints:
            return f"{files[0]} or {files[1].name} is not there, or is another file; {again}"
    if not fast and not _has_its_rows(shard, plan.rows_of_shards[number]):
        return f"{shard} does not have the rows that the row map gives it; {again}"
    return None


def _has_its_rows(shard: Path, rows: RowRanges) -> bool:
    """Returns whether the lists of a shard hold each of its rows once."""
    index, is_there_N = read_index(shard, mapped=True), np.zeros(rows.num_rows, bool)
    for ids in stored_ids(index):
        if not rows.holds(ids).all():
            return False
        is_there_N[rows.place_of(ids)] = True
    return bool(is_there_N.all()) and index.ntotal == rows.num_rows
