"""Of many rows that are equally far the first ones are found, without asking for all of them at once."""

from typing import Any

import faiss
import numpy as np
import pytest

from fairseq.arrays import Float32s, Int64s
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.index.without_rows import without_rows
from fairseq.knn.search.by_index import search
from fairseq.knn.search.equally_far import Scan, in_order
from fairseq.knn.search.preassigned import assign, inverted_file, search_lists
from tests.builders.small_index import small_index

RNG = np.random.default_rng(0)
KEYS = RNG.standard_normal((3000, 8)).astype(np.float32)
KEYS[::3] = 3 * KEYS[0]  # the nearest by inner product as well
QUERIES = RNG.standard_normal((40, 8)).astype(np.float32)
QUERIES[::4] = KEYS[0] + np.float32(1e-3)
FORGOTTEN = RowRanges.of([(0, 300), (900, 930)])


def filled(spec: str, metric: int) -> Any:
    index = small_index(8, spec, metric)
    index.train(KEYS)
    index.add(KEYS)
    if (inverted := inverted_file(index)) is not None:
        inverted.nprobe = 6
    return index


def all_by_faiss(index: Any, query_1D: Float32s) -> tuple[Float32s, Int64s]:
    """Returns every row that FAISS finds of one query, by its distances and then by number."""
    near_R, ids_R = (found[0] for found in index.search(query_1D, len(KEYS)))
    near_R, ids_R = near_R[ids_R >= 0], ids_R[ids_R >= 0]
    near_R = -near_R if index.metric_type == faiss.METRIC_INNER_PRODUCT else near_R
    order = np.lexsort((ids_R, near_R))
    return near_R[order], ids_R[order]


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("spec", ["IVF16,Flat", "IVF16,SQ8", "IVF16,PQ4", "OPQ4_8,IVF16,PQ4x4", "Flat", "SQ8", "PQ4"])
@pytest.mark.parametrize("forgotten", [RowRanges.of(), FORGOTTEN])
def test_the_first_of_a_thousand(spec: str, metric: int, forgotten: RowRanges) -> None:
    plain = filled(spec, metric)
    index = without_rows(filled(spec, metric), forgotten, len(KEYS) - forgotten.num_rows)
    near_NK, ids_NK = search(index, QUERIES, 50)
    for n in range(0, len(QUERIES), 4):
        expected_R, expected_ids_R = all_by_faiss(plain, QUERIES[n : n + 1])
        left_R = ~forgotten.holds(expected_ids_R)
        assert np.allclose(near_NK[n], expected_R[left_R][:50], rtol=1e-5, atol=1e-5)
        assert np.count_nonzero(expected_R[left_R] == expected_R[left_R][49]) > 800
        assert ids_NK[n].tolist() == expected_ids_R[left_R][:50].tolist()


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("spec", ["IVF16,Flat", "IVF16,SQ8", "IVF16,PQ4", "IVF16,PQ4x4"])
def test_lists_give_the_same_distances_to_the_last_digit(spec: str, metric: int) -> None:
    """As shards need it: whether rows are equally far does not change how far they are."""
    index = filled(spec, metric)
    assigned = assign(index, QUERIES, 6)
    near_NK, ids_NK = search_lists(index, assigned, 50)
    expected_NK, _ = index.search_preassigned(QUERIES, 50, assigned.list_NP, assigned.coarse_NP)
    assert np.array_equal(near_NK, -expected_NK if metric == faiss.METRIC_INNER_PRODUCT else expected_NK)
    assert (np.diff(near_NK, axis=1) >= 0).all() and (ids_NK >= 0).all()


class Rows(Scan):
    """Rows that are all equally far; it notes what it was asked."""

    def __init__(self, *, within: bool) -> None:
        self.can, self.asked = within, list[tuple[int, int]]()

    def nearest(self, queries_M: Int64s | slice, k: int) -> tuple[Float32s, Int64s]:
        count = 5 if isinstance(queries_M, slice) else len(queries_M)
        self.asked.append((count, k))
        return np.ones((count, k), np.float32), np.tile(np.arange(1000)[::-1][:k], (count, 1))

    def within(self, query: int, bound: np.float32) -> tuple[Float32s, Int64s] | None:
        return (np.ones(1000, np.float32), np.arange(1000)[::-1]) if self.can else None


@pytest.mark.parametrize("within", [False, True])
def test_only_one_query_at_a_time_asks_for_many_rows(within: bool) -> None:
    rows = Rows(within=within)
    near_NK, ids_NK = in_order(rows, 20, 1000)
    assert (near_NK == 1).all() and ids_NK.tolist() == [list(range(20))] * 5
    assert rows.asked[0] == (5, 21) and all(count == 1 for count, _ in rows.asked[1:])
    assert (len(rows.asked) == 1) == within


def test_fewer_rows_than_neighbours() -> None:
    index = small_index(8, "Flat", faiss.METRIC_L2)
    index.add(KEYS[:12:3])
    near_NK, ids_NK = search(index, QUERIES[:2], 7)
    assert ids_NK.tolist() == [[0, 1, 2, 3, -1, -1, -1]] * 2 and np.isinf(near_NK[:, 4:]).all()
