"""Searching mapped lists list by list, beside FAISS and the search of lists in memory."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.index.faiss_index import read_index, set_nprobe, write_index
from fairseq.knn.index.without_rows import SelectingIndex, selector, without_rows
from fairseq.knn.search import by_list, mapped_lists
from fairseq.knn.search.by_index import search
from fairseq.knn.search.by_list import ListSearch
from fairseq.knn.search.mapped_lists import MappedListSearch
from tests.builders.small_index import small_index
from tests.builders.small_store import ROWS, WIDTH, clustered_keys

SPECS = ["IVF24,Flat", "IVF24,SQ8", "IVF24,PQ8x4"]
K, NPROBE = 60, 5


def make_indexes(spec: str, path: Path) -> tuple[Any, Any]:
    """Returns an index in memory, and the same one mapped; codes of 7 bytes do not lie at even places."""
    width = 7 if spec.endswith("SQ8") else WIDTH
    index = small_index(width, spec)
    keys = clustered_keys(width=width)
    index.train(keys)
    index.add(keys)
    write_index(index, path)
    indexes = read_index(path), read_index(path, mapped=True)
    for opened in indexes:
        set_nprobe(opened, NPROBE)
    return indexes


def few_distances(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Lets so many distances be there at once."""
    for module in (by_list, mapped_lists):
        monkeypatch.setattr(module, "most_distances", lambda: count)


def assert_same(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
    """Asserts the same neighbours; any of those that are as far as the last, which products round differently."""
    for near, ids, near_there, ids_there in zip(*found, *expected, strict=True):
        found_near, expected_near = np.sort(near[ids >= 0]), np.sort(near_there[ids_there >= 0])
        np.testing.assert_allclose(found_near, expected_near, atol=1e-3, rtol=1e-5)
        inside = expected_near[-1] - 2e-3
        assert {*ids[near < inside]} <= {*ids_there} and {*ids_there[near_there < inside]} <= {*ids}
        assert len({*ids[ids >= 0]}) == len(found_near)


@pytest.mark.parametrize("most", [1 << 20, 4096, 16])
@pytest.mark.parametrize("spec", SPECS)
def test_a_mapped_index_finds_what_faiss_finds_in_memory(
    spec: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, mapped = make_indexes(spec, tmp_path / "i")
    queries = clustered_keys(90, width=index.d, seed=4)
    few_distances(monkeypatch, most)
    assert_same(MappedListSearch(mapped).search(queries, K), index.search(queries, K))


def test_windows_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, mapped = make_indexes("IVF24,PQ8x4", tmp_path / "i")
    queries = clustered_keys(90, seed=4)
    expected = ListSearch(index).search(queries, K)
    monkeypatch.setattr(by_list, "MOST_DECODED", WIDTH * 64)  # lists in several groups
    few_distances(monkeypatch, 3000)
    by_windows, windows = MappedListSearch(mapped), list[object]()
    search_window = by_windows._search_window
    monkeypatch.setattr(by_windows, "_search_window", lambda *given: (windows.append(given), search_window(*given)))
    assert_same(by_windows.search(queries, K), expected)
    assert len(windows) > 10


def test_of_rows_that_are_equally_far_the_first_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.repeat(clustered_keys()[:300], 5, axis=0)  # each five times, in one list
    index = faiss.index_factory(WIDTH, "IVF8,Flat")
    index.train(keys)
    index.add(keys)
    write_index(index, tmp_path / "i")
    mapped = read_index(tmp_path / "i", mapped=True)
    mapped.nprobe = 8
    few_distances(monkeypatch, 1000)
    queries = np.ascontiguousarray(keys[::5][:20])
    _, ids = MappedListSearch(mapped).search(queries, 8)
    for n in range(20):
        exact = ((keys.astype(np.float64) - queries[n]) ** 2).sum(1)
        assert {*ids[n]} == {*np.argsort(exact, kind="stable")[:8]}


def test_more_neighbours_than_the_lists_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, mapped = make_indexes("IVF24,Flat", tmp_path / "i")
    few_distances(monkeypatch, 2000)
    queries = clustered_keys(8, seed=4)
    assert_same(MappedListSearch(mapped).search(queries, ROWS), index.search(queries, ROWS))
    distances, ids = MappedListSearch(mapped).search(queries, 0)
    assert distances.shape == ids.shape == (8, 0)


@pytest.mark.parametrize("spec", [*SPECS, "PCA8,IVF24,Flat"])
def test_forgotten_rows_of_a_mapped_index_are_not_found(spec: str, tmp_path: Path) -> None:
    index, mapped = make_indexes(spec, tmp_path / "i")
    forgotten = RowRanges.of([[0, 300], [700, 1200]])
    passing = without_rows(mapped, forgotten, ROWS - forgotten.num_rows, mapped=True)
    index.remove_ids(selector(forgotten))
    queries = clustered_keys(90, width=index.d, seed=4)
    expected = index.search(queries, K)
    assert isinstance(passing, SelectingIndex) and passing.ntotal == index.ntotal
    assert_same(search(passing, queries, K), expected)
    assert MappedListSearch.pays(passing, 10**6) == (not spec.startswith("PCA"))
    if not spec.startswith("PCA"):
        assert_same(MappedListSearch(passing).search(queries, K), expected)


def test_lists_in_a_file_of_their_own(tmp_path: Path) -> None:
    index, _ = make_indexes("IVF24,PQ8x4", tmp_path / "i")
    queries = clustered_keys(90, seed=4)
    expected = index.search(queries, K)
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(tmp_path / "i.ivfdata"))
    lists.merge_from(index.invlists, 0)
    index.replace_invlists(lists, False)
    assert not ListSearch.supports(index) and MappedListSearch.supports(index)
    assert_same(MappedListSearch(index).search(queries, K), expected)


def test_lists_are_read_one_by_one_where_many_queries_visit_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, mapped = make_indexes("IVF24,PQ8x4", tmp_path / "i")
    monkeypatch.setattr(mapped_lists, "least_visits", lambda index: 3 * by_list.LEAST_VISITS)
    between = 2 * by_list.LEAST_VISITS * 24 // NPROBE
    assert not MappedListSearch.pays(mapped, between) and MappedListSearch.pays(mapped, 2 * between)
    monkeypatch.setattr(mapped_lists, "fits_memory", lambda count: False)
    assert MappedListSearch.pays(mapped, between) and not MappedListSearch.pays(mapped, 24)
    assert not MappedListSearch.pays(mapped, 0)
