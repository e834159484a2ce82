"""A search in two steps finds what FAISS's own does, and rows that are equally far by number."""

from typing import Any

import faiss
import numpy as np
import pytest

from fairseq.knn.search.by_index import search
from fairseq.knn.search.by_list import ListSearch
from fairseq.knn.search.distances import pair_distances, ties_by_id
from fairseq.knn.search.preassigned import ASSIGN_BLOCK, assign, inverted_file, search_lists
from tests.builders.small_index import small_index
from tests.builders.small_store import clustered_keys

KEYS = clustered_keys(1200, 8)
QUERIES = clustered_keys(ASSIGN_BLOCK + 60, 8, seed=5)


def filled(spec: str, keys: Any = KEYS, metric: int = faiss.METRIC_L2) -> Any:
    index = small_index(keys.shape[1], spec, metric)
    index.train(keys)
    index.add(keys)
    if (inverted := inverted_file(index)) is not None:
        inverted.nprobe = 4
    return index


@pytest.mark.parametrize("spec", ["IVF8,Flat", "IVF8,PQ4", "OPQ4_8,IVF8,SQ8", "Flat", "SQ8"])
@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_what_faiss_finds(spec: str, metric: int) -> None:
    index = filled(spec, metric=metric)
    near_NK, ids_NK = search(index, QUERIES, 30)
    expected_NK, expected_ids_NK = index.search(QUERIES, 30)
    sign = -1 if metric == faiss.METRIC_INNER_PRODUCT else 1
    assert np.allclose(near_NK, sign * expected_NK, rtol=1e-5, atol=1e-4)
    # Codes of few bits are the same for several rows; which of these FAISS takes is its own choice.
    has_no_ties_N = (np.diff(np.sort(near_NK, axis=1)) > 1e-3).all(axis=1)
    assert has_no_ties_N.sum() > 50
    assert np.array_equal(ids_NK[has_no_ties_N], expected_ids_NK[has_no_ties_N])


@pytest.mark.parametrize("spec", ["IVF4,Flat", "Flat"])
@pytest.mark.parametrize("k", [1, 7, 40, 90])
def test_rows_that_are_equally_far_come_by_number(spec: str, k: int) -> None:
    """Small whole numbers, whose distances are exact, from all lists."""
    rng = np.random.default_rng(k)
    keys = rng.integers(0, 3, (5, 4)).astype(np.float32)[rng.integers(0, 5, 80)]
    queries = rng.integers(0, 3, (30, 4)).astype(np.float32)
    ids_NK = search(filled(spec, keys), queries, k)[1]
    for query, ids in zip(queries, ids_NK, strict=True):
        d = ((keys - query) ** 2).sum(1)
        expected = np.lexsort((np.arange(80), d))[:k]
        assert ids[: len(expected)].tolist() == expected.tolist() and (ids[len(expected) :] == -1).all()


@pytest.mark.parametrize("k", [1, 7, 40])
def test_list_by_list_takes_the_first_rows_too(k: int) -> None:
    """Rows of one key are as far to the last digit; others only nearly, since distances are sums of products."""
    rng = np.random.default_rng(k)
    keys = rng.standard_normal((5, 4)).astype(np.float32)[rng.integers(0, 5, 80)]
    queries = rng.standard_normal((200, 4)).astype(np.float32)
    index = filled("IVF4,Flat", keys)
    ids_NK = ListSearch(index).search(queries, k)[1]
    for query, ids in zip(queries, ids_NK, strict=True):
        d = ((keys - query) ** 2).sum(1)
        assert sorted(ids.tolist()) == sorted(np.lexsort((np.arange(80), d))[:k].tolist())


def test_some_rows_alone_are_found() -> None:
    index = filled("IVF8,Flat")
    wanted = faiss.IDSelectorRange(100, 700)
    assigned = assign(index, QUERIES[:50], 8)
    near_NK, ids_NK = search_lists(index, assigned, 20, wanted)
    d_NR = ((QUERIES[:50, None] - KEYS[None, 100:700]) ** 2).sum(2)
    assert np.allclose(near_NK, np.sort(d_NR, axis=1)[:, :20], rtol=1e-5, atol=1e-4)
    assert ((ids_NK >= 100) & (ids_NK < 700)).all()


def test_ties_by_id() -> None:
    near_NK = np.array([[1, 1, 1, 2], [1, 2, 2, np.inf], [np.inf] * 4], np.float32)
    ids_NK = np.array([[9, 3, 5, 1], [8, 7, 6, -1], [-1] * 4])
    places, order = ties_by_id(near_NK, ids_NK)
    np.put(ids_NK, places, ids_NK.take(places)[order])
    assert ids_NK.tolist() == [[3, 5, 9, 1], [8, 6, 7, -1], [-1] * 4]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("inner_product", [False, True])
def test_distances_of_pairs(dtype: Any, inner_product: bool) -> None:
    keys, rng = KEYS.astype(dtype), np.random.default_rng(0)
    query_P, row_P = rng.integers(0, 9, 500), rng.integers(0, len(keys), 500)
    found_P = pair_distances(keys, QUERIES[:9], query_P, row_P, inner_product=inner_product)
    pairs = QUERIES[query_P].astype(np.float64), keys[row_P].astype(np.float64)
    expected_P = -(pairs[0] * pairs[1]).sum(1) if inner_product else ((pairs[0] - pairs[1]) ** 2).sum(1)
    assert np.allclose(found_P, expected_P, rtol=1e-5, atol=1e-4)
