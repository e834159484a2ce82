"""A small datastore with clusters, as contexts have, and values that do not fit int16."""

from pathlib import Path
from typing import Any

import numpy as np

from fairseq.knn.datastore.manifest import DatastoreManifest, IndexManifest, Segment
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore, DatastoreWriter

ROWS, WIDTH, VOCABULARY = 1500, 16, 50000


def clustered_keys(rows: int = ROWS, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, width)) * 3
    return (centres[rng.integers(0, 20, rows)] + rng.standard_normal((rows, width))).astype(np.float32)


def values_of(rows: int = ROWS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(39990, 40010, rows)  # above int16


def small_manifest(**changes: Any) -> DatastoreManifest:
    """Returns the manifest of such a datastore that is about to be written."""
    fields = {
        "rows": ROWS,
        "dimension": WIDTH,
        "key_dtype": "float32",
        "value_dtype": "int64",
        "key_type": "last_ffn_input",
        "vocabulary_size": VOCABULARY,
        "dictionary_sha256": "d" * 64,
        "weights_sha256": "w" * 64,
        "settings": {"data": "train", "context_window": 8},
    }
    return DatastoreManifest(**{**fields, **changes})


def write_store(
    directory: Path, name: str = "dstore", keys: Any = None, values: Any = None, **changes: Any
) -> Datastore:
    """Returns a datastore of keys and values, those above by default."""
    keys = clustered_keys() if keys is None else keys
    values = values_of(len(keys)) if values is None else values
    manifest = small_manifest(**{"rows": len(keys), "dimension": keys.shape[1], **changes})
    with DatastoreWriter.create(directory / name, manifest) as writer:
        writer.append(keys, values)
        writer.finish()
    return Datastore.open(directory / name)


def small_index_manifest(**changes: Any) -> IndexManifest:
    """Returns the manifest of an index of ten keys."""
    fields = {
        "spec": "Flat",
        "metric": "l2",
        "dimension": 4,
        "rows": 10,
        "nlist": 0,
        "nprobe": 0,
        "store_id": "a" * 64,
        "seed": 1,
        "sample": 10,
        "faiss_version": "1.9",
        "num_bytes": 0,
        "sha256": "",
    }
    return IndexManifest(**{**fields, **changes})


def grow(store: Datastore, keys: Any, values: Any, name: str = "valid") -> Datastore:
    """Returns a datastore after rows of another text were appended to it."""
    manifest = store.require_manifest()
    added = Segment({"data": name, "data_sha256": name, "context_window": 8}, len(keys), RowRanges.of([[0, len(keys)]]))
    target = manifest.with_segments([*manifest.all_segments, added])
    target = target.replace(state="writing", rows_written=0, keys_sha256=(), values_sha256=())
    keys, values = np.concatenate([store.keys_ND, keys]), np.concatenate([store.values_N, values])
    with DatastoreWriter.create(store.prefix, target, overwrite=True) as writer:
        writer.append(keys, values)
        writer.finish()
    return Datastore.open(store.prefix)
