"""Which numbers of a row are its smallest, beside a stable sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.knn.search import distances
from fairseq.knn.search.distances import recompute_distances, smallest
from tests.builders.small_store import ROWS, clustered_keys

FEW = st.sampled_from([-1.0, 0.0, 2.5, np.inf, np.nan])  # so that equal ones meet the bound


@given(st.integers(1, 5).flatmap(lambda c: st.lists(st.lists(FEW, min_size=c, max_size=c), min_size=1, max_size=4)))
@settings(max_examples=300)
def test_the_first_of_equal_ones_and_nan_last(rows) -> None:
    numbers = np.array(rows, np.float32)
    for k in range(1, numbers.shape[1] + 1):
        columns = np.sort(np.argsort(numbers, axis=1, kind="stable")[:, :k], axis=1)
        expected = columns + numbers.shape[1] * np.arange(len(numbers))[:, None]
        assert np.array_equal(smallest(numbers, k), expected)


def stretches(rows: list[int] | np.ndarray, shape: tuple[int, int]) -> list[np.ndarray]:
    """Returns the pairs that are read together, all of which are there once."""
    parts = list(distances._in_file_order(np.array(rows, np.int64), shape))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(rows)))
    return parts


def test_the_file_is_read_from_front_to_back(monkeypatch) -> None:
    """A stretch is 10 rows; the largest store has more of them than 16 bits number, where stretches are longer."""
    monkeypatch.setattr(distances, "READ_AT_ONCE", 20)
    rng = np.random.default_rng(1)
    for total in (95, 70_000, 1_000_000):
        rows, length = rng.integers(0, total, 400), max(10, -(-total // 65535))
        order = np.concatenate([rows[part] // length for part in stretches(rows, (total, 2))])
        assert (np.diff(order) >= 0).all()


def test_a_few_pairs_are_read_at_once_and_many_a_stretch_at_a_time(monkeypatch) -> None:
    """Stretches of 10 rows: as many of them together as have 10 pairs, or one that has more."""
    monkeypatch.setattr(distances, "READ_AT_ONCE", 20)
    assert [len(part) for part in stretches([5, 15, 95, 55], (100, 2))] == [4]
    rows = [*[3] * 4, *[13] * 5, *[23] * 4, *[33] * 25, *[43] * 2, *[99] * 8]
    assert [len(part) for part in stretches(rows, (100, 2))] == [9, 4, 25, 10]


@pytest.mark.parametrize("inner_product", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("num_queries", [1, 2, 40])
def test_distances_are_recomputed_from_the_stored_rows(monkeypatch, num_queries, dtype, inner_product) -> None:
    """Rows all over the file, rows side by side, rows twice and none; widened and read in many parts."""
    monkeypatch.setattr(distances, "WIDEN_AT_ONCE", 20)
    monkeypatch.setattr(distances, "READ_AT_ONCE", 400)
    keys = clustered_keys().astype(dtype)
    queries = clustered_keys(num_queries, seed=4)
    rng = np.random.default_rng(num_queries)
    ids = rng.integers(-1, ROWS, (num_queries, 50))
    ids[:, :9] = np.arange(700, 709) + rng.integers(0, 3, (num_queries, 1))
    ids[0, 20:] = -1
    ids[-1, :12] = rng.permutation(ids[-1, :12])
    rows = keys[ids].astype(np.float64)
    expected = -(rows * queries[:, None]).sum(2) if inner_product else ((rows - queries[:, None]) ** 2).sum(2)
    expected[ids < 0] = np.inf
    for strided in (keys, np.repeat(keys, 2, axis=1)[:, ::2]):
        found = recompute_distances(strided, queries, ids, inner_product=inner_product)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)
    with_none = recompute_distances(keys, queries, np.full((num_queries, 3), -1), inner_product=inner_product)
    assert np.isinf(with_none).all() and (with_none > 0).all()
