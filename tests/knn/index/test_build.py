"""Building, resuming, opening and searching indexes."""

import logging

import faiss
import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index import build as index_module
from fairseq.knn.index.build import build_index, sample_keys
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import open_index, set_nprobe
from fairseq.knn.inspect.info import describe
from fairseq.knn.search import distances as search_module
from fairseq.knn.search.by_index import search
from fairseq.knn.search.distances import recompute_distances
from tests.builders.small_store import ROWS, WIDTH, clustered_keys, values_of
from tests.oracles.knn import distance, nearest

# float32 sums of 16 squares in another order.
DISTANCE_TOLERANCE = 1e-4
# IVFPQ with every list visited: of the 10 nearest rows, most are among the 50 that it returns.
RECALL_BUDGET = 0.9
SMALL_PQ = dict(ncentroids=8, code_size=8, num_keys_to_add_at_a_time=400)


def config(path, **more) -> BuildConfig:
    return BuildConfig(dstore_mmap="unused", faiss_index=str(path), **more)


def build(store, path, **more):
    return build_index(store, config(path, **more), path)


def test_flat_equals_the_oracle(make_store, tmp_path):
    store = make_store()
    assert build(store, tmp_path / "i", index_spec="Flat").rows == ROWS
    queries = clustered_keys(5, seed=3)
    distances, ids = search(open_index(tmp_path / "i"), queries, 12)
    for n, query in enumerate(queries):
        expected_distances, expected_ids = nearest(store.keys_ND, query, 12)
        assert ids[n].tolist() == expected_ids.tolist()
        assert distances[n] == pytest.approx(expected_distances, rel=DISTANCE_TOLERANCE)


@pytest.mark.parametrize("spec", ["HNSW32", "HNSW32,SQ8"])
def test_a_graph_is_an_index_like_others(make_store, tmp_path, spec):
    store = make_store()
    assert build(store, tmp_path / "i", index_spec=spec, num_keys_to_add_at_a_time=400).rows == ROWS
    queries = clustered_keys(20, seed=3)
    true = [{*nearest(store.keys_ND, query, 10)[1]} for query in queries]
    own = faiss.index_factory(WIDTH, spec)
    own.train(clustered_keys())
    own.add(clustered_keys())
    found, faiss_s = (
        np.mean([len(rows & {*row}) / 10 for rows, row in zip(true, ids, strict=True)])
        for ids in (search(open_index(tmp_path / "i"), queries, 10)[1], own.search(queries, 10)[1])
    )
    assert found >= faiss_s - 0.05, "as good as a graph that FAISS builds of the same keys"
    assert dict(describe(str(tmp_path / "i"))[1])["keys"] == ROWS


def test_default_index_and_its_recall(make_store, tmp_path):
    store = make_store()
    made = build(store, tmp_path / "i", **SMALL_PQ)
    assert (made.spec, made.nlist, made.rows, made.store_id) == ("IVF8,PQ8", 8, ROWS, store.store_id)
    opened = open_index(tmp_path / "i", nprobe=8)
    assert isinstance(opened, faiss.IndexIVFPQ) and opened.nprobe == 8
    queries = clustered_keys(40, seed=3)
    _, ids = search(opened, queries, 50)
    recall = np.mean(
        [len(set(nearest(store.keys_ND, q, 10)[1]) & set(row)) / 10 for q, row in zip(queries, ids, strict=True)]
    )
    assert recall >= RECALL_BUDGET
    assert sorted(p.name for p in tmp_path.glob("i*")) == ["i", "i.json", "i.trained", "i.trained.json"]


