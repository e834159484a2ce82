"""``KNN_Dstore``: the pieces together, and against the artefacts of the original programs."""

import shutil
import subprocess
import sys
from dataclasses import replace

import faiss
import numpy as np
import pytest
import torch

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.config import DumpConfig
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import open_index
from fairseq.knn.neighbours.dstore import _check_found
from fairseq.knn.search.by_index import search
from fairseq.models.protocol import ModelIdentity
from knnlm import KNN_Dstore
from tests.builders.small_store import ROWS, VOCABULARY, WIDTH, clustered_keys, values_of
from tests.oracles.knn import distance, knn_probability, nearest

# p from float32 distances of about 30 that are exact to 1e-6 of themselves.
LOG_P_TOLERANCE = 1e-4


@pytest.fixture
def flat(make_store, tmp_path):
    store = make_store()
    build_index(store, BuildConfig("d", "i", index_spec="Flat"), tmp_path / "i")
    return tmp_path


def oracle(queries, target, k, temperature=1.0, skip=0):
    keys, values = clustered_keys(), values_of()
    out = []
    for query, token in zip(queries, target, strict=True):
        d, ids = nearest(keys, query, k + skip)
        out.append(knn_probability(d[skip:], ids[skip:], values[ids[skip:]], token, temperature))
    with np.errstate(divide="ignore"):
        return np.log(out)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"knn_temp": 10.0},
        {"no_load_keys": True, "knn_sim_func": "do_not_recomp_l2"},
        {"move_dstore_to_mem": True},
        {"map_index": True},
        {"drop_top1": True},
    ],
)
@pytest.mark.pitfall(24)
def test_log_prob_equals_the_oracle(flat, flags):
    dstore = KNN_Dstore.open(flat / "dstore", flat / "i", k=20, **flags)
    queries = clustered_keys(6, seed=4) if "drop_top1" not in flags else clustered_keys()[:6]
    target = np.array([39990, 39995, 40000, 40001, 40002, 40003])
    expected = oracle(queries, target, 20, flags.get("knn_temp", 1.0), skip=int("drop_top1" in flags))
    assert dstore.log_prob(queries, target) == pytest.approx(expected, rel=LOG_P_TOLERANCE, abs=LOG_P_TOLERANCE)


@pytest.mark.parametrize("flags", [{"k": 90}, {"k": 8, "rerank": 90}, {"k": 8, "rerank": 89, "drop_top1": True}])
def test_no_more_neighbours_at_once_than_are_allowed(flat, monkeypatch, flags):
    dstore = KNN_Dstore.open(flat / "dstore", flat / "i", **flags)
    queries, target, asked = clustered_keys(40, seed=4), np.full(40, 39995), []
    expected, found = dstore.log_prob(queries, target), dstore.found
    monkeypatch.setattr("fairseq.knn.neighbours.neighbour_source.MOST_NEIGHBOURS", 1000)
    monkeypatch.setattr(dstore, "found", lambda queries, k: asked.append(len(queries) * k) or found(queries, k))
    assert dstore.log_prob(queries, target) == pytest.approx(expected, rel=1e-6)
    assert sum(asked) == 40 * 90 and max(asked) <= 1000


@pytest.mark.parametrize("flags", [{}, {"knn_temp": 10.0}, {"knn_sim_func": "dot"}, {"k": ROWS + 100}])
def test_the_distribution_over_every_word_is_what_targets_are_scored_by(flat, flags):
    dstore = KNN_Dstore.open(flat / "dstore", flat / "i", **{"k": 20, **flags})
    queries = clustered_keys(5, seed=4)
    log_p = dstore.next_log_prob(torch.tensor(queries), VOCABULARY)
    assert isinstance(log_p, torch.Tensor) and log_p.shape == (5, VOCABULARY)
    for target in np.unique(values_of())[::20].tolist():
        one = dstore.log_prob(queries, np.full(5, target))
        assert log_p[:, target].numpy() == pytest.approx(one, rel=LOG_P_TOLERANCE, abs=LOG_P_TOLERANCE)
    assert log_p.double().exp().sum(1).numpy() == pytest.approx(1, abs=1e-5)


def test_torch_in_torch_out(flat):
    dstore = KNN_Dstore.open(flat / "dstore", flat / "i", KNNConfig(k=30))
    queries, target = clustered_keys(5, seed=4), np.full(5, 40000)
    log_p = dstore.log_prob(torch.tensor(queries), torch.tensor(target))
    assert isinstance(log_p, torch.Tensor) and log_p.dtype == torch.float32
    assert np.array_equal(log_p.numpy(), dstore.log_prob(queries, target))
    half = dstore.log_prob(torch.tensor(queries).half(), torch.tensor(target))
    assert half.dtype == torch.float32
    distances, ids = dstore.search(torch.tensor(queries), k=7)
    assert distances.shape == ids.shape == (5, 7) and bool((distances.diff(dim=1) >= 0).all())


