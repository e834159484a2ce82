"""What ``--index-spec auto`` stands for."""

import itertools
import logging
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from fairseq.knn.index import choose as auto_spec
from fairseq.knn.index.build import build_index
from fairseq.knn.index.choose import choices, choose
from fairseq.knn.index.config import BuildConfig

GIB = 2**30


def lists(spec: str) -> int:
    return int(spec.split(",")[0].removeprefix("IVF"))


def test_few_rows_and_full_recall_are_searched_exactly():
    assert [c.spec for c in choices(1500, 16, recall=0.8, probe=8)] == ["Flat"]
    assert [c.spec for c in choices(10**6, 256, recall=1.0, probe=8)] == ["Flat"]


def test_codes_come_from_the_most_faithful_to_the_smallest():
    found = choices(340_968, 256, recall=0.8, probe=32)
    assert [c.spec.split(",")[1] for c in found] == ["SQ8", "PQ64", "PQ32"]
    assert [c.bytes_per_key for c in found] == [264, 72, 40]
    for one, two in itertools.pairwise(found):
        assert one.index_bytes > two.index_bytes
        assert lists(one.spec) >= lists(two.spec)  # a worse code needs longer lists for the same recall


def test_every_choice_can_be_built():
    sizes, probes, recalls = (40_000, 340_968, 103_225_485), (1, 8, 512), (0.3, 0.8, 0.99)
    for rows, probe, recall in itertools.product(sizes, probes, recalls):
        for dimension in (16, 192, 1024):
            for choice in choices(rows, dimension, recall=recall, probe=probe):
                case = choice.spec, rows, dimension, probe, recall
                index = faiss.index_factory(dimension, choice.spec)
                assert index.d == dimension, case
                if choice.spec != "Flat":
                    assert index.sa_code_size() <= choice.bytes_per_key, case
                    assert 16 <= index.nlist <= min(4 * rows**0.5, 1 << 14), case
                    # Whoever asked for more than probe lists can give was told so; else it is expected.
                    assert choice.recall >= recall - 0.01 or lists(choice.spec) == 16, case


def test_more_recall_means_longer_lists_and_so_does_a_smaller_probe():
    by_recall = [lists(choices(10**6, 256, recall=r, probe=8)[0].spec) for r in (0.6, 0.8, 0.9)]
    by_probe = [lists(choices(10**6, 256, recall=0.8, probe=p)[0].spec) for p in (16, 8, 4)]
    assert sorted(by_recall, reverse=True) == by_recall and len(set(by_recall)) == 3
    assert sorted(by_probe, reverse=True) == by_probe and len(set(by_probe)) == 3


def test_memory_decides():
    found = choices(103_225_485, 1024, recall=0.8, probe=32)
    sizes = [c.index_bytes for c in found]
    assert choose(found, None) == found[0]
    assert choose(found, 2 * sizes[0]) == found[0] and choose(found, 2 * sizes[0] - 2) == found[1]
    assert choose(found, 1 * GIB) == found[-1]  # nothing fits: the build itself refuses, and says how much is missing


def test_the_build_is_bound_by_what_it_compares():
    """Each product a loop: sampled rows against centroids in every round, every row once, and the same with words."""
    rows, dimension = 340_968, 256
    for choice in choices(rows, dimension, recall=0.8, probe=32):
        num_lists = lists(choice.spec)
        pairs = sum(min(40 * num_lists, rows) * num_lists for _ in range(6)) + rows * num_lists
        if "PQ" in choice.spec:
            pairs += sum(64 * 256 * 256 for _ in range(10)) + rows * 256
        assert choice.build_flops == pairs * dimension * 2
    assert choices(1500, 16, recall=0.8, probe=8)[0].build_flops == 0


def wide_store(make_store):
    return make_store(keys=np.random.default_rng(0).standard_normal((2000, 8), dtype=np.float32))


def test_a_build_that_was_begun_keeps_its_choice(make_store, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(auto_spec, "FLAT_ROWS", 100)
    store, path = wide_store(make_store), tmp_path / "i"
    build = BuildConfig(dstore_mmap="unused", faiss_index=str(path), index_spec="auto")
    monkeypatch.setattr(auto_spec, "free_memory_bytes", lambda: GIB)
    made = build_index(store, build, path)
    assert made.spec == "IVF16,SQ8" and "IVF16,SQ8 (16 bytes per key, 0.00 GiB, recall about " in caplog.text
    assert "%, at most 1 s to build)\n" in caplog.text
    monkeypatch.setattr(auto_spec, "free_memory_bytes", lambda: 1000)
    assert build_index(store, build, path) == made  # finished: nothing to do
    path.unlink()
    (tmp_path / "i.json").unlink()
    caplog.clear()
    assert build_index(store, build, path) == made  # trained
    assert "as the build that was begun" in caplog.text and "going on from" in caplog.text
    other = tmp_path / "other"
    assert build_index(store, replace(build, faiss_index=str(other)), other).spec == "IVF16,PQ1"


def test_too_much_is_asked_for(make_store, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(auto_spec, "FLAT_ROWS", 100)
    path = tmp_path / "i"
    build = BuildConfig(dstore_mmap="unused", faiss_index=str(path), index_spec="auto", recall=0.95, probe=1)
    build_index(wide_store(make_store), build, path)
    assert "--recall 0.95 is more than is expected of IVF16,SQ8; raise --probe" in caplog.text


def test_the_free_memory_is_told_where_it_decides(make_store, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(auto_spec, "FLAT_ROWS", 100)
    store = wide_store(make_store)
    for name, free, spec in (("much", GIB, "IVF16,SQ8"), ("little", 1000, "IVF16,PQ1"), ("unknown", None, "IVF16,SQ8")):
        monkeypatch.setattr(auto_spec, "free_memory_bytes", lambda free=free: free)
        caplog.clear()
        path = tmp_path / name
        build = BuildConfig(dstore_mmap="unused", faiss_index=str(path), index_spec="auto")
        assert build_index(store, build, path).spec == spec
        assert ("half of the 0.0 GiB that are free holds no larger one" in caplog.text) == (name == "little")


def test_recall_is_expected_by_the_table_that_was_measured():
    """docs/indexes.md has it, rounded; the rows visited of a list of mean length, between its columns by a line."""
    lines = (Path(__file__).parents[3] / "docs" / "indexes.md").read_text(encoding="utf-8").splitlines()
    visited, found = (
        [float(cell) for cell in line.split("|")[2:-1]]
        for start in ("| rows visited / k, lists", "| found of the 1,024 nearest |")
        for line in lines
        if line.startswith(start)
    )
    assert list(auto_spec.VISITED) == visited and list(auto_spec.COVERAGE) == pytest.approx(found, abs=0.0051)
    for rows, probe, recall in ((340_968, 32, 0.8), (10**6, 8, 0.5), (103_225_485, 8, 0.9)):
        for choice, fidelity in zip(choices(rows, 256, recall=recall, probe=probe), (0.99, 0.94, 0.88), strict=False):
            covered = np.interp(probe / lists(choice.spec) * rows / 1024, visited, found)
            assert choice.recall == pytest.approx(fidelity * covered, abs=0.006)
