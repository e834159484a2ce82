"""Quick training and filling of inverted lists, beside FAISS's own."""

import json
import logging

import faiss
import numpy as np
import pytest

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest import IndexManifest, read_manifest
from fairseq.knn.index import training as index_training
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.training import Adder, train
from tests.oracles.knn import nearest

LISTS, WIDTH, PARTS = 40, 32, 8
# Of the exact nearest list's squared distance: the directions left out hold 5 % of the centroids' variance.
FARTHER_BUDGET = 1.1
SAME_LIST_BUDGET = 0.9
# Fewer points and rounds cost codes a little of their precision, and searches a little of their recall.
CODE_ERROR_BUDGET = 1.1
CENTROID_BUDGET = 1.1
RECALL_BUDGET = 0.06


def flat_keys(rows: int, seed: int) -> np.ndarray:
    """Returns keys near a plane of few directions, in clusters, off the origin."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(0).standard_normal((6, WIDTH))
    centres = np.random.default_rng(1).standard_normal((60, 6)) * 2
    inner = centres[rng.integers(0, 60, rows)] + rng.standard_normal((rows, 6)) * 0.5
    return (inner @ basis + rng.standard_normal((rows, WIDTH)) * 0.3 + 4).astype(np.float32)


def made(keys: np.ndarray, spec: str, *, quick: bool) -> faiss.Index:
    index = faiss.index_factory(WIDTH, spec)
    train(index, keys, 1, quick=quick)
    Adder(index, quick=quick)(keys)
    return index


def lists_of(index: faiss.Index) -> np.ndarray:
    found = np.full(index.ntotal, -1)
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        if size:
            found[faiss.rev_swig_ptr(index.invlists.get_ids(number), size)] = number
    return found


@pytest.fixture(scope="module")
def truth(keys) -> list[set[int]]:
    return [set(nearest(keys, query, 20)[1].tolist()) for query in flat_keys(10, 7)]


def recall(index: faiss.Index, truth: list[set[int]], nprobe: int) -> float:
    index.nprobe = nprobe
    _, ids = index.search(flat_keys(10, 7), 20)
    return float(np.mean([len(near & set(row.tolist())) / 20 for near, row in zip(truth, ids, strict=True)]))


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    return flat_keys(3000, 5)


@pytest.mark.parametrize("spec", [f"IVF{LISTS},Flat", f"IVF{LISTS},SQ8", f"IVF{LISTS},PQ{PARTS}"])
def test_rows_lie_in_the_nearest_list_or_one_about_as_near(keys, spec):
    index = made(keys, spec, quick=True)
    centroids = index.quantizer.reconstruct_n(0, LISTS).astype(np.float64)
    lists = lists_of(index)
    assert index.ntotal == len(keys) and (lists >= 0).all()
    distances = np.array(
        [[((key - centroid) ** 2).sum() for centroid in centroids] for key in keys[:300].astype(float)]
    )
    own = distances[np.arange(300), lists[:300]]
    assert (lists[:300] == distances.argmin(1)).mean() >= SAME_LIST_BUDGET
    assert own.mean() <= FARTHER_BUDGET * distances.min(1).mean()


def test_centroids_are_as_near_as_those_of_longer_training(keys):
    costs = []
    for quick in (True, False):
        index = made(keys, f"IVF{LISTS},Flat", quick=quick)
        centroids = index.quantizer.reconstruct_n(0, LISTS).astype(np.float64)
        costs.append(np.mean([min(((key - c) ** 2).sum() for c in centroids) for key in keys[:300].astype(np.float64)]))
    assert costs[0] <= CENTROID_BUDGET * costs[1]


def test_codes_are_as_precise_as_those_of_longer_training(keys):
    index = made(keys, f"IVF{LISTS},PQ{PARTS}", quick=True)
    rest = keys - index.quantizer.reconstruct_n(0, LISTS)[lists_of(index)]
    thorough = faiss.ProductQuantizer(WIDTH, PARTS, 8)
    thorough.cp.min_points_per_centroid = 1
    thorough.train(rest)
    errors = [
        ((coder.decode(coder.compute_codes(rest)) - rest).astype(np.float64) ** 2).sum(1).mean()
        for coder in (index.pq, thorough)
    ]
    assert errors[0] <= CODE_ERROR_BUDGET * errors[1]


@pytest.mark.parametrize("spec", [f"IVF{LISTS},Flat", f"IVF{LISTS},PQ{PARTS}x4fs"])
@pytest.mark.parametrize("nprobe", [2, 8])
def test_as_much_is_found_as_after_longer_training(keys, truth, spec, nprobe):
    quick, thorough = (recall(made(keys, spec, quick=q), truth, nprobe) for q in (True, False))
    assert quick >= thorough - RECALL_BUDGET


@pytest.mark.parametrize("spec", [f"IVF{LISTS},PQ{PARTS}", "PQ8", "PCA8,IVF8,PQ4", "IVF8,SQ8", "Flat"])
def test_the_same_seed_gives_the_same_bytes(keys, spec):
    one, two = (faiss.serialize_index(made(keys, spec, quick=True)) for _ in range(2))
    assert np.array_equal(one, two)


def test_the_longer_training_is_faiss_s_own(keys):
    index = faiss.index_factory(WIDTH, f"IVF{LISTS},SQ8")
    index.train(keys)
    index.add(keys)
    ours = made(keys, f"IVF{LISTS},SQ8", quick=False)
    assert np.array_equal(faiss.serialize_index(index), faiss.serialize_index(ours))


def test_as_few_rows_as_lists(keys):
    index = made(keys[:LISTS], f"IVF{LISTS},Flat", quick=True)
    assert index.ntotal == LISTS


def test_keys_that_are_all_the_same():
    index = made(np.ones((500, WIDTH), np.float32), "IVF4,Flat", quick=True)
    assert index.ntotal == 500


def test_gpus_are_used_where_faiss_has_them(keys, monkeypatch):
    """There is none here: a stand-in that counts what it is asked to hold."""
    moved = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: moved.append(type(index)) or index, raising=False)
    for quick, times in ((True, 3), (False, 1)):  # longer training: FAISS's k-means only
        moved.clear()
        index = faiss.index_factory(WIDTH, f"IVF{LISTS},SQ8")
        train(index, keys, 1, quick=quick, gpu=True)
        Adder(index, quick=quick, gpu=True)(keys)
        assert len(moved) == times and index.ntotal == len(keys)
        without = lists_of(made(keys, f"IVF{LISTS},SQ8", quick=quick))
        assert (lists_of(index) == without).mean() >= SAME_LIST_BUDGET  # the same sums, in another order


def config(path, **more) -> BuildConfig:
    return BuildConfig(dstore_mmap="unused", faiss_index=str(path), index_spec="IVF8,SQ8", **more)


def test_gpu_flag_without_a_gpu_warns(make_store, tmp_path, caplog):
    build_index(make_store(), config(tmp_path / "i", gpu_index=True), tmp_path / "i")
    assert "--gpu-index has no effect: FAISS sees no GPU" in caplog.text


def test_effort_is_recorded_and_another_is_made_again(make_store, tmp_path, caplog):
    store, path = make_store(), tmp_path / "i"
    caplog.set_level(logging.INFO)
    assert build_index(store, config(path), path).effort == "quick"
    with pytest.raises(DatastoreError, match="exists"):
        build_index(store, config(path, effort="thorough"), path)
    assert build_index(store, config(path, effort="thorough", overwrite=True), path).effort == "thorough"
    assert "it is made again" in caplog.text


def test_manifests_without_the_field_are_of_the_longer_training(make_store, tmp_path):
    path = tmp_path / "i"
    build_index(make_store(), config(path), path)
    record = json.loads((tmp_path / "i.json").read_text())
    del record["effort"]
    (tmp_path / "i.json").write_text(json.dumps(record))
    found = read_manifest(tmp_path / "i.json", IndexManifest)
    assert found is not None and found.effort == "thorough"
    (tmp_path / "i.json").write_text(json.dumps({**record, "effort": "lazy"}))
    with pytest.raises(DatastoreError, match="'effort' must be quick or thorough"):
        read_manifest(tmp_path / "i.json", IndexManifest)


def test_no_more_rows_are_read_than_are_used(make_store, tmp_path):
    rows = index_training.points_wanted(1)
    store = make_store(keys=np.random.default_rng(0).standard_normal((rows + 500, 4), dtype=np.float32))
    build = BuildConfig(dstore_mmap="unused", faiss_index=str(tmp_path / "i"), index_spec="IVF1,Flat")
    assert build_index(store, build, tmp_path / "i").sample == rows


def test_rows_go_to_the_nearest_list_where_centroids_differ_in_length() -> None:
    """A product with the centroids alone would send every row to a long one."""
    rng = np.random.default_rng(11)
    centroids = (rng.standard_normal((40, WIDTH)) * rng.uniform(0.5, 8, (40, 1))).astype(np.float32)
    rows = (centroids[rng.integers(0, 40, 300)] + rng.standard_normal((300, WIDTH)) / 10).astype(np.float32)
    nearest_N = ((centroids.astype(np.float64) - rows[:, None]) ** 2).sum(2).argmin(1)
    assert np.array_equal(index_training._list_finder(centroids, False)(rows), nearest_N)


def test_another_seed_gives_other_lists_and_other_words(keys) -> None:
    """With all rows in the sample: what differs is where k-means begins."""
    first, again, other = (index_training._centroids(keys, 8, seed, False) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.allclose(np.sort(first, axis=0), np.sort(other, axis=0))
    words = []
    for seed in (1, 1, 2):
        index = faiss.index_factory(WIDTH, f"IVF8,PQ{PARTS}")
        index.quantizer.add(first)
        index_training._train_words(index, keys, seed)
        words.append(faiss.vector_to_array(index.pq.centroids))
    assert np.array_equal(words[0], words[1]) and not np.allclose(words[0], words[2])