def test_dot(flat):
    dstore = KNN_Dstore.open(flat / "dstore", flat / "i", k=10, knn_sim_func="dot")
    queries = clustered_keys(2, seed=4)
    distances, ids = dstore.search(queries)
    for n, j in np.ndindex(2, 10):
        assert distances[n, j] == pytest.approx(distance(clustered_keys()[ids[n, j]], queries[n], True), rel=1e-4)


def test_k_beyond_the_store(flat):
    dstore = KNN_Dstore.open(flat / "dstore", flat / "i", k=ROWS + 100)
    queries, target = clustered_keys(2, seed=4), np.array([40000, 7])
    log_p = dstore.log_prob(queries, target)
    assert log_p[0] == pytest.approx(oracle(queries[:1], target[:1], ROWS)[0], abs=LOG_P_TOLERANCE)
    assert log_p[1] == -np.inf


def test_blocks_of_queries_do_not_matter(flat, monkeypatch):
    dstore = KNN_Dstore.open(flat / "dstore", flat / "i", k=16)
    queries, target = clustered_keys(10, seed=4), np.arange(39995, 40005)
    whole = dstore.log_prob(queries, target)
    monkeypatch.setattr("fairseq.knn.neighbours.neighbour_source.QUERY_BLOCK", 3)
    assert dstore.log_prob(queries, target) == pytest.approx(whole, rel=1e-5)
    assert dstore.log_prob(queries[:0], target[:0]).shape == (0,)


def test_what_does_not_belong_together(flat, make_store, caplog):
    def opened(prefix="dstore", **flags):
        return KNN_Dstore.open(flat / prefix, flat / "i", k=4, **flags)

    make_store("other", keys=clustered_keys(seed=8), weights_sha256="o" * 64)
    make_store("short", keys=clustered_keys()[:100])
    with pytest.raises(MismatchError, match="was built from datastore"):
        opened("other")
    opened("other", allow_mismatch=True)
    assert "was built from datastore" in caplog.text
    with pytest.raises(MismatchError, match=r"has 1500 keys, but .*short was opened with 100 rows"):
        opened("short", allow_mismatch=True)
    with pytest.raises(MismatchError, match="width 16, but this run has 1024"):
        opened(model=ModelIdentity(key_dimension=1024))
    for name, value in (("dictionary_sha256", "x"), ("weights_sha256", "x"), ("vocabulary_size", 267744)):
        with pytest.raises(MismatchError, match="was written with"):
            opened(model=ModelIdentity(**{name: value}))
    with pytest.raises(ConfigError, match="did you mean probe"):
        opened(prob=3)
    with pytest.raises(MismatchError, match="metric l2"):
        opened(faiss_metric_type="ip")
    with pytest.raises(DatastoreError, match="opened without keys"):
        KNN_Dstore(Datastore.open(flat / "dstore", load_keys=False), open_index(flat / "i"))


