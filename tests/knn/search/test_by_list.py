"""Searching list by list, beside float64 loops over what FAISS decodes."""

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from fairseq.errors import MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import open_index
from fairseq.knn.search import by_list as list_search
from fairseq.knn.search.by_list import ListSearch
from knnlm import KNN_Dstore
from tests.builders.small_index import small_index
from tests.builders.small_store import ROWS, WIDTH, clustered_keys, write_store

# Distances of up to some hundreds, expanded into products in float32.
TOLERANCE = 1e-3
SPECS = ["IVF24,Flat", "IVF24,SQ8", "IVF24,SQfp16", "IVF24,PQ8x4"]


def make_index(spec: str, keys: np.ndarray, nprobe: int, metric: int = faiss.METRIC_L2):
    index = small_index(keys.shape[1], spec, metric)
    index.train(keys)
    index.add(keys)
    faiss.extract_index_ivf(index).nprobe = nprobe
    return index


def visited(index, query: np.ndarray) -> np.ndarray:
    """Returns the rows of the lists whose centroids are nearest, by float64 distances."""
    centroids = index.quantizer.reconstruct_n(0, index.nlist).astype(np.float64)
    nearest_lists = np.argsort(((centroids - query) ** 2).sum(1))[: index.nprobe]
    ids = [
        faiss.rev_swig_ptr(index.invlists.get_ids(int(n)), index.invlists.list_size(int(n))).copy()
        for n in nearest_lists
        if index.invlists.list_size(int(n))
    ]
    return np.concatenate(ids)


