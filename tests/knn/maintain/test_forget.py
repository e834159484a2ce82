"""A datastore with forgotten rows is one that was written without them: for every search, and after compaction too."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.config import TextsConfig
from fairseq.knn.datastore.manifest import (
    DatastoreManifest,
    Segment,
    manifest_path,
    read_manifest,
    write_manifest,
)
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.build import build_index, sample_keys
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import open_index
from fairseq.knn.index.without_rows import SkippingIndex
from fairseq.knn.inspect.index import measure_recall
from fairseq.knn.maintain.compact import compact
from fairseq.knn.maintain.config import ForgetConfig
from fairseq.knn.maintain.forget import forget
from fairseq.knn.search.by_list import ListSearch
from fairseq.knn.search.exact import exact_neighbours
from fairseq.runtime.progress import Progress
from knnlm import KNN_Dstore
from tests.builders.power_cut import PowerCuts, put
from tests.builders.small_store import ROWS, VOCABULARY, clustered_keys, values_of
from tests.oracles.knn import nearest

GONE = [(100, 400), (390, 520), (1000, 1001), (ROWS - 3, ROWS)]
LEFT = np.setdiff1d(np.arange(ROWS), np.concatenate([np.arange(*pair) for pair in GONE]))
SPECS = ("Flat", "IVF16,Flat", "IVF16,SQ8", "PCA8,IVF16,PQ4", "PQ4", "IVF16,Flat,RFlat")
RENUMBERED = SPECS[:-1]
K = 20


def said(prefix, **flags):
    lines = []
    forget(ForgetConfig(str(prefix), **flags), TextsConfig(), lines.append)
    return "\n".join(lines)


def forget_rows(prefix):
    for start, stop in GONE:
        said(prefix, rows=f"{start}:{stop}")


def index_of(store, spec, directory):
    path = directory / spec.replace(",", "_")
    build = BuildConfig(dstore_mmap=str(store.prefix), faiss_index=str(path), index_spec=spec, probe=4)
    build_index(store, build, path)
    return path


def without(path, directory):
    """Returns the index of the rows that are left, with the centroids and codes of the one at ``path``."""
    trained = faiss.read_index(str(path) + ".trained") if Path(f"{path}.trained").exists() else faiss.IndexFlatL2(16)
    trained.add(clustered_keys()[LEFT])
    return trained


def rows_at(ids, rows):
    return np.where(ids >= 0, rows[np.maximum(ids, 0)], -1)


@pytest.fixture
def queries():
    rng = np.random.default_rng(5)
    near = clustered_keys()[rng.integers(90, 530, 30)]  # whose neighbours are mostly gone
    return np.concatenate([near, clustered_keys(30, seed=9)]) + 0.01


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("sim_func", [None, "do_not_recomp_l2"])
def test_searches_are_those_of_a_datastore_that_never_had_the_rows(make_store, tmp_path, queries, spec, sim_func):
    store = make_store()
    path = index_of(store, spec, tmp_path)
    forget_rows(store.prefix)
    config = KNNConfig(k=K, probe=4, knn_sim_func=sim_func)
    bare = make_store("left", clustered_keys()[LEFT], values_of()[LEFT])
    index = without(path, tmp_path)
    faiss.try_extract_index_ivf(index) and setattr(faiss.try_extract_index_ivf(index), "nprobe", 4)
    wanted = KNN_Dstore(bare, index, config, distinct_ids=True)
    found = KNN_Dstore.open(store.prefix, path, config)
    assert (
        found.index.ntotal == len(LEFT)
        and not np.isin(found.search(queries)[1], np.setdiff1d(np.arange(ROWS), LEFT)).any()
    )
    for block in (queries, queries[:1], np.repeat(queries, 20, axis=0)):  # list by list, and one by one
        near, ids = found.search(block)
        other_near, other_ids = wanted.search(block)
        np.testing.assert_allclose(near, other_near, rtol=1e-5, atol=1e-4)
        assert (ids == rows_at(other_ids, LEFT)).mean() > 0.999  # equal distances may change places
    targets = values_of()[LEFT][:60]
    np.testing.assert_allclose(
        found.log_prob(queries, targets), wanted.log_prob(queries, targets), rtol=1e-4, atol=1e-4
    )


def test_lists_are_searched_list_by_list_as_well(make_store, tmp_path, queries):
    store = make_store()
    path = index_of(store, "IVF16,Flat", tmp_path)
    forget_rows(store.prefix)
    found = KNN_Dstore.open(store.prefix, path, k=K, probe=16)
    many = np.repeat(queries, 20, axis=0)
    assert ListSearch.pays(found.index, len(many))
    distances, ids = found.search(many)
    for n in (0, 25, 700):
        wanted, rows = nearest(clustered_keys()[LEFT], many[n], K)
        assert ids[n].tolist() == LEFT[rows].tolist() and distances[n] == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_where_nothing_is_left_nothing_is_probable(make_store, tmp_path, queries):
    store = make_store()
    index = open_index(index_of(store, "IVF16,Flat", tmp_path))
    store.forgotten = RowRanges.of([(0, ROWS)])
    left = KNN_Dstore(store, index, KNNConfig(k=K))
    assert (left.log_prob(queries, np.full(len(queries), 39990)) == -np.inf).all()
    assert (left.next_log_prob(queries[:2], VOCABULARY) == -np.inf).all()


def test_an_exact_search_leaves_them_out(make_store, monkeypatch, queries):
    monkeypatch.setattr("fairseq.knn.search.exact.BLOCK_BYTES", 4 * 16 * 70)  # some blocks are gone altogether
    store = make_store()
    forget_rows(store.prefix)
    store = Datastore.open(store.prefix)
    with Progress("", ROWS, "rows") as progress:
        near, ids = exact_neighbours(store.keys_ND, queries, K, progress, forgotten=store.forgotten)
    assert progress.n == ROWS
    with Progress("", ROWS, "rows") as progress:
        other = exact_neighbours(clustered_keys()[LEFT], queries, K, progress)
    assert np.array_equal(near, other[0]) and np.array_equal(ids, LEFT[other[1]])


def test_a_skipping_index_asks_again_until_enough_are_left():
    keys = np.arange(100, dtype=np.float32)[:, None]
    index = faiss.IndexFlatL2(1)
    index.add(keys)
    skipping = SkippingIndex(index, RowRanges.of([[0, 90]]))
    near, ids = skipping.search(np.array([[0.0]], np.float32), 3)
    assert ids.tolist() == [[90, 91, 92]] and near.tolist() == [[90.0**2, 91.0**2, 92.0**2]]
    near, ids = skipping.search(np.array([[0.0]], np.float32), 12)
    assert ids[0].tolist() == [*range(90, 100), -1, -1] and np.isinf(near[0, 10:]).all()


def test_an_index_is_asked_for_more_only_where_too_few_are_left():
    """Of 100 rows on a line, 50 to 99 are forgotten: none of the rows near 0, all that are near 60."""
    index, asked = faiss.IndexFlatL2(1), []
    index.add(np.arange(100, dtype=np.float32)[:, None])
    skipping = SkippingIndex(index, RowRanges.of([[50, 100]]))
    counting = SimpleNamespace(search=lambda queries, k: asked.append(k) or index.search(queries, k))
    skipping.index = counting
    assert skipping.search(np.array([[0.0]], np.float32), 3)[1].tolist() == [[0, 1, 2]] and len(asked) == 1
    asked.clear()
    found = skipping.search(np.array([[0.0], [60.0]], np.float32), 3)[1]
    assert found.tolist() == [[0, 1, 2], [49, 48, 47]] and asked == sorted(set(asked)) and 27 <= asked[-1] <= 53


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_compaction_leaves_the_rows_that_are_left(make_store, tmp_path, queries, kind):
    store = make_store(key_dtype=kind)
    paths = [index_of(store, spec, tmp_path) for spec in RENUMBERED]
    forget_rows(store.prefix)
    config = KNNConfig(k=K, probe=4)
    before = [KNN_Dstore.open(store.prefix, path, config).search(queries) for path in paths]
    forgotten_id = Datastore.open(store.prefix).store_id
    compact(store.prefix, paths, 60)
    after = Datastore.open(store.prefix)
    assert np.array_equal(after.keys_ND, clustered_keys()[LEFT].astype(kind))
    assert np.array_equal(after.values_N, values_of()[LEFT])
    assert after.store_id not in (store.store_id, forgotten_id) and after.rows_left == after.rows == len(LEFT)
    for path, (near, ids) in zip(paths, before, strict=True):
        found = KNN_Dstore.open(store.prefix, path, config)
        again = found.search(queries)
        assert np.array_equal(again[0], near) and np.array_equal(rows_at(again[1], LEFT), ids), path
    [segment] = after.manifest.all_segments
    assert segment.source_rows == ROWS and np.array_equal(segment.spans.ids(), LEFT)
    assert not list(tmp_path.glob("*forgotten*")) and not list(tmp_path.glob("*compact*"))
    assert "nothing to compact" in compact(store.prefix, paths, 60)
    said(store.prefix, rows="95:105")  # once more: what is left of what was left
    compact(store.prefix, paths, 60)
    [segment] = read_manifest(manifest_path(store.prefix), DatastoreManifest).all_segments
    assert np.array_equal(segment.spans.ids(), np.delete(LEFT, np.arange(95, 105)))


def test_the_progress_of_a_compaction_ends_with_its_last_row(make_store, monkeypatch):
    store, seen = make_store(), []

    class Seen(Progress):
        def __init__(self, *words, **more):
            super().__init__(*words, **more)
            seen.append(self)

    monkeypatch.setattr("fairseq.knn.maintain.compact.Progress", Seen)
    monkeypatch.setattr("fairseq.knn.maintain.compact.BLOCK_BYTES", 400 * 16 * 4)
    forget_rows(store.prefix)
    compact(store.prefix, [], 60)
    assert [(progress.n, progress.total) for progress in seen] == [(len(LEFT), len(LEFT))]


def test_an_index_that_cannot_give_up_rows_is_refused_before_anything_is_written(make_store, tmp_path):
    store = make_store()
    path = index_of(store, "IVF16,Flat,RFlat", tmp_path)
    forget_rows(store.prefix)
    names = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="cannot give up rows"):
        compact(store.prefix, [path], 60)
    assert sorted(tmp_path.iterdir()) == names
    other = make_store("other", settings={"data": "another"})
    with pytest.raises(MismatchError, match="was built from datastore"):
        compact(store.prefix, [index_of(other, "Flat", tmp_path)], 60)


@pytest.mark.parametrize("says", [True, False])
def test_the_index_of_a_copy_is_left_alone(make_store, tmp_path, says):
    store = make_store()
    index = Path(index_of(store, "Flat", tmp_path))
    if not says:  # one of before it was recorded
        record = json.loads(manifest_path(index).read_text())
        manifest_path(index).write_text(json.dumps({k: v for k, v in record.items() if k != "datastore"}))
    copies = [tmp_path / "copy" / "dstore", tmp_path / "moved" / "dstore"]
    for copy in copies:
        copy.parent.mkdir()
        for suffix in ("_keys.npy", "_vals.npy", ".json"):
            shutil.copy(f"{store.prefix}{suffix}", f"{copy}{suffix}")
        forget_rows(copy)
    before = index.read_bytes()
    with pytest.raises(MismatchError, match="is the index of"):
        compact(copies[0], [index], 60)
    assert index.read_bytes() == before
    for name in (index.name, f"{index.name}.json"):  # a datastore that has moved with its index
        shutil.copy(tmp_path / name, copies[1].parent / name)
    assert "fewer" in compact(copies[1], [copies[1].parent / index.name], 60)


def test_an_index_that_was_not_compacted_is_refused(make_store, tmp_path, caplog):
    store = make_store()
    path = index_of(store, "Flat", tmp_path)
    forget_rows(store.prefix)
    compact(store.prefix, [], 60)
    assert "build them again" in caplog.text
    with pytest.raises(MismatchError):
        KNN_Dstore.open(store.prefix, path)
    with pytest.raises(MismatchError, match="not of these rows"):
        compact(store.prefix, [path], 60)


def test_a_compaction_that_was_stopped_between_two_renames_is_told(make_store, tmp_path):
    store = make_store()
    forget_rows(store.prefix)
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    compact(store.prefix, [], 60)
    keys = Path(f"{store.prefix}_keys.npy").read_bytes()
    for path, data in whole.items():
        path.write_bytes(data)
    Path(f"{store.prefix}_keys.npy").write_bytes(keys)
    Path(f"{store.prefix}.compact.json").write_text("{}")
    for work in (lambda: Datastore.open(store.prefix), lambda: said(store.prefix, rows="1:2")):
        with pytest.raises(DatastoreError, match="compaction was stopped; run fairseq-knnlm forget"):
            work()


@pytest.mark.parametrize("whole_index", [True, False])
def test_a_power_cut_in_a_compaction_loses_nothing(make_store, tmp_path, monkeypatch, whole_index):
    """After each rename and each removal: the same command ends with the files of a run that was not stopped."""
    keys, values = clustered_keys(60), values_of(60)
    make_store("d", keys, values)
    (tmp_path / "before").mkdir()
    for path in tmp_path.glob("d*"):
        path.rename(tmp_path / "before" / path.name)
    indexes = [index_of(Datastore.open(tmp_path / "before" / "d"), "Flat", tmp_path / "before")] if whole_index else []
    said(tmp_path / "before" / "d", rows="10:30")
    with monkeypatch.context() as patch:
        cuts = PowerCuts(patch, tmp_path / "before")
        compact(tmp_path / "before" / "d", indexes, 60)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()}
    assert np.frombuffer(expected["d_vals.npy"], np.int64).tolist() == [*values[:10], *values[30:]]
    assert len(cuts.states) > 8
    for number, state in enumerate(cuts.states):
        put(state, tmp_path / str(number))
        compact(tmp_path / str(number) / "d", [tmp_path / str(number) / path.name for path in indexes], 60)
        found = {path.name: path.read_bytes() for path in (tmp_path / str(number)).iterdir()}
        assert found == expected, number


def test_forgetting_changes_the_identity_and_says_so(make_store, tmp_path):
    store = make_store()
    assert "nothing to compact" in said(store.prefix)
    text = said(store.prefix, rows="5:10")
    assert "5 rows, 5:10, are forgotten" in text and f"5 of {ROWS} rows are forgotten (0.3%)" in text
    first = Datastore.open(store.prefix)
    assert first.store_id != store.store_id and first.rows_id == store.rows_id
    assert "nothing to do" in said(store.prefix, rows="6:7")
    assert Datastore.open(store.prefix).store_id == first.store_id
    assert "1 row, 20:21, is forgotten" in said(store.prefix, rows="20")
    assert len(list(tmp_path.glob("dstore.forgotten.*.json"))) == 1
    assert Datastore.open(store.prefix).forgotten.pairs == [[5, 10], [20, 21]]
    assert Datastore.open(store.prefix, rows=8).forgotten.pairs == [[5, 8]]
    with pytest.raises(ConfigError, match="all that"):
        said(store.prefix, rows=f"0:{ROWS}")
    with pytest.raises(ConfigError, match="goes beyond"):
        said(store.prefix, rows=f"0:{ROWS + 1}")
    assert "dry-run: nothing was changed" in said(store.prefix, rows="30:40", dry_run=True)
    assert Datastore.open(store.prefix).forgotten.num_rows == 6


def test_a_source_is_forgotten_by_the_end_of_its_path(make_store):
    """Two runs of one text are one source; two texts of one name must be told apart."""
    rows = {"a/train": 300, "b/valid": 500, "c/valid": 600, "d/test": 100}
    segments = tuple(
        Segment(settings={"data": f"/x/{name}"}, source_rows=count, spans=RowRanges.of([[0, count]]))
        for name, count in rows.items()
    )
    store = make_store(segments=segments, settings=segments[0].settings)
    assert "source /x/a/train: 300 rows, 0:300, are forgotten" in said(store.prefix, source="train")
    with pytest.raises(ConfigError, match=r"--source valid may be /x/b/valid or /x/c/valid; give more of the path"):
        said(store.prefix, source="valid")
    with pytest.raises(ConfigError, match="--source rain is no source of"):
        said(store.prefix, source="rain")
    assert "600 rows, 800:1400, are forgotten" in said(store.prefix, source="c/valid")
    assert Datastore.open(store.prefix).forgotten.pairs == [[0, 300], [800, 1400]]


def test_what_was_never_forgotten_has_the_identity_that_it_always_had(make_store):
    """Indexes and retrievals of earlier versions name datastores by this."""
    manifest = make_store().manifest
    assert "forgotten" not in json.loads(manifest_path(make_store("other").prefix).read_text())
    assert manifest.store_id == "b20c524394524c95f65adcc1768e76c332e777eebc4936b2bccbf49b852ef689"


def test_training_and_recall_leave_them_out(make_store, tmp_path):
    store = make_store()
    index = faiss.read_index(str(index_of(store, "Flat", tmp_path)))
    forget_rows(store.prefix)
    store = Datastore.open(store.prefix)
    sample = sample_keys(store, 200, seed=1)
    assert not np.isin(sample[:, 0], np.delete(clustered_keys(), LEFT, axis=0)[:, 0]).any()
    assert np.array_equal(sample_keys(store, store.rows_left, seed=1), clustered_keys()[LEFT])
    recall = measure_recall(index, store, 50, 5)
    assert (recall.recall, recall.missing, recall.found_itself) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("damage", ["gone", "changed", "count", "kind", "beyond"])
def test_damaged_tombstones_are_refused(make_store, tmp_path, damage):
    store = make_store()
    said(store.prefix, rows="5:10")
    [path] = tmp_path.glob("dstore.forgotten.*.json")
    manifest = read_manifest(manifest_path(store.prefix), DatastoreManifest)
    if damage == "gone":
        path.unlink()
    elif damage == "changed":
        path.write_text(path.read_text().replace("10", "11"))
    elif damage == "count":
        write_manifest(manifest_path(store.prefix), manifest.replace(forgotten=manifest.forgotten.replace(rows=4)))
    elif damage == "kind":
        write_manifest(manifest_path(store.prefix), manifest.replace(forgotten={"rows": "5"}))
    else:
        write_manifest(manifest_path(store.prefix), manifest.replace(rows=8))
    with pytest.raises(DatastoreError, match=r"restore|must have"):
        Datastore.open(store.prefix)