@pytest.mark.pitfall(6)
def test_interrupted_build_goes_on_to_the_same_bytes(make_store, tmp_path, monkeypatch, caplog):
    store = make_store()
    build(store, tmp_path / "whole", **SMALL_PQ)
    rename = index_module.save_index

    def killed_at_800(index, path, manifest, *more):
        saved = rename(index, path, manifest, *more)
        if manifest.rows == 800:
            raise KeyboardInterrupt
        return saved

    monkeypatch.setattr(index_module, "save_index", killed_at_800)
    with pytest.raises(KeyboardInterrupt):
        build(store, tmp_path / "part", **SMALL_PQ, save_interval_s=0)
    assert not (tmp_path / "part").exists()
    monkeypatch.setattr(index_module, "save_index", rename)
    caplog.set_level(logging.INFO)
    build(store, tmp_path / "part", **SMALL_PQ, starting_point=3)
    assert "with 800 keys" in caplog.text
    assert (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not list(tmp_path.glob("part.partial*"))


@pytest.mark.pitfall(10)
def test_trained_index_of_another_store_is_not_used(make_store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    build(make_store(), tmp_path / "i", **SMALL_PQ)
    build(Datastore.open(tmp_path / "dstore"), tmp_path / "i", **SMALL_PQ, overwrite=True)
    assert "going on from" in caplog.text
    caplog.clear()
    other = make_store("other", keys=clustered_keys(seed=9), weights_sha256="z" * 64)
    build(other, tmp_path / "i", **SMALL_PQ, overwrite=True)
    assert "made again" in caplog.text and "going on from" not in caplog.text
    caplog.clear()
    build(other, tmp_path / "i", **{**SMALL_PQ, "ncentroids": 4}, overwrite=True)
    assert "made again" in caplog.text
    (tmp_path / "i.trained.json").unlink()  # K's file: nobody knows whose it is
    caplog.clear()
    build(other, tmp_path / "i", **{**SMALL_PQ, "ncentroids": 4}, overwrite=True)
    assert "going on from" not in caplog.text


def test_complete_index_is_not_replaced(make_store, tmp_path):
    store = make_store()
    made = build(store, tmp_path / "i", index_spec="Flat")
    before = (tmp_path / "i").stat()
    assert build(store, tmp_path / "i", index_spec="Flat") == made  # the same build again: nothing to do
    assert (tmp_path / "i").stat() == before
    with pytest.raises(
        DatastoreError,
        match=r"exists, of datastore .* with Flat \(this build: IVF8,PQ8\); give the --index-spec that it was built"
        r" with \(Flat, or auto\) to keep it; --overwrite",
    ):
        build(store, tmp_path / "i", **SMALL_PQ)
    with pytest.raises(DatastoreError, match=r"\(this build: SQ8\); --overwrite"):
        build(store, tmp_path / "i", index_spec="SQ8")
    (tmp_path / "i.json").unlink()
    with pytest.raises(DatastoreError, match="exists; --overwrite"):
        build(store, tmp_path / "i", index_spec="Flat")
    assert (tmp_path / "i").stat() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(ncentroids=4096), "need 4096 rows to train on, but there are 1500"),
        (dict(ncentroids=4, train_sample=100), "need 256 rows to train on, but there are 100"),
        (dict(code_size=5), "--code-size 5 must divide the key width 16; try 4, or --index-spec auto"),
        (dict(index_spec="Nonsense"), "--index-spec Nonsense must be .*; give auto, Flat or inverted lists, such as"),
        (dict(index_spec="PQ7"), "--index-spec PQ7 must be|PQ7 cannot"),
        (dict(index_spec="IDMap,Flat"), "takes no rows in order"),
    ],
)
def test_specifications_that_do_not_suit(make_store, tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        build(make_store(), tmp_path / "i", **{"code_size": 8, **more})
    assert not (tmp_path / "i").exists()


def test_few_rows_for_the_lists_warns(make_store, tmp_path, caplog):
    build(make_store(), tmp_path / "i", index_spec="IVF100,Flat")
    assert "1500 rows are few" in caplog.text


@pytest.mark.pitfall(16)
def test_sample_is_in_file_order_and_without_repeats(make_store):
    store = make_store()
    sample = sample_keys(store, 700, seed=1)
    keys = {row.tobytes(): n for n, row in enumerate(store.keys_ND)}
    rows = [keys[row.tobytes()] for row in sample]
    assert rows == sorted(set(rows)) and len(rows) == 700
    assert np.array_equal(sample, sample_keys(store, 700, seed=1))
    assert not np.array_equal(sample, sample_keys(store, 700, seed=2))


@pytest.mark.parametrize("spec", ["OPQ4,IVF8,PQ4x4", "PCA8,IVF8,Flat", "IVF8,SQ8", "IVF8,PQ8x4,RFlat"])
@pytest.mark.pitfall(8)
def test_nprobe_reaches_the_lists(make_store, tmp_path, spec):
    store = make_store()
    build(store, tmp_path / "i", index_spec=spec)
    queries = clustered_keys(30, seed=4)
    found = []
    for nprobe in (1, 8):
        opened = open_index(tmp_path / "i", nprobe=nprobe)
        assert faiss.extract_index_ivf(opened).nprobe == nprobe
        found.append((search(opened, queries, ROWS)[1] >= 0).sum())
    assert found[0] < found[1] == 30 * ROWS


def test_nprobe_behind_an_id_map():
    index = faiss.IndexIDMap(faiss.index_factory(8, "PCA4,IVF4,Flat"))
    assert set_nprobe(index, 3) and faiss.extract_index_ivf(index).nprobe == 3


def test_probe_without_lists_is_mentioned(make_store, tmp_path, caplog):
    """8 is the default, which nobody need have asked for."""
    caplog.set_level("INFO")
    build(make_store(), tmp_path / "i", index_spec="Flat")
    open_index(tmp_path / "i", nprobe=8)
    assert "--probe" not in caplog.text
    open_index(tmp_path / "i", nprobe=9)
    assert "--probe 9 has no effect" in caplog.text


def test_gpu_flag_without_a_gpu_warns(make_store, tmp_path, caplog):
    build(make_store(), tmp_path / "i", index_spec="Flat")
    open_index(tmp_path / "i", gpu=True)
    assert "--gpu-index has no effect" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\0root:x:0:0", b"IwPQ" + b"\xff" * 64, b"IxF2" + bytes(20)])
def test_foreign_and_torn_files(tmp_path, content):
    (tmp_path / "i").write_bytes(content)
    with pytest.raises(DatastoreError, match="must be a FAISS index, but cannot be read") as caught:
        open_index(tmp_path / "i")
    assert "\n" not in str(caught.value) and "index_read.cpp" not in str(caught.value)


@pytest.mark.pitfall(9)
def test_metric_empty_and_missing(make_store, tmp_path):
    build(make_store(), tmp_path / "i", **SMALL_PQ)
    with pytest.raises(MismatchError, match="metric l2, but --faiss-metric-type is ip"):
        open_index(tmp_path / "i", metric="ip")
    with pytest.raises(DatastoreError, match=r"has no keys \(a \.trained file\?\)"):
        open_index(tmp_path / "i.trained")
    with pytest.raises(DatastoreError, match="does not exist"):
        open_index(tmp_path / "none")


@pytest.mark.pitfall(7)
def test_fewer_rows_than_k_gives_minus_one(make_store, tmp_path):
    build(make_store(), tmp_path / "i", index_spec="Flat")
    distances, ids = search(open_index(tmp_path / "i"), clustered_keys(2), ROWS + 5)
    assert (ids[:, -5:] == -1).all() and np.isinf(distances[:, -5:]).all() and np.isfinite(distances[:, :-5]).all()
    assert search(open_index(tmp_path / "i"), clustered_keys(2)[:0], 3)[1].shape == (0, 3)
    with pytest.raises(MismatchError, match=r"shape \(queries, 16\)"):
        search(open_index(tmp_path / "i"), np.zeros((2, 8), np.float32), 3)


@pytest.mark.parametrize("inner_product", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.pitfall(16)
def test_recomputed_distances(dtype, inner_product):
    keys, queries = clustered_keys().astype(dtype), clustered_keys(7, seed=5)
    ids = np.random.default_rng(0).integers(0, ROWS, (7, 33))
    ids[3, 4] = ids[0, 0] = -1
    ids[5] = -1
    distances = recompute_distances(keys, queries, ids, inner_product=inner_product)
    for n in range(7):
        for j in range(33):
            if ids[n, j] < 0:
                assert distances[n, j] == np.inf
            else:
                expected = distance(keys[ids[n, j]], queries[n], inner_product)
                assert distances[n, j] == pytest.approx(expected, rel=DISTANCE_TOLERANCE, abs=DISTANCE_TOLERANCE)
    one_by_one = [
        recompute_distances(keys, queries[n : n + 1], ids[n : n + 1], inner_product=inner_product)[0] for n in range(7)
    ]
    assert np.array_equal(distances, np.stack(one_by_one))
    by_column = recompute_distances(np.asfortranarray(keys), queries, ids, inner_product=inner_product)
    assert np.array_equal(distances, by_column)


@pytest.mark.parametrize("inner_product", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("read_at_once", [1, 40 * WIDTH, ROWS * WIDTH])
@pytest.mark.parametrize("fits", [True, False])
def test_distances_in_the_order_of_the_file(monkeypatch, dtype, inner_product, read_at_once, fits):
    """Whatever is read at once, and however many rows are wanted: to the bit what a query alone gets."""
    keys, queries = clustered_keys().astype(dtype), clustered_keys(60, seed=5)
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.integers(0, ROWS, (30, ROWS // 20)), rng.integers(0, ROWS // 9, (30, ROWS // 20))])
    ids[rng.random(ids.shape) < 0.1] = -1
    monkeypatch.setattr(search_module, "READ_AT_ONCE", read_at_once)
    monkeypatch.setattr(search_module, "fits_memory", lambda _: fits)
    orders = []
    whole = search_module._from_stretches
    monkeypatch.setattr(search_module, "_from_stretches", lambda *given: orders.append(len(given[1])) or whole(*given))

    def alone(n: int) -> np.ndarray:
        return recompute_distances(keys, queries[n : n + 1], ids[n : n + 1], inner_product=inner_product)[0]

    assert np.array_equal(
        recompute_distances(keys, queries, ids, inner_product=inner_product), np.stack([alone(n) for n in range(60)])
    )
    few = recompute_distances(keys, queries[:2], ids[:2], inner_product=inner_product)
    assert np.array_equal(few, np.stack([alone(0), alone(1)]))
    assert orders == ([60] if fits else [60, 2])


def test_store_of_the_older_tools_has_an_identity(make_store, tmp_path):
    make_store("a"), make_store("b", keys=clustered_keys(seed=9))
    for name in "ab":
        (tmp_path / f"{name}.json").unlink()
    known = dict(dimension=WIDTH, vocabulary_size=50000)
    a, b = Datastore.open(tmp_path / "a", **known), Datastore.open(tmp_path / "b", **known)
    assert a.store_id == Datastore.open(tmp_path / "a", **known).store_id != b.store_id
    assert np.array_equal(a.values_N, values_of())
    assert build(a, tmp_path / "i", index_spec="Flat").replace(store_id=b.store_id).rows == ROWS


@pytest.mark.parametrize("spec", [dict(index_spec="Flat"), SMALL_PQ])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_keys_that_are_not_finite_are_named(make_store, tmp_path, spec, value):
    """They have become so behind an open datastore: one that is opened then may be told by its fingerprint."""
    store = make_store()
    keys = np.memmap(tmp_path / "dstore_keys.npy", np.float32, "r+").reshape(ROWS, -1)
    keys[1234, 3] = value
    keys.flush()
    with pytest.raises(DatastoreError, match=r"keys.npy: (row 1234 is|there are keys that are) not finite \(1 in"):
        build(store, tmp_path / "i", **spec)
    assert not (tmp_path / "i").exists()


def test_an_unfinished_index_says_how_far_it_is(make_store, tmp_path, monkeypatch):
    store = make_store()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index_module, "asked_to_stop", lambda: True)
        patch.setattr(index_module, "check", lambda advice: raise_interrupt())
        build(store, tmp_path / "i", index_spec="Flat", num_keys_to_add_at_a_time=400)
    with pytest.raises(DatastoreError, match="i is unfinished: its build has saved 400 keys; run"):
        open_index(tmp_path / "i")


def raise_interrupt():
    raise KeyboardInterrupt


@pytest.mark.pitfall(10)
def test_a_damaged_trained_index_is_made_again(make_store, tmp_path, caplog):
    store, config = make_store(), BuildConfig("d", "i", index_spec="IVF8,SQ8")
    build_index(store, config, tmp_path / "i")
    expected = (tmp_path / "i").read_bytes()
    (tmp_path / "i").unlink()
    (tmp_path / "i.json").unlink()
    trained = bytearray((tmp_path / "i.trained").read_bytes())
    trained[len(trained) // 2] ^= 1
    (tmp_path / "i.trained").write_bytes(trained)
    build_index(store, config, tmp_path / "i")
    assert "i.trained is damaged" in caplog.text
    assert (tmp_path / "i").read_bytes() == expected