def oracle(index, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 distances and ids of the k nearest decoded rows among those visited."""
    index.make_direct_map()
    rows = visited(index, query)
    distances = ((np.stack([index.reconstruct(int(row)) for row in rows]).astype(np.float64) - query) ** 2).sum(1)
    nearest = np.argsort(distances)[:k]
    return distances[nearest], rows[nearest]


@pytest.mark.parametrize("offset", [0.0, 50.0])
@pytest.mark.parametrize("spec", SPECS)
def test_the_neighbours_that_the_codes_say(spec: str, offset: float) -> None:
    keys, queries = clustered_keys() + np.float32(offset), clustered_keys(40, seed=4) + np.float32(offset)
    index = make_index(spec, keys, 5)
    distances, ids = ListSearch(index).search(queries, 30)
    for n, query in enumerate(queries):
        expected, expected_ids = oracle(index, query, 30)
        assert np.sort(distances[n]) == pytest.approx(expected, abs=TOLERANCE, rel=1e-5)
        # Of rows with the same code any may be taken.
        assert {*ids[n][distances[n] < expected[-1] - 2 * TOLERANCE]} <= {*expected_ids}
        assert len({*ids[n]}) == 30


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("spec", ["IVF24,PQ8x4", "IVF24,SQ8"])
def test_exact_distances_of_the_neighbours_that_the_codes_say(spec: str, dtype: str) -> None:
    keys, queries = clustered_keys().astype(dtype), clustered_keys(40, seed=4)
    search = ListSearch(make_index(spec, keys.astype(np.float32), 5))
    own_ids = search.search(queries, 30)[1]
    distances, ids = search.search(queries, 30, keys)
    assert np.array_equal(ids, own_ids)
    expected = ((keys[ids].astype(np.float64) - queries[:, None]) ** 2).sum(2)
    assert distances == pytest.approx(expected, abs=TOLERANCE)
    # The second search knows the rows' norms from the first.
    again, again_ids = search.search(queries, 30, keys)
    assert np.array_equal(again, distances) and np.array_equal(again_ids, ids)


@pytest.mark.parametrize("most", [1, 700, 5000])
def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    search = ListSearch(make_index("IVF24,SQ8", clustered_keys(), 4))
    queries = clustered_keys(300, seed=4)
    whole, whole_ids = search.search(queries, 20)
    monkeypatch.setattr(list_search, "MOST_DISTANCES", most)
    monkeypatch.setattr(list_search, "CHOSEN_AT_ONCE", 7)
    distances, ids = search.search(queries, 20)
    assert np.sort(distances) == pytest.approx(np.sort(whole), abs=TOLERANCE)
    assert (np.sort(ids) == np.sort(whole_ids)).mean() > 0.999  # ties


def test_fewer_rows_than_neighbours_and_empty_lists() -> None:
    keys = clustered_keys(200)
    index = faiss.index_factory(WIDTH, "IVF50,Flat")
    index.train(keys)
    index.add(keys[:60])
    index.nprobe = 3
    queries = clustered_keys(80, seed=4)
    for given in (None, keys):
        distances, ids = ListSearch(index).search(queries, 100, given)
        for n, query in enumerate(queries):
            rows = visited(index, query) if (ids[n] >= 0).any() else np.empty(0, np.int64)
            assert set(ids[n]) == {*rows, -1}
            assert (ids[n] >= 0).sum() == len(rows)
        assert np.isinf(distances[ids < 0]).all() and np.isfinite(distances[ids >= 0]).all()


@pytest.mark.parametrize(
    ("spec", "metric", "supported"),
    [
        ("IVF8,PQ8x4", faiss.METRIC_L2, True),
        ("IVF8,SQ8", faiss.METRIC_INNER_PRODUCT, False),
        ("Flat", faiss.METRIC_L2, False),
        ("OPQ8,IVF8,PQ8x4", faiss.METRIC_L2, False),
        ("IVF8_HNSW8,Flat", faiss.METRIC_L2, False),
        ("IVF8,PQ8x4fs", faiss.METRIC_L2, False),
    ],
)
def test_what_is_supported(spec: str, metric: int, supported: bool) -> None:
    index = make_index(spec, clustered_keys(), 4, metric) if "IVF" in spec else faiss.index_factory(WIDTH, spec)
    assert ListSearch.supports(index) == supported
    assert ListSearch.pays(index, 10**6) == supported


def test_it_pays_where_lists_are_visited_often(monkeypatch: pytest.MonkeyPatch) -> None:
    index = make_index("IVF24,Flat", clustered_keys(), 6)
    enough = list_search.LEAST_VISITS * 24 // 6
    assert ListSearch.pays(index, enough) and not ListSearch.pays(index, enough - 1)
    monkeypatch.setattr(list_search, "MOST_DISTANCES", (enough - 1) * 6 * ROWS // 24)
    assert not ListSearch.pays(index, 10**6)


@pytest.mark.parametrize(("words", "enough"), [(16, 32), (4, 62), (1, 406)])
def test_short_codes_of_wide_rows_are_looked_up_by_faiss(words: int, enough: int) -> None:
    """By hand: 8 visits of a list, or 3.4 · 16 / (M − 0.029 · 16) if that is more, are 24 / 6 queries each."""
    index = make_index(f"IVF24,PQ{words}x4", clustered_keys(), 6)
    assert ListSearch.pays(index, enough) and not ListSearch.pays(index, enough - 1)
    index.pq.M = 0  # nothing to look up: nothing to save
    assert not ListSearch.pays(index, 10**6)


def test_a_query_of_another_width() -> None:
    with pytest.raises(MismatchError, match=f"must be of shape \\(queries, {WIDTH}\\)"):
        ListSearch(make_index("IVF24,Flat", clustered_keys(), 6)).search(clustered_keys(3, width=8), 5)


@pytest.mark.parametrize(
    "flags", [{}, {"no_load_keys": True, "knn_sim_func": "do_not_recomp_l2"}, {"drop_top1": True}, {"knn_temp": 9.0}]
)
@pytest.mark.parametrize("spec", SPECS)
def test_the_same_probabilities_either_way(make_store, tmp_path, monkeypatch, spec: str, flags) -> None:
    build_index(make_store(), BuildConfig("d", "i", index_spec=spec), tmp_path / "i")
    queries, targets = clustered_keys(400, seed=4), np.resize(np.arange(39990, 40010), 400)
    by_list = KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", KNNConfig(k=50, probe=5, **flags))
    log_p = by_list.log_prob(queries, targets)
    assert by_list._by_list is not None
    monkeypatch.setattr(ListSearch, "pays", lambda index, num_queries: False)
    by_row = KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", KNNConfig(k=50, probe=5, **flags))
    expected = by_row.log_prob(queries, targets)
    assert by_row._by_list is None
    # A tie at the k-th place may go either way.
    close = np.isclose(log_p, expected, atol=2e-3)
    assert close.mean() > 0.99 and np.isfinite(expected).any()


def test_nan_queries_harm_no_others() -> None:
    search = ListSearch(make_index("IVF24,Flat", clustered_keys(), 6))
    queries = clustered_keys(50, seed=4)
    expected, _ = search.search(queries, 5)
    queries[7] = np.nan
    distances, _ = search.search(queries, 5)
    others = np.arange(50) != 7
    assert np.sort(distances[others]) == pytest.approx(np.sort(expected[others]), abs=TOLERANCE)
    assert not np.isfinite(distances[7]).any()


@pytest.mark.parametrize("spec", ["IVF24,Flat", "IVF24,SQ8"])
def test_lists_far_from_each_other_lose_no_digits(spec: str) -> None:
    rng = np.random.default_rng(3)
    middles = rng.normal(size=(24, WIDTH)).astype(np.float32) * 100
    keys, queries = (
        middles[np.arange(n) % 24] + rng.normal(size=(n, WIDTH)).astype(np.float32) / 10 for n in (960, 96)
    )
    quantizer = faiss.IndexFlatL2(WIDTH)
    quantizer.add(middles)
    if spec == "IVF24,Flat":
        index = faiss.IndexIVFFlat(quantizer, WIDTH, 24)
    else:
        index = faiss.IndexIVFScalarQuantizer(quantizer, WIDTH, 24, faiss.ScalarQuantizer.QT_8bit)
    index.train(keys)
    index.add(keys)
    index.nprobe = 2
    distances, ids = ListSearch(index).search(queries, 10, keys)
    expected = ((keys[ids].astype(np.float64) - queries[:, None]) ** 2).sum(2)
    assert distances == pytest.approx(expected, abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("length", [30.0, 1000.0])
@pytest.mark.parametrize("spec", ["IVF4,Flat", "IVF4,SQ8"])
def test_rows_far_from_their_centroids_lose_no_digits(make_store, tmp_path, spec: str, length: float) -> None:
    """Groups of near-duplicates, which the sum of squares cannot tell apart where they are long."""
    rng = np.random.default_rng(5)
    middles = rng.normal(size=(ROWS // 20, WIDTH))
    middles *= length / np.linalg.norm(middles, axis=1, keepdims=True)
    keys = np.repeat(middles, 20, axis=0) + rng.normal(size=(ROWS, WIDTH)) / 10
    queries = (middles[rng.integers(0, len(middles), 400)] + rng.normal(size=(400, WIDTH)) / 10).astype(np.float32)
    store = make_store(keys=keys.astype(np.float32))
    build_index(store, BuildConfig("d", "i", index_spec=spec), tmp_path / "i")
    found = KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", KNNConfig(k=10, probe=2))
    distances, ids = found.search(queries)
    expected = ((store.keys_ND[ids].astype(np.float64) - queries[:, None]) ** 2).sum(2)
    assert distances == pytest.approx(expected, abs=4e-3)
    assert found._by_list is not None and found._by_list.rows_are_near == (length < 100)


def test_threads_take_turns() -> None:
    keys = clustered_keys()
    search = ListSearch(make_index("IVF24,SQ8", keys, 6))
    queries = [clustered_keys(count, seed=count) for count in (100, 700, 300, 500)]
    expected = [search.search(q, 10, keys) for q in queries]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda q: search.search(q, 10, keys), queries * 3))
    for (distances, ids), (wanted, wanted_ids) in zip(found, expected * 3, strict=True):
        assert np.array_equal(distances, wanted) and np.array_equal(ids, wanted_ids)


@pytest.mark.parametrize("name", ["MOST_CHOSEN_FROM", "MOST_VISITS", "MOST_DECODED", "MOST_COPIED"])
def test_little_memory_makes_no_difference(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    keys, queries = clustered_keys(), clustered_keys(60, seed=4)
    expected, _ = ListSearch(make_index("IVF24,SQ8", keys, 4)).search(queries, 20, keys)
    monkeypatch.setattr(list_search, name, 7)
    distances, _ = ListSearch(make_index("IVF24,SQ8", keys, 4)).search(queries, 20, keys)
    assert np.sort(distances) == pytest.approx(np.sort(expected), abs=TOLERANCE)


def test_rows_that_are_no_numbers_are_no_neighbours() -> None:
    keys, queries = clustered_keys(), clustered_keys(20, seed=4)
    bad = keys.copy()
    bad[::3, 0] = np.nan
    index = make_index("IVF24,Flat", keys, 24)
    index.reset()
    index.add(bad)
    distances, ids = ListSearch(index).search(queries, ROWS)
    assert ((ids % 3 != 0) | (ids < 0)).all() and np.isfinite(distances[ids >= 0]).all()
    assert np.isinf(distances[ids < 0]).all() and len(np.unique(ids[0])) == 1 + ROWS - len(keys[::3])


def test_read_only_and_strided_queries_and_none(make_store, tmp_path) -> None:
    build_index(make_store(), BuildConfig("d", "i", index_spec="IVF24,SQ8"), tmp_path / "i")
    neighbours = KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", KNNConfig(k=5, probe=5))
    queries = clustered_keys(200, seed=4)
    expected, _ = neighbours.search(queries)
    strided = np.repeat(queries, 2, axis=1)[:, ::2]
    strided.flags.writeable = False
    assert np.array_equal(neighbours.search(strided)[0], expected)
    assert neighbours.search(queries[:0])[1].shape == (0, 5)


def test_more_neighbours_than_rows_cost_no_memory(make_store, tmp_path) -> None:
    build_index(make_store(), BuildConfig("d", "i", index_spec="IVF24,SQ8"), tmp_path / "i")
    queries, targets = clustered_keys(40, seed=4), np.resize(np.arange(39990, 40010), 40)
    all_rows, more = (
        KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", KNNConfig(k=k, probe=24)).log_prob(queries, targets)
        for k in (ROWS, 2**31 - 2)
    )
    assert np.array_equal(all_rows, more)


def far_rows(middle: np.ndarray, seed: int) -> np.ndarray:
    """Returns six rows of length 1,440, near each other, in a direction in which no other lies."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(WIDTH)
    return (middle + direction * 1440 / np.linalg.norm(direction) + rng.standard_normal((6, WIDTH)) / 8).astype(
        np.float32
    )


def naive_log_p(keys, values, ids, query, target, temperature: float = 1.0) -> float:
    """Returns ln p_kNN(target) of some rows, in float64."""
    distances = ((keys[ids].astype(np.float64) - query) ** 2).sum(1)
    weights = np.exp(-(distances - distances.min()) / temperature)
    return float(np.log(weights[values[ids] == target].sum() / weights.sum()))


@pytest.mark.parametrize("where", ["first", "last", "appended"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_few_rows_far_from_their_centroids_lose_no_digits(spec: str, where: str) -> None:
    """They are in lists of near ones, since the index was trained without them; codes that clip say something else."""
    keys, far = clustered_keys(), far_rows(np.zeros(WIDTH), 6)
    index = make_index(spec, keys, 24)
    rows = np.concatenate([far, keys] if where == "first" else [keys, far])
    if where != "appended":
        index.reset()
        index.add(rows)
    else:
        index.add(far)
    queries = np.concatenate([clustered_keys(40, seed=4), far + np.float32(0.5)])
    search = ListSearch(index)
    index.make_direct_map()
    said = np.stack([index.reconstruct(row) for row in range(len(rows))]).astype(np.float64)
    for given in (rows, None):
        for _ in range(2):  # the second time knows the rows' lengths
            distances, ids = search.search(queries, 30, given)
            of = said if given is None else rows.astype(np.float64)
            expected = ((of[ids] - queries[:, None]) ** 2).sum(2)
            assert distances == pytest.approx(expected, abs=TOLERANCE, rel=1e-6)
    nearest = np.sort(((said - queries[:, None].astype(np.float64)) ** 2).sum(2), axis=1)[:, :30]
    assert np.sort(distances, axis=1) == pytest.approx(nearest, abs=TOLERANCE, rel=1e-6)


@pytest.mark.parametrize("spec", ["IVF64,Flat", "IVF64,SQfp16"])
def test_rare_far_rows_give_the_same_probabilities_alone_and_together(make_store, tmp_path, spec: str) -> None:
    """Six rows of length 1,440 among 20,000, whose queries are near them: a sum of squares is off by some 0.5 there."""
    keys, values = clustered_keys(20_000), np.resize(np.arange(39990, 40010), 20_006)
    build_index(make_store(keys=keys), BuildConfig("d", "i", index_spec=spec), tmp_path / "i")
    index = open_index(tmp_path / "i", nprobe=64)
    far = far_rows(keys[0], 6)
    index.add(far)
    keys = np.concatenate([keys, far])
    found = KNN_Dstore(write_store(tmp_path, "all", keys, values), index, KNNConfig(k=16))
    rng = np.random.default_rng(7)
    queries = np.repeat(far, 70, axis=0) + rng.standard_normal((420, WIDTH)).astype(np.float32) / 4
    targets = values[20_000 + np.arange(420) // 70]
    together = found.log_prob(queries, targets)
    assert found._by_list is not None and found._by_list.rows_are_near
    expected = [
        naive_log_p(keys, values, found.search(query[None])[1][0], query, target)
        for query, target in zip(queries, targets, strict=True)
    ]
    assert together == pytest.approx(np.array(expected), abs=2e-3)
    alone = np.concatenate([found.log_prob(queries[n : n + 1], targets[n : n + 1]) for n in range(0, 420, 20)])
    assert together[::20] == pytest.approx(alone, abs=2e-3)


def test_lists_are_chosen_by_the_distance_to_their_centroids() -> None:
    """Centroids of very different lengths, so that a product with them alone would order them by length."""
    rng = np.random.default_rng(11)
    middles = (rng.standard_normal((40, WIDTH)) * rng.uniform(0.5, 8, (40, 1))).astype(np.float32)
    quantizer = faiss.IndexFlatL2(WIDTH)
    quantizer.add(middles)
    index = faiss.IndexIVFFlat(quantizer, WIDTH, 40)
    index.train(middles)
    index.add(middles)  # each in a list of its own: the lists that are visited are the rows that are found
    index.nprobe = 6
    queries = (rng.standard_normal((50, WIDTH)) * 3).astype(np.float32)
    expected = np.sort(((middles.astype(np.float64) - queries[:, None]) ** 2).sum(2), axis=1)[:, :6]
    distances, ids = ListSearch(index).search(queries, 6)
    assert np.sort(distances, axis=1) == pytest.approx(expected, abs=TOLERANCE, rel=1e-5)
    assert (ids >= 0).all()


@pytest.mark.parametrize(("at_once", "most"), [(3, 1 << 22), (64, 5 * list_search.BLOCK), (3, 5 * list_search.BLOCK)])
def test_queries_are_chosen_together_up_to_either_bound(monkeypatch, at_once: int, most: int) -> None:
    """At most so many queries, and so many distances when each is filled up to the longest; a single one is alone."""
    monkeypatch.setattr(list_search, "CHOSEN_AT_ONCE", at_once)
    monkeypatch.setattr(list_search, "MOST_CHOSEN_FROM", most)
    blocks = np.array([0, 1, 1, 1, 1, 1, 1, 2, 2, 3, 9])
    parts = list_search._chosen_together(blocks)
    assert np.concatenate([np.arange(len(blocks))[part] for part in parts]).tolist() == list(range(len(blocks)))
    for before, part in zip([None, *parts], parts, strict=False):
        count = part.stop - part.start
        assert count <= at_once and (count == 1 or count * blocks[part.stop - 1] * list_search.BLOCK <= most)
        if before is not None:  # and no fewer: one more would not have fitted
            count = before.stop - before.start + 1
            assert count > at_once or count * blocks[before.stop] * list_search.BLOCK > most


def test_queries_are_searched_together_up_to_a_number_of_distances(monkeypatch) -> None:
    monkeypatch.setattr(list_search, "MOST_DISTANCES", 10 * list_search.BLOCK)
    parts = list_search.parts_of(np.array([4, 6, 1, 9, 12, 0, 10, 1]))
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 4), (4, 5), (5, 7), (7, 8)]
