"""An index in shards, and the same one in a file, made with FAISS alone."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fairseq.knn.datastore.format import keys_path, values_path
from fairseq.knn.datastore.manifest import manifest_path, write_manifest
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.faiss_index import write_index
from fairseq.knn.shards.deal import deal
from fairseq.knn.shards.manifest import ShardsManifest, shard_path, write_shards
from fairseq.storage.files import file_sha256
from fairseq.storage.fingerprint import fingerprint
from tests.builders.small_index import small_index
from tests.builders.small_store import small_index_manifest

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}


def trained_index(store: Datastore, spec: str, metric: str = "l2") -> Any:
    """Returns an index of the store's width that is trained on its keys, without rows."""
    index = small_index(store.dimension, spec, METRICS[metric])
    faiss.extract_index_ivf(index).cp.min_points_per_centroid = 1
    index.train(np.asarray(store.keys_ND, np.float32))
    return index


def write_whole(store: Datastore, trained: Any, path: Path, spec: str, metric: str = "l2") -> Path:
    """Writes the index of all rows in one file, and returns its name."""
    index = faiss.clone_index(trained)
    index.add(np.asarray(store.keys_ND, np.float32))
    _write(index, path, _manifest(store, trained, spec, metric, store.rows))
    return path


def write_in_shards(
    store: Datastore,
    trained: Any,
    path: Path,
    count: int,
    spec: str,
    metric: str = "l2",
    *,
    block_rows: int = 16,
    has_rows: bool = False,
    contiguous: bool = False,
) -> Path:
    """Writes the index of all rows in shards, and returns its name.

    Args:
        store: datastore.
        trained: index without rows.
        path: name of the whole.
        count: shards.
        spec: of the index.
        metric: l2 or ip.
        block_rows: rows that are dealt together.
        has_rows: each shard has its own keys and values beside it.
        contiguous: each shard has rows that follow each other, instead.
    """
    keys_ND, values_N = np.asarray(store.keys_ND), np.asarray(store.values_N)
    rows_of_shards = deal(store.rows, count, block_rows, seed=1)
    if contiguous:
        cuts = np.linspace(0, store.rows, count + 1).astype(int).tolist()
        rows_of_shards = [RowRanges.of([pair]) for pair in pairwise(cuts)]
    write_index(trained, Path(f"{path}.trained"))
    whole = _manifest(store, trained, spec, metric, store.rows)
    shards = ShardsManifest(
        index=whole,
        trained_sha256=file_sha256(Path(f"{path}.trained")),
        block_rows=block_rows,
        deal_seed=1,
        rows_of_shards=tuple(rows_of_shards),
        has_rows=has_rows,
    )
    write_shards(path, shards)
    for number, rows in enumerate(rows_of_shards):
        index, own, ids = faiss.clone_index(trained), shard_path(path, number, count), rows.ids()
        index.add_with_ids(np.asarray(keys_ND[ids], np.float32), ids)
        manifest = shards.of_shard(number)
        if has_rows:
            keys_ND[ids].tofile(keys_path(own))
            values_N[ids].tofile(values_path(own))
            copies = fingerprint(keys_path(own)), fingerprint(values_path(own))
            manifest = manifest.replace(rows_fingerprints=copies)
        _write(index, own, manifest)
    return path


def _manifest(store: Datastore, trained: Any, spec: str, metric: str, rows: int) -> Any:
    inverted = faiss.extract_index_ivf(trained)
    return small_index_manifest(
        spec=spec,
        metric=metric,
        dimension=store.dimension,
        rows=rows,
        nlist=inverted.nlist,
        nprobe=inverted.nprobe,
        store_id=store.rows_id,
        faiss_version=faiss.__version__,
    )


def _write(index: Any, path: Path, manifest: Any) -> None:
    write_index(index, path)
    write_manifest(manifest_path(path), manifest.of_file(path))


def without_files(store: Datastore) -> Datastore:
    """Returns a datastore as one has it that has only its manifest."""
    return replace(store, keys_ND=None, values_N=np.empty(0, np.int64))
