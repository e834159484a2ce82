"""Exact neighbours, and the recall that is measured against them, beside naive ones."""

import faiss
import numpy as np
import pytest

from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.index.build import build_index, read_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.inspect.index import measure_recall
from fairseq.knn.inspect.store import find_bad_keys
from fairseq.knn.search import exact
from fairseq.knn.search.exact import exact_neighbours
from fairseq.knn.search.recall import recall_of
from fairseq.runtime.progress import Progress
from tests.builders.small_store import ROWS, clustered_keys
from tests.oracles.knn import distance, nearest, recall

# FAISS expands |x − y|² into products in float32: sums of some hundreds lose the last digits.
DISTANCE_TOLERANCE = 1e-3


def silent(total: int = ROWS) -> Progress:
    return Progress("test", total, "rows")


@pytest.mark.parametrize("block_rows", [7, 100, ROWS, 10**6])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch, block_rows: int, dtype: str) -> None:
    keys, queries = clustered_keys().astype(dtype), clustered_keys(9, seed=3)
    monkeypatch.setattr(exact, "BLOCK_BYTES", 4 * keys.shape[1] * block_rows)
    progress, sizes, search = silent(), [], faiss.knn
    monkeypatch.setattr(faiss, "knn", lambda *given, **more: (sizes.append(len(given[1])), search(*given, **more))[1])
    distances, ids = exact_neighbours(keys, queries, 30, progress)
    assert progress.n == ROWS and max(sizes) == min(block_rows, ROWS)
    for n, query in enumerate(queries):
        expected, expected_ids = nearest(keys.astype(np.float64), query, 30)
        assert distances[n] == pytest.approx(expected, abs=DISTANCE_TOLERANCE)
        assert set(ids[n]) == set(expected_ids)


def test_inner_products_and_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, queries = clustered_keys(40), clustered_keys(3, seed=3)
    monkeypatch.setattr(exact, "BLOCK_BYTES", 4 * keys.shape[1] * 6)
    distances, ids = exact_neighbours(keys, queries, 40, silent(40), inner_product=True)
    products = -queries.astype(np.float64) @ keys.astype(np.float64).T
    assert np.array_equal(ids, np.argsort(products, axis=1))
    assert distances == pytest.approx(np.sort(products, axis=1), abs=DISTANCE_TOLERANCE)


@pytest.mark.parametrize("inner_product", [False, True])
def test_recall_counts_what_is_as_near_as_the_nearest(inner_product: bool) -> None:
    """Keys are small whole numbers, so that many rows are equally far, and distances are exact in every order."""
    rng = np.random.default_rng(5)
    keys, queries = (rng.integers(-2, 3, (rows, 4)).astype(np.float32) for rows in (90, 12))
    _, nearest_NK = exact_neighbours(keys, queries, 10, silent(90), inner_product=inner_product)
    tied = nearest_NK.copy()
    for ids, query in zip(tied, queries, strict=True):  # in the place of the farthest, another that is as far
        distances = [distance(key, query, inner_product) for key in keys]
        others = [row for row in range(90) if row not in ids and distances[row] == distances[ids[-1]]]
        ids[-1] = others[0] if others else ids[-1]
    assert (tied != nearest_NK).any()
    twice = nearest_NK.copy()
    twice[:, 1] = twice[:, 0]
    far = np.where(rng.random(tied.shape) < 0.3, rng.permuted(np.tile(np.arange(90), (12, 1)), axis=1)[:, :10], tied)
    none = np.where(rng.random(tied.shape) < 0.3, -1, tied)
    for found in (nearest_NK, tied, twice, far, none):
        expected = recall(keys, queries, found.tolist(), 10, inner_product)
        assert recall_of(keys, queries, found, nearest_NK, inner_product=inner_product) == pytest.approx(expected)
    assert recall_of(keys, queries, tied, nearest_NK, inner_product=inner_product) == 1
    assert recall_of(keys, queries, twice, nearest_NK, inner_product=inner_product) == 0.9


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_recall(make_store, tmp_path, dtype: str) -> None:
    store = make_store(key_dtype=dtype)
    build_index(store, BuildConfig("d", "i", index_spec="Flat"), tmp_path / "flat")
    found = measure_recall(read_index(tmp_path / "flat"), store, 50, 64)
    assert (found.queries, found.k, found.recall, found.missing, found.found_itself) == (50, 64, 1.0, 0.0, 1.0)

    half = faiss.IndexIDMap(faiss.IndexFlatL2(store.dimension))
    even = np.arange(0, ROWS, 2)
    half.add_with_ids(np.ascontiguousarray(store.keys_ND[even], np.float32), even)
    found = measure_recall(half, store, ROWS, ROWS)
    assert (found.k, found.recall, found.missing) == (ROWS, 0.5, 0.5)
    assert found.found_itself == pytest.approx(0.5)


def test_rows_that_equal_each_other_count_as_found(make_store, tmp_path) -> None:
    store = make_store(keys=np.repeat(clustered_keys(100), 15, axis=0))
    build_index(store, BuildConfig("d", "i", index_spec="Flat"), tmp_path / "flat")
    found = measure_recall(read_index(tmp_path / "flat"), store, 200, 10)
    assert (found.recall, found.found_itself) == (1.0, 1.0)


def test_bad_keys_are_counted_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = clustered_keys(50)
    keys[7, 3], keys[31, 0], keys[20], keys[44:] = np.nan, np.inf, 0, 0
    monkeypatch.setattr("fairseq.knn.inspect.store.BLOCK_BYTES", 4 * keys.shape[1] * 9)
    not_finite, zero, filled = find_bad_keys(keys, silent(50))
    assert (not_finite.count, not_finite.first, zero.count, zero.first, filled) == (2, 7, 7, 20, 44)


@pytest.mark.parametrize("block_rows", [100, ROWS])
def test_forgotten_rows_are_nobodys_neighbours_and_all_others_may_be(monkeypatch, block_rows: int) -> None:
    """A whole block of 100 is forgotten, one in part, and none of the others."""
    keys, queries = clustered_keys(), clustered_keys(9, seed=3)
    monkeypatch.setattr(exact, "BLOCK_BYTES", 4 * keys.shape[1] * block_rows)
    forgotten = RowRanges.of([[100, 250], [1490, 1500]])
    left = np.flatnonzero(~((np.arange(ROWS) >= 100) & (np.arange(ROWS) < 250) | (np.arange(ROWS) >= 1490)))
    distances, ids = exact_neighbours(keys, queries, 30, silent(), forgotten=forgotten)
    for n, query in enumerate(queries):
        expected, expected_ids = nearest(keys[left].astype(np.float64), query, 30)
        assert distances[n] == pytest.approx(expected, abs=DISTANCE_TOLERANCE)
        assert set(ids[n]) == set(left[expected_ids])
