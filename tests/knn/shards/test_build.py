"""An index that is built in shards equals one that is built at once, however it was built and merged."""

import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore.format import keys_path, values_path
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index import build as build_module
from fairseq.knn.index.append import append_to_index
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import open_index, read_index, stored_ids
from fairseq.knn.index.without_rows import without_rows
from fairseq.knn.inspect.info import describe
from fairseq.knn.search.by_index import search
from fairseq.knn.shards import shard as shard_module
from fairseq.knn.shards.build import build_in_shards
from fairseq.knn.shards.manifest import is_sharded, read_shards, shard_path
from tests.builders.small_store import clustered_keys, grow, values_of, write_store

ROWS = 3001
# Where lists are found in full width, behind a transform, and by FAISS's own adding.
KINDS = [("IVF16,PQ8", "quick"), ("IVF16,SQ8", "thorough"), ("PCA8,IVF16,Flat", "quick")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Datastore:
    return write_store(tmp_path_factory.mktemp("store"), keys=clustered_keys(ROWS))


def config(store: Datastore, path: Path, spec: str = "IVF16,SQ8", **more: Any) -> BuildConfig:
    return BuildConfig(dstore_mmap=str(store.prefix), faiss_index=str(path), index_spec=spec, **more)


def in_shards(store: Datastore, path: Path, spec: str = "IVF16,SQ8", **more: Any) -> list[IndexManifest]:
    return build_in_shards(store, config(store, path, spec, **{"num_shards": 3, **more}), path)


def at_once(store: Datastore, path: Path, spec: str = "IVF16,SQ8", **more: Any) -> IndexManifest:
    return build_index(store, config(store, path, spec, **more), path)


def names(path: Path) -> list[str]:
    return sorted(other.name for other in path.parent.glob(f"{path.name}*"))


def lists_of(index: Any) -> list[tuple[list[int], bytes]]:
    """Returns ids and codes of every list of an index, by FAISS itself."""
    inverted: Any = faiss.extract_index_ivf(index)
    lists, found = inverted.invlists, []
    for number in range(inverted.nlist):
        size = lists.list_size(number)
        ids = faiss.rev_swig_ptr(lists.get_ids(number), size).tolist() if size else []
        codes = faiss.rev_swig_ptr(lists.get_codes(number), size * inverted.code_size).tobytes() if size else b""
        found.append((ids, codes))
    return found


@pytest.mark.parametrize(("spec", "effort"), KINDS)
def test_merged_in_memory_it_is_one_build_to_the_byte(store: Datastore, tmp_path: Path, spec: str, effort: str) -> None:
    at_once(store, tmp_path / "one", spec, effort=effort)
    in_shards(store, tmp_path / "many", spec, effort=effort, merge="memory")
    for name in ("", ".json", ".trained", ".trained.json"):
        assert Path(f"{tmp_path}/many{name}").read_bytes() == Path(f"{tmp_path}/one{name}").read_bytes(), name
    assert names(tmp_path / "many") == ["many", "many.json", "many.trained", "many.trained.json"]


@pytest.mark.parametrize(("spec", "effort"), KINDS)
def test_merged_on_the_disk_it_has_the_lists_of_one_build_and_moves(
    store: Datastore, tmp_path: Path, spec: str, effort: str, capfd: pytest.CaptureFixture[str]
) -> None:
    at_once(store, tmp_path / "one", spec, effort=effort)
    (tmp_path / "here").mkdir()
    (made,) = in_shards(store, tmp_path / "here" / "many", spec, effort=effort, merge="disk")
    assert names(tmp_path / "here" / "many")[:3] == ["many", "many.ivfdata", "many.json"]
    assert made.lists and made.lists.num_bytes == (tmp_path / "here" / "many.ivfdata").stat().st_size
    (tmp_path / "here").rename(tmp_path / "there")
    one, many = (open_index(tmp_path / name, nprobe=4) for name in ("one", "there/many"))
    assert lists_of(many) == lists_of(one)
    queries = clustered_keys(20, seed=5)
    for found, expected in zip(many.search(queries, 9), one.search(queries, 9), strict=True):
        assert np.array_equal(found, expected)
    assert capfd.readouterr().out == "", "FAISS prints where it finds lists"
    (tmp_path / "there" / "many.ivfdata").rename(tmp_path / "lost")
    with pytest.raises(MismatchError, match=r"many\.ivfdata is not there, which holds the lists of .*many; move both"):
        open_index(tmp_path / "there" / "many")


def test_shards_hold_their_rows_under_their_own_numbers(store: Datastore, tmp_path: Path) -> None:
    at_once(store, tmp_path / "one")
    made = in_shards(store, tmp_path / "i", with_rows=True)
    plan = read_shards(tmp_path / "i")
    assert is_sharded(tmp_path / "i") and sum(one.rows for one in made) == ROWS
    one = lists_of(faiss.read_index(str(tmp_path / "one")))
    together: list[list[int]] = [[] for _ in one]
    for number, (manifest, rows) in enumerate(zip(made, plan.rows_of_shards, strict=True)):
        path = shard_path(tmp_path / "i", number, 3)
        assert manifest.shard and (manifest.shard.number, manifest.shard.set_id) == (number, plan.set_id)
        index = read_index(path)
        assert sorted(int(n) for ids in stored_ids(index) for n in ids) == rows.ids().tolist()
        for held, (ids, _) in zip(together, lists_of(index), strict=True):
            held += ids
        assert store.keys_ND is not None
        assert np.array_equal(np.fromfile(keys_path(path), "f4").reshape(-1, 16), store.keys_ND[rows.ids()])
        assert np.array_equal(np.fromfile(values_path(path), "i8"), store.values_N[rows.ids()])
    assert [sorted(ids) for ids in together] == [ids for ids, _ in one]


def test_jobs_of_an_array_train_once_and_a_killed_one_goes_on(
    store: Datastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    at_once(store, tmp_path / "one")
    in_shards(store, tmp_path / "i", shard_id=2)
    assert caplog.text.count("trained in") == 2, "one build, and the first job"
    save = shard_module.save_index

    def killed(index: Any, path: Path, manifest: IndexManifest) -> IndexManifest:
        saved = save(index, path, manifest)
        if path.suffix == ".partial":
            raise KeyboardInterrupt
        return saved

    monkeypatch.setattr(shard_module, "save_index", killed)
    with pytest.raises(KeyboardInterrupt):
        in_shards(store, tmp_path / "i", shard_id=0, save_interval_s=0, num_keys_to_add_at_a_time=400)
    monkeypatch.undo()
    assert describe(str(tmp_path / "i"))[0].startswith("unfinished FAISS index in 3 shards")
    assert ("not there yet", "shard 0, 1") in describe(str(tmp_path / "i"))[1]
    caplog.clear()
    in_shards(store, tmp_path / "i", shard_id=0)
    assert "going on from" in caplog.text and "training" not in caplog.text
    caplog.clear()
    in_shards(store, tmp_path / "i", merge="memory")
    assert "i.shard-2-of-3 is there already" in caplog.text and "training" not in caplog.text
    assert (tmp_path / "i").read_bytes() == (tmp_path / "one").read_bytes()
    in_shards(store, tmp_path / "i", merge="memory")
    assert "merged from shards of this datastore; nothing to do" in caplog.text


def test_a_merge_that_was_killed_is_done_again(
    store: Datastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq.knn.shards import merge as merge_module

    at_once(store, tmp_path / "one")

    def killed(path: Path, manifest: IndexManifest) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(merge_module, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        in_shards(store, tmp_path / "i", merge="disk")
    monkeypatch.undo()
    assert (tmp_path / "i").exists() and not (tmp_path / "i.json").exists()
    (made,) = in_shards(store, tmp_path / "i", merge="disk")
    assert made.lists and lists_of(open_index(tmp_path / "i")) == lists_of(open_index(tmp_path / "one"))
    assert len(names(tmp_path / "i")) == 5
    with pytest.raises(DatastoreError, match="exists, as an index in one file; --overwrite without --shard-id"):
        in_shards(store, tmp_path / "i")


def test_a_damaged_shard_is_not_merged(store: Datastore, tmp_path: Path) -> None:
    in_shards(store, tmp_path / "i")
    path = shard_path(tmp_path / "i", 1, 3)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatastoreError, match=r"shard-1-of-3 is damaged.*same command again"):
        in_shards(store, tmp_path / "i", merge="memory")
    assert not (tmp_path / "i").exists()
    manifest_path(path).unlink()
    at_once(store, tmp_path / "one")
    in_shards(store, tmp_path / "i", merge="memory")
    assert (tmp_path / "i").read_bytes() == (tmp_path / "one").read_bytes()


@pytest.mark.parametrize("spec", ["Flat", "HNSW32", "IVF16,PQ4x4fs", "IVF16,PQ4+4", "IVF16,SQ8,RFlat", "OPQ4,PQ4"])
def test_what_has_no_plain_lists_has_no_shards(store: Datastore, tmp_path: Path, spec: str) -> None:
    with pytest.raises(ConfigError, match=r"has no plain inverted lists, .* give --index-spec IVF… with PQ,"):
        in_shards(store, tmp_path / "i", spec)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"num_shards": 4}, "were begun for --num-shards 3, not 4; give the same flags to go on, or --overwrite"),
        ({"spec": "IVF8,SQ8"}, "were begun with spec IVF16,SQ8, nlist 16"),
        ({"probe": 9}, "were begun with nprobe 8, not as this command says"),
        ({"with_rows": True}, "were begun without --with-rows"),
    ],
)
def test_another_command_does_not_touch_shards(
    store: Datastore, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    in_shards(store, tmp_path / "i", shard_id=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DatastoreError, match=words):
        in_shards(store, tmp_path / "i", **more)
    with pytest.raises(DatastoreError, match="is in shards, finished or not; give --num-shards to go on"):
        at_once(store, tmp_path / "i")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    in_shards(store, tmp_path / "i", overwrite=True, **more)
    assert f"i.shard-0-of-{more.get('num_shards', 3)}" in names(tmp_path / "i")
    assert ("i.shard-0-of-3" in names(tmp_path / "i")) == ("num_shards" not in more)


def test_shards_take_no_more_rows_and_are_no_index_of_their_own(tmp_path: Path) -> None:
    store = write_store(tmp_path, keys=clustered_keys(600))
    in_shards(store, tmp_path / "i", "IVF8,SQ8")
    in_shards(store, tmp_path / "d", "IVF8,SQ8", merge="disk")
    store = grow(store, clustered_keys(50, seed=3), values_of(50))
    for name, words in (("i", "in shards"), ("d", "on the disk")):
        for retrain in (False, True):
            with pytest.raises(DatastoreError, match=f"has its lists {words}, to which no rows can be added; build it"):
                append_to_index(store, config(store, tmp_path / name, append=True, retrain=retrain), tmp_path / name)
    with pytest.raises(MismatchError, match=r"has some of the rows only, as shard 1 of 3; give --indexfile the name"):
        open_index(shard_path(tmp_path / "i", 1, 3))
    with pytest.raises(DatastoreError, match="is in shards, but one file is wanted here"):
        read_index(tmp_path / "i")


def test_a_replaced_index_leaves_no_lists_behind(store: Datastore, tmp_path: Path) -> None:
    at_once(store, tmp_path / "one")
    in_shards(store, tmp_path / "i", merge="disk")
    assert at_once(store, tmp_path / "i").lists, "the same index: nothing to do"
    with pytest.raises(DatastoreError, match="exists, as an index in one file"):
        in_shards(store, tmp_path / "i", merge="memory")
    at_once(store, tmp_path / "i", overwrite=True)
    assert (tmp_path / "i").read_bytes() == (tmp_path / "one").read_bytes()
    assert names(tmp_path / "i") == ["i", "i.json", "i.trained", "i.trained.json"]
    in_shards(store, tmp_path / "i", overwrite=True)
    assert not (tmp_path / "i").exists() and is_sharded(tmp_path / "i")


@pytest.mark.parametrize("merge", ["none", "memory"])
def test_what_is_replaced_is_there_until_the_new_index_is_trained(
    store: Datastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: str
) -> None:
    in_shards(store, tmp_path / "i", merge=merge)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "train", fail)
    with pytest.raises(KeyboardInterrupt):
        in_shards(store, tmp_path / "i", "IVF8,SQ8", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    in_shards(store, tmp_path / "i", "IVF8,SQ8", overwrite=True)
    assert not (tmp_path / "i").exists() and read_shards(tmp_path / "i").index.spec == "IVF8,SQ8"


def test_one_shard_is_built_again_alone(store: Datastore, tmp_path: Path) -> None:
    in_shards(store, tmp_path / "i")
    before = {number: shard_path(tmp_path / "i", number, 3).stat() for number in range(3)}
    content = shard_path(tmp_path / "i", 1, 3).read_bytes()
    in_shards(store, tmp_path / "i", shard_id=1, overwrite=True)
    after = {number: shard_path(tmp_path / "i", number, 3).stat() for number in range(3)}
    assert {number for number in before if after[number] != before[number]} == {1}
    assert shard_path(tmp_path / "i", 1, 3).read_bytes() == content


def test_more_shards_than_rows(tmp_path: Path) -> None:
    store = write_store(tmp_path, keys=clustered_keys(20))
    with pytest.raises(ConfigError, match=r"--num-shards 21 is more than the 20 rows of .*; lower it"):
        in_shards(store, tmp_path / "i", "IVF2,Flat", num_shards=21)
    in_shards(store, tmp_path / "i", "IVF2,Flat", num_shards=20)
    assert [rows.num_rows for rows in read_shards(tmp_path / "i").rows_of_shards] == [1] * 20


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"shard_id": 1}, "--shard-id needs --num-shards"),
        ({"merge": "disk"}, "--merge needs --num-shards"),
        ({"with_rows": True}, "--with-rows needs --num-shards"),
        ({"num_shards": 2, "shard_id": 2}, "--shard-id 2 must be from 0 to 1"),
        ({"num_shards": 2, "shard_id": 1, "merge": "memory"}, "--merge memory needs all shards"),
        ({"num_shards": 2, "append": True}, "--append and --num-shards exclude each other"),
        ({"num_shards": 2, "with_rows": True, "merge": "disk"}, "--with-rows is for shards that stay"),
    ],
)
def test_flags_that_do_not_go_together(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BuildConfig(dstore_mmap="d", faiss_index="i", **more)


def test_rows_that_are_forgotten_are_not_found_in_lists_on_the_disk(tmp_path: Path) -> None:
    store = write_store(tmp_path, keys=clustered_keys(600))
    in_shards(store, tmp_path / "i", "IVF8,Flat", merge="disk", num_shards=2)
    forgotten = RowRanges.of([[100, 300]])
    index = without_rows(open_index(tmp_path / "i", nprobe=8), forgotten, 400)
    assert store.keys_ND is not None
    _, ids = search(index, np.ascontiguousarray(store.keys_ND[::7]), 5)
    assert not forgotten.holds(ids).any() and (ids >= 0).all()
    assert read_manifest(manifest_path(tmp_path / "i"), IndexManifest) is not None
