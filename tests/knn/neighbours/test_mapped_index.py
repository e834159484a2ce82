"""An index that stays in its file: the same neighbours as of one in memory, and what cannot be mapped."""

import re
from pathlib import Path

import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.manifest import manifest_path
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import lists_visited, stored_ids
from fairseq.knn.search.mapped_lists import MappedListSearch
from fairseq.knn.shards.build import build_in_shards
from knnlm import KNN_Dstore
from tests.builders.small_store import ROWS, clustered_keys, write_store

SPECS = ["Flat", "HNSW8", "IVF24,Flat", "IVF24,PQ8x4", "PCA8,IVF24,SQ8"]
NOT_SOUND = "i is not known to be sound, as map_index=True needs it"


@pytest.fixture
def store(tmp_path: Path) -> Datastore:
    return write_store(tmp_path)


def build(store: Datastore, spec: str) -> Path:
    path = store.prefix.parent / "i"
    build_index(store, BuildConfig("d", "i", index_spec=spec), path)
    return path


def open_both(store: Datastore, path: Path, k: int = 60) -> tuple[KNN_Dstore, KNN_Dstore]:
    """Returns the datastore with its index in memory, and mapped."""
    in_memory, mapped = (KNN_Dstore.open(store.prefix, path, k=k, probe=5, map_index=is_mapped) for is_mapped in (0, 1))
    return in_memory, mapped


@pytest.mark.parametrize("spec", SPECS)
def test_a_mapped_index_finds_the_same_rows_at_the_same_distances(store: Datastore, spec: str) -> None:
    in_memory, mapped = open_both(store, build(store, spec))
    queries = clustered_keys(6, seed=4)  # too few to be searched list by list
    for found, expected in zip(mapped.search(queries), in_memory.search(queries), strict=True):
        assert np.array_equal(found, expected)
    assert lists_visited(mapped.index) == lists_visited(in_memory.index)


@pytest.mark.parametrize("flags", [{}, {"no_load_keys": True, "knn_sim_func": "do_not_recomp_l2"}])
def test_many_queries_are_searched_list_by_list(store: Datastore, flags: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    path, queries = build(store, "IVF24,Flat"), clustered_keys(200, seed=4)
    target, searched = np.full(200, 40000), []
    expected = KNN_Dstore.open(store.prefix, path, k=60, probe=5, **flags).log_prob(queries, target)
    search = MappedListSearch.search
    monkeypatch.setattr(MappedListSearch, "search", lambda *given: searched.append(given) or search(*given))
    mapped = KNN_Dstore.open(store.prefix, path, k=60, probe=5, map_index=True, **flags)
    np.testing.assert_allclose(mapped.log_prob(queries, target), expected, atol=2e-3)
    assert len(searched) == 1


@pytest.mark.parametrize("spec", SPECS)
def test_forgotten_rows_are_not_found(store: Datastore, spec: str) -> None:
    path, forgotten = build(store, spec), RowRanges.of([[0, 400], [900, 1200]])
    in_memory, mapped = open_both(store, path)
    before = path.read_bytes()
    in_memory, mapped = (
        KNN_Dstore(
            Datastore(**{**vars(source.datastore), "forgotten": forgotten}),
            source.index,
            source.config,
            distinct_ids=True,
        )
        for source in (in_memory, mapped)
    )
    for queries in (clustered_keys(6, seed=4), clustered_keys(300, seed=4)):
        found, expected = (np.sort(source.search(queries, 20)[0]) for source in (mapped, in_memory))
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert not forgotten.holds(mapped.search(queries, 20)[1]).any()
    assert path.read_bytes() == before


def test_lists_in_a_file_of_their_own_are_mapped_without_the_flag(store: Datastore) -> None:
    path, queries = store.prefix.parent / "i", clustered_keys(300, seed=4)
    config = BuildConfig("d", "i", index_spec="IVF24,SQ8", num_shards=2, merge="disk", train_sample=1000)
    build_in_shards(store, config, path)
    exact = np.sort(((store.keys_ND.astype(np.float64) - queries[0]) ** 2).sum(1))
    for source in open_both(store, path):
        assert source.is_mapped and MappedListSearch.pays(source.index, 300)
        distances, ids = source.search(queries)
        assert distances[0] == pytest.approx(((store.keys_ND[ids[0]].astype(np.float64) - queries[0]) ** 2).sum(1))
        assert distances[0, 0] == pytest.approx(exact[0], rel=1e-4)
        few = source.search(queries[:4])  # by FAISS
        np.testing.assert_allclose(few[0], distances[:4], atol=1e-2)


def test_ids_of_a_mapped_index_are_not_read(store: Datastore, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = build(store, "IVF24,Flat"), []
    monkeypatch.setattr(
        "fairseq.knn.index.faiss_index.stored_ids", lambda index: read.append(index) or stored_ids(index)
    )
    KNN_Dstore.open(store.prefix, path, map_index=True)
    assert not read
    KNN_Dstore.open(store.prefix, path)
    assert read


def test_an_index_that_is_not_known_to_be_sound(store: Datastore) -> None:
    path = build(store, "IVF24,Flat")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(DatastoreError, match=NOT_SOUND):
        KNN_Dstore.open(store.prefix, path, map_index=True, allow_mismatch=True)
    path.write_bytes(whole)
    manifest_path(path).unlink()
    with pytest.raises(DatastoreError, match=NOT_SOUND):
        KNN_Dstore.open(store.prefix, path, map_index=True)


@pytest.mark.parametrize("spec", ["PQ8x4fs", "IVF24,PQ8x4fs"])
def test_codes_that_faiss_reads_whole(store: Datastore, spec: str) -> None:
    path = build(store, spec)
    with pytest.raises(ConfigError, match=re.escape(f"map_index=True cannot leave {path} in its file")):
        KNN_Dstore.open(store.prefix, path, map_index=True)


def test_an_index_larger_than_memory_opens_mapped_alone(store: Datastore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build(store, "Flat")
    monkeypatch.setattr("fairseq.runtime.resources.free_memory_bytes", lambda: path.stat().st_size // 5)
    with pytest.raises(ConfigError, match="leave the index in its file with map_index=True"):
        KNN_Dstore.open(store.prefix, path)
    assert KNN_Dstore.open(store.prefix, path, map_index=True).rows == ROWS
    with pytest.raises(ConfigError, match=r"leave move_dstore_to_mem=True out$"):
        KNN_Dstore.open(store.prefix, path, map_index=True, move_dstore_to_mem=True)


def test_either_the_disk_or_the_gpu() -> None:
    with pytest.raises(ConfigError, match="--map-index leaves the index on the disk, --gpu-index copies it"):
        KNNConfig(map_index=True, gpu_index=True)