@pytest.mark.pitfall(9)
def test_inner_product_index_ranks_the_nearest_first(flat):
    index = faiss.IndexFlatIP(WIDTH)
    index.add(clustered_keys())
    faiss.write_index(index, str(flat / "ip"))
    dstore = KNN_Dstore.open(flat / "dstore", flat / "ip", k=5, faiss_metric_type="ip")
    query = clustered_keys(1, seed=4)
    distances, ids = dstore.search(query)
    best = np.argsort(-(clustered_keys() @ query[0]))[:5]
    assert ids[0].tolist() == best.tolist() and (np.diff(distances[0]) >= 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KNNConfig(knnlm=True), "give --dstore-filename and --indexfile"),
        (lambda: KNNConfig(knnlm=True, indexfile="i"), "give --dstore-filename as well"),
        (lambda: KNNConfig(no_load_keys=True), "add --knn-sim-func do_not_recomp_l2"),
        (lambda: KNNConfig(no_load_keys=True, knn_sim_func="dot"), "inner products"),
        (lambda: KNNConfig(knn_temp=0.0), "--knn-temp must be above 0"),
        (lambda: KNNConfig(knn_temp=float("nan")), "--knn-temp must be at least 1e-09"),
        (lambda: KNNConfig(knn_temp=float("inf")), "--knn-temp must be at least 1e-09, and finite"),
        (lambda: DumpConfig(save_knnlm_dstore=True), "give --dstore-mmap"),
        (lambda: BuildConfig(faiss_index="i"), "--dstore-mmap is required"),
    ],
)
def test_flags_that_do_not_go_together(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_config_imports_neither_torch_nor_faiss_nor_numpy():
    code = "import sys, fairseq.knn.config; assert not {'torch', 'faiss', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="session")
def golden_store(golden_dir, tmp_path_factory):
    """The original's values in the original's layout, and the keys of the sampled rows in their places."""
    directory = tmp_path_factory.mktemp("golden")
    sample = np.load(golden_dir / "dstore_sample.npz")
    values = np.load(golden_dir / "dstore_vals_all.npy")
    values.astype(np.int64).tofile(directory / "dstore_vals.npy")
    return directory / "dstore", sample["rows"], sample["keys"], values


def test_golden_index_finds_the_rows_own_keys(golden_dir, golden_store):
    _, rows, keys, _ = golden_store
    index = open_index(golden_dir / "knn.index", nprobe=32)
    assert (index.ntotal, index.d, index.nlist, index.nprobe) == (340968, 256, 2336, 32)
    _, ids = search(index, keys[:300], 10)
    assert np.mean((ids == rows[:300, None]).any(axis=1)) > 0.99


def test_golden_index_with_a_store_of_the_original(golden_dir, golden_store):
    prefix, rows, keys, values = golden_store
    config = KNNConfig(no_load_keys=True, knn_sim_func="do_not_recomp_l2", probe=32)
    dstore = KNN_Dstore.open(prefix, golden_dir / "knn.index", config, ModelIdentity(vocabulary_size=16304))
    assert (dstore.datastore.rows, dstore.datastore.dimension) == (340968, 256)
    own = values[rows[:16]].astype(np.int64)
    log_p = dstore.log_prob(torch.tensor(keys[:16]), torch.tensor(own))
    distances, ids = dstore.search(keys[:16])
    expected = [knn_probability(*row, 1.0) for row in zip(distances, ids, values[ids], own, strict=True)]
    assert log_p.numpy() == pytest.approx(np.log(expected), abs=LOG_P_TOLERANCE)
    # Where the row itself cannot vote, its word is less sure, but the neighbours still know something.
    without = KNN_Dstore(dstore.datastore, dstore.index, replace(config, drop_top1=True))
    assert float(without.log_prob(keys[:16], own).mean()) < float(log_p.mean())
    with pytest.raises(DatastoreError, match="has no keys"):
        KNN_Dstore.open(prefix, golden_dir / "knn.index.trained", config)


def test_a_store_larger_than_memory_has_the_same_neighbours(make_store, tmp_path, monkeypatch):
    """Lists are searched list by list all the same, and the keys read in the order of the file."""
    store = make_store()
    build_index(store, BuildConfig("d", "i", index_spec="IVF4,SQ8"), tmp_path / "i")
    found = KNN_Dstore.open(store.prefix, tmp_path / "i", k=ROWS // 40, probe=3)
    queries, target = clustered_keys(90, seed=4), values_of()[:90]
    expected, expected_log_p = found.search(queries), found.log_prob(queries, target)
    read = []
    for place in ("fairseq.knn.neighbours.dstore", "fairseq.knn.search.distances"):
        monkeypatch.setattr(f"{place}.fits_memory", lambda size: read.append(size))
    distances, ids = found.search(queries)
    assert set(read) == {ROWS * WIDTH * 4}
    assert (ids == expected[1]).mean() > 0.99  # ties
    np.testing.assert_allclose(distances, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.log_prob(queries, target), expected_log_p, atol=LOG_P_TOLERANCE)


def test_a_key_that_was_found_and_is_not_finite_is_an_error_and_a_distance_beyond_float32_is_none(tmp_path):
    keys = np.array([[0, 0], [3e38, 3e38], [np.nan, 0], [np.inf, 0]], np.float32)
    queries = np.array([[1, 1], [np.nan, 1]], np.float32)

    def found(n, row):
        distance, ids = np.array([[np.inf]], np.float32), np.array([[row]])
        _check_found(tmp_path / "d", keys, queries[n : n + 1], distance, ids)

    for n, row in ((0, 1), (1, 0), (1, 2), (0, -1)):
        found(n, row)
    for row in (2, 3):
        with pytest.raises(DatastoreError, match=f"d_keys.npy: row {row} is not finite"):
            found(0, row)
    _check_found(tmp_path / "d", keys, queries[:1], np.array([[1.0]], np.float32), np.array([[2]]))  # not looked at


def test_another_index_under_the_name_of_ours_is_refused_or_named(flat, make_store, caplog):
    other = make_store("other", keys=clustered_keys(seed=8))
    build_index(other, BuildConfig("d", "i", index_spec="Flat"), flat / "other.index")
    shutil.copy(flat / "other.index", flat / "i")
    with pytest.raises(MismatchError, match="i is not the file that"):
        KNN_Dstore.open(flat / "dstore", flat / "i")
    found = KNN_Dstore.open(flat / "dstore", flat / "i", allow_mismatch=True)
    assert "i is not the file that" in caplog.text and found.rows == ROWS


@pytest.mark.parametrize(
    ("flags", "read", "remedy"),
    [
        ({}, ("i",), "leave the index in its file with map_index=True, or build a smaller one"),
        (
            {"move_dstore_to_mem": True},
            ("i", "dstore_vals.npy", "dstore_keys.npy"),
            "leave move_dstore_to_mem=True out",
        ),
        (
            {"move_dstore_to_mem": True, "no_load_keys": True, "knn_sim_func": "do_not_recomp_l2"},
            ("i", "dstore_vals.npy"),
            "leave move_dstore_to_mem=True out",
        ),
    ],
)
def test_what_is_read_into_memory_must_fit(flat, monkeypatch, flags, read, remedy):
    needed = sum((flat / name).stat().st_size for name in read)
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr("fairseq.runtime.resources.free_memory_bytes", lambda free=free: free)
        if fits:
            assert KNN_Dstore.open(flat / "dstore", flat / "i", **flags).rows == ROWS
            continue
        with pytest.raises(ConfigError, match=remedy) as caught:
            KNN_Dstore.open(flat / "dstore", flat / "i", **flags)
        assert all(str(flat / name) in str(caught.value) for name in read)


@pytest.mark.parametrize("in_memory", [False, True])
def test_what_was_moved_to_memory_needs_its_files_no_more(flat, in_memory):
    dstore = KNN_Dstore.open(flat / "dstore", flat / "i", k=20, move_dstore_to_mem=in_memory)
    queries, target = clustered_keys(3, seed=4), np.array([39990, 39995, 40000])
    for end in ("keys", "vals"):
        with (flat / f"dstore_{end}.npy").open("r+b") as file:
            file.write(bytes((flat / f"dstore_{end}.npy").stat().st_size))
    log_p, expected = dstore.log_prob(queries, target), oracle(queries, target, 20)
    assert bool(np.allclose(log_p, expected, rtol=LOG_P_TOLERANCE, atol=LOG_P_TOLERANCE)) is in_memory


def test_as_many_lists_are_searched_as_are_asked_for_whatever_the_index_was_built_with(make_store, tmp_path):
    build_index(make_store(), BuildConfig("d", "i", index_spec="IVF20,Flat", probe=1), tmp_path / "i")
    query = clustered_keys(3, seed=4)
    exact = [nearest(clustered_keys(), one, 100)[1].tolist() for one in query]
    for probe, all_found in ((20, True), (1, False)):
        found = KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", k=100, probe=probe).search(query)[1]
        assert (found.tolist() == exact) is all_found


def test_places_beyond_the_rows_are_no_neighbours_and_are_not_searched_for(flat, monkeypatch):
    dstore, asked = KNN_Dstore.open(flat / "dstore", flat / "i", k=ROWS + 100, drop_top1=True), []
    found, queries = dstore.found, clustered_keys(3, seed=4)
    monkeypatch.setattr(dstore, "found", lambda queries, k: asked.append(k) or found(queries, k))
    distances, ids = dstore.search(queries)
    votes = dstore.votes(queries, np.array([40000, 7, 39990])).nearest_first()
    assert asked == [ROWS] * 2
    for got_distances, got_ids in ((distances, ids), (votes.distances_NK, votes.ids_NK)):
        assert got_ids.shape == got_distances.shape == (3, ROWS + 100)
        for query, near_K, ids_K in zip(queries, got_distances, got_ids, strict=True):
            expected, rows = nearest(clustered_keys(), query, ROWS)
            assert sorted(ids_K[: ROWS - 1]) == sorted(rows[1:]) and (ids_K[ROWS - 1 :] == -1).all()
            assert near_K[: ROWS - 1] == pytest.approx(expected[1:], rel=1e-4, abs=1e-4)
            assert np.isinf(near_K[ROWS - 1 :]).all()
    assert not votes.hits_NK[:, ROWS - 1 :].any() and votes.hits_NK.shape == (3, ROWS + 100)
