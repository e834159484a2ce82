"""Kinds of index that FAISS's factory knows: each is built, served, extended and compacted, or refused before that."""

from pathlib import Path

import numpy as np
import pytest

from fairseq.errors import ConfigError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.forgotten import write_forgotten
from fairseq.knn.datastore.manifest import manifest_path, write_manifest
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.append import append_to_index
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.maintain.compact import compact
from knnlm import KNN_Dstore
from tests.builders.small_store import clustered_keys, grow, values_of, write_store

FORGOTTEN = RowRanges.of([[5, 90], [390, 420]])
CANNOT_GIVE_UP = "which cannot give up rows"
# What ends it, and where: every kind not named here goes the whole way.
SPECS = {
    "Flat": "",
    "SQfp16": "",
    "PQ4x4": "",
    "IVF8,Flat": "",
    "IVF8,PQ4x4": "",
    "IVF8,PQ8x4fs": "",
    "IVF8,PQ8x4fsr": "",
    "OPQ8,IVF8,PQ8x4fs": "",
    "PCAR8,IVF8,PQ4x4fs": "",
    "IVF8_HNSW4,PQ8x4fs": "",
    "HNSW4": CANNOT_GIVE_UP,
    "IVF8,PQ4+4": CANNOT_GIVE_UP,
    "OPQ8_8,IVF8,PQ4x4,RFlat": CANNOT_GIVE_UP,
}


def found_rows(root: Path, probe: int = 8) -> np.ndarray:
    found = KNN_Dstore.open(root / "dstore", root / "i", KNNConfig(k=40, probe=probe))
    return found.search(clustered_keys(20, seed=4))[1]


@pytest.mark.parametrize("spec", SPECS)
def test_the_whole_way(tmp_path: Path, spec: str) -> None:
    keys, more = clustered_keys(400), clustered_keys(80, seed=9)
    build_index(write_store(tmp_path, keys=keys), BuildConfig("d", "i", index_spec=spec), tmp_path / "i")
    assert found_rows(tmp_path).max() < 400
    store = grow(Datastore.open(tmp_path / "dstore"), more, values_of(80))
    assert append_to_index(store, BuildConfig("d", "i", append=True), tmp_path / "i").rows == 480
    assert found_rows(tmp_path).max() >= 400
    manifest = store.require_manifest()
    forgotten = manifest.replace(forgotten=write_forgotten(tmp_path / "dstore", FORGOTTEN))
    write_manifest(manifest_path(tmp_path / "dstore"), forgotten)
    assert not FORGOTTEN.holds(found_rows(tmp_path)).any()
    if not SPECS[spec]:
        compact(tmp_path / "dstore", [tmp_path / "i"], 60.0)
        rows = found_rows(tmp_path)
        assert rows.max() < 480 - FORGOTTEN.num_rows and (rows >= 0).any()
        return
    with pytest.raises(ConfigError, match=SPECS[spec]):
        compact(tmp_path / "dstore", [tmp_path / "i"], 60.0)
    assert not list(tmp_path.glob("*compact*"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("IDMap,Flat", "takes no rows in order, but with ids"),
        ("PCA8,IDMap2,IVF8,Flat", "takes no rows in order, but with ids"),
        ("IVF8,FlatDedup", "keeps equal keys once"),
        ("ZnLattice4x4_8", "writes no rows"),
        ("NSG8", "takes all 400 rows at once and none later, but 100 are added at a time"),
    ],
)
def test_what_takes_no_rows_in_order_is_refused_before_it_is_trained(tmp_path: Path, spec: str, words: str) -> None:
    store = write_store(tmp_path, keys=clustered_keys(400))
    with pytest.raises(ConfigError, match=words):
        build_index(store, BuildConfig("d", "i", index_spec=spec, num_keys_to_add_at_a_time=100), tmp_path / "i")
    assert not list(tmp_path.glob("i*"))


def test_rows_are_not_added_to_a_graph_that_takes_none(tmp_path: Path) -> None:
    build_index(
        write_store(tmp_path, keys=clustered_keys(400)), BuildConfig("d", "i", index_spec="NSG8"), tmp_path / "i"
    )
    before = (tmp_path / "i").read_bytes()
    store = grow(Datastore.open(tmp_path / "dstore"), clustered_keys(80, seed=9), values_of(80))
    with pytest.raises(ConfigError, match="takes all 480 rows at once and none later"):
        append_to_index(store, BuildConfig("d", "i", append=True), tmp_path / "i")
    assert (tmp_path / "i").read_bytes() == before and found_rows(tmp_path).max() < 400


def test_the_old_index_serves_after_rows_were_appended(tmp_path: Path, caplog) -> None:
    """Until they are added to it, with the rows that it has: the same numbers as before, and a word."""
    build_index(write_store(tmp_path), BuildConfig("d", "i", index_spec="IVF8,SQ8"), tmp_path / "i")
    queries, target = clustered_keys(60, seed=4), np.resize(np.arange(39990, 40010), 60)
    before = KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", KNNConfig(k=40))
    expected, store_id = before.log_prob(queries, target), before.identity()["store_id"]
    grow(Datastore.open(tmp_path / "dstore"), clustered_keys(80, seed=4), values_of(80))
    after = KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", KNNConfig(k=40))
    assert "has the first 1500 of 1580 rows" in caplog.text and "--append adds them" in caplog.text
    assert after.rows == 1500 and after.identity()["store_id"] == store_id
    assert np.array_equal(after.log_prob(queries, target), expected)
    later = grow(Datastore.open(tmp_path / "dstore"), clustered_keys(30, seed=5), values_of(30), "test")
    assert KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i").rows == 1500
    forgotten = write_forgotten(tmp_path / "dstore", RowRanges.of([[0, 1000], [1550, 1560]]))
    write_manifest(manifest_path(tmp_path / "dstore"), later.require_manifest().replace(forgotten=forgotten))
    rows = KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", KNNConfig(k=40, probe=8)).search(queries)[1]
    assert rows.min() >= 1000 and rows.max() < 1500
