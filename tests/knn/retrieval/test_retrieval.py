"""A saved retrieval: the same columns whatever the order of writing, and nothing that is not whole is read."""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET

from fairseq.errors import ConfigError, DatastoreError, FairseqError
from fairseq.knn.retrieval import writer as retrieval_writer
from fairseq.knn.retrieval.format import Column, Loss, RetrievalManifest, columns_of
from fairseq.knn.retrieval.retrieval import Retrieval, RetrievalWriter, read_known
from fairseq.storage.files import locked
from tests.builders.power_cut import PowerCuts
from tests.builders.small_retrieval import STORE_ROWS, VOCABULARY, small_retrieval

TOKENS, K = 60, 16


@pytest.fixture
def saved(tmp_path):
    return small_retrieval(tmp_path / "hand", TOKENS, K)


def record_of(directory: Path) -> dict:
    return json.loads((directory / "manifest.json").read_text())


def written(source: Path, directory: Path, parts, *, overwrite=False, extra=(), stop=False):
    """Writes what ``source`` holds, some rows at a time, through our writer."""
    manifest = RetrievalManifest.read(source).replace(state="writing", lm=UNSET, mixture=UNSET, files={})
    arrays = {file.stem: np.load(file) for file in source.glob("*.npy")}
    columns = (*columns_of(K, STORE_ROWS), *extra)
    with RetrievalWriter(directory, columns, manifest, overwrite=overwrite) as writer:
        for rows in parts:
            writer.write(rows, **{name: array[rows] for name, array in arrays.items()})
        if stop:
            raise KeyboardInterrupt
        for column in extra:
            shape = column.shape(TOKENS)
            writer.write(np.arange(TOKENS), **{column.name: np.arange(np.prod(shape)).reshape(shape)})
        return writer.finish(Loss(4.0, 16.0), Loss(math.inf, math.inf))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_lie_where_they_belong_whatever_the_order(saved, tmp_path, seed):
    rng = np.random.default_rng(seed)
    order = np.arange(TOKENS) if seed == 0 else rng.permutation(TOKENS)
    if seed == 2:  # whole blocks in any order
        order = np.concatenate([np.arange(s, min(s + 8, TOKENS)) for s in rng.permutation(range(0, TOKENS, 8))])
    manifest = written(tmp_path / "hand", tmp_path / "ours", [*np.array_split(order, 7), order[:0]])
    for file in (tmp_path / "hand").glob("*.npy"):
        assert (tmp_path / "ours" / file.name).read_bytes() == file.read_bytes()
        assert manifest.files[file.name].bytes == file.stat().st_size
    assert RetrievalManifest.read(tmp_path / "ours") == manifest  # an infinite loss is written, and read
    record = record_of(tmp_path / "ours")
    assert (record["state"], record["lm"], record["mixture"]["ppl"]) == (
        "done",
        {"loss_base2": 4.0, "ppl": 16.0},
        math.inf,
    )
    assert not [p.name for p in tmp_path.rglob(".*")] and not (tmp_path / "ours.lock").exists()


def test_the_reader_gives_the_columns(saved, tmp_path):
    found = Retrieval.open(tmp_path / "hand")
    assert (len(found), found.k) == (TOKENS, K)
    pairs = {
        "targets": found.target_N,
        "positions": found.position_N,
        "blocks": found.block_N,
        "ids": found.ids_NK,
        "lm_log_prob": found.lm_log_p_N,
        "distances": found.distances_NK,
    }
    for name, array in pairs.items():
        assert np.array_equal(array, saved[name]) and not array.flags.writeable, name
    assert np.array_equal(found.hits_NK(), saved["hits"])
    assert np.array_equal(found.hits_NK(slice(5, 9)), saved["hits"][5:9]) and found.hits_NK().dtype == bool


def test_ids_may_be_of_either_width(saved, tmp_path):
    np.save(tmp_path / "hand" / "ids.npy", saved["ids"].astype(np.int64))
    assert np.array_equal(Retrieval.open(tmp_path / "hand").ids_NK, saved["ids"])


@pytest.mark.parametrize("k", [1, 8, 9, 17])
def test_bits_of_any_number_of_neighbours(tmp_path, k):
    columns = small_retrieval(tmp_path / "r", 12, k)
    packed = np.load(tmp_path / "r" / "hits.npy")
    for n, j in np.ndindex(12, k):
        assert (
            bool(packed[n, j // 8] >> (j % 8) & 1)
            == columns["hits"][n, j]
            == Retrieval.open(tmp_path / "r").hits_NK()[n, j]
        )


def test_further_columns(saved, tmp_path):
    extra = (Column("lm_entropy", "<f4"), Column("cache_log_prob", "<f4", 3))
    written(tmp_path / "hand", tmp_path / "ours", [np.arange(TOKENS)], extra=extra)
    found = Retrieval.open(tmp_path / "ours").columns
    assert found["lm_entropy"].tolist() == list(range(TOKENS)) and found["cache_log_prob"].shape == (TOKENS, 3)
    assert found["cache_log_prob"].dtype == np.float32 and found["cache_log_prob"][1].tolist() == [3, 4, 5]


def test_a_stopped_run_leaves_nothing_to_read_and_starts_over(saved, tmp_path, caplog):
    ours = tmp_path / "ours"
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "hand", ours, [np.arange(10)], stop=True)
    with pytest.raises(DatastoreError, match="is unfinished; run its fairseq-eval-lm --save-retrieval again"):
        Retrieval.open(ours)
    with caplog.at_level("INFO"):
        written(tmp_path / "hand", ours, [np.arange(TOKENS)])
    assert "an earlier run of" in caplog.text and "starting over" in caplog.text
    assert len(Retrieval.open(ours)) == TOKENS


def test_what_is_finished_is_replaced_only_when_asked(saved, tmp_path):
    ours, parts = tmp_path / "ours", [np.arange(TOKENS)]
    written(tmp_path / "hand", ours, parts, extra=(Column("lm_entropy", "<f4"),))
    before = (ours / "ids.npy").read_bytes()
    opened = Retrieval.open(ours)
    with pytest.raises(
        DatastoreError, match="is a finished retrieval of another command; give another directory, or --overwrite"
    ):
        written(tmp_path / "hand", ours, parts)
    assert (ours / "ids.npy").read_bytes() == before
    written(tmp_path / "hand", ours, parts, overwrite=True)
    assert np.array_equal(opened.ids_NK, saved["ids"]) and not (ours / "lm_entropy.npy").exists()
    (ours / "manifest.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"blocks.npy is there, and is not a column of a retrieval"):
            written(tmp_path / "hand", ours, parts, overwrite=overwrite)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatastoreError, match="must be a directory, but is a file"):
        written(tmp_path / "hand", tmp_path / "file", parts)


def test_one_process_at_a_time(saved, tmp_path):
    with locked(tmp_path / "ours"), pytest.raises(FairseqError, match="is being written by another process"):
        written(tmp_path / "hand", tmp_path / "ours", [])
    assert not (tmp_path / "ours").exists()


def test_a_small_disk(saved, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fairseq.runtime.resources.free_disk_bytes", lambda path: 100)
        with pytest.raises(ConfigError, match=r"[GM]iB of disk.*make room, or give a smaller --k"):
            written(tmp_path / "hand", tmp_path / "ours", [])
    assert not (tmp_path / "ours").exists()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(retrieval_writer.os, "pwrite", full)
    with pytest.raises(OSError, match=r"No space left on device: .*ours"):
        written(tmp_path / "hand", tmp_path / "ours", [np.arange(TOKENS)])
    assert record_of(tmp_path / "ours")["state"] == "writing"


def test_a_power_cut_leaves_every_column_of_what_is_done(saved, tmp_path, monkeypatch):
    ours = tmp_path / "ours"
    ours.mkdir()
    cuts = PowerCuts(monkeypatch, ours)
    written(tmp_path / "hand", ours, [np.arange(TOKENS)])
    states = [json.loads(state.get("manifest.json", b"{}")).get("state") for state in cuts.states]
    whole = {path.name: path.read_bytes() for path in ours.iterdir()}
    assert [state for state in states if state] == ["writing", "done"]
    assert cuts.states[-1] == whole and len(whole) == 8


@pytest.mark.parametrize(("column", "wrong"), [("targets", VOCABULARY), ("targets", -1), ("last_tokens", VOCABULARY)])
def test_an_id_is_below_the_size_of_the_vocabulary(tmp_path, column, wrong):
    small_retrieval(tmp_path / "r", TOKENS, K)
    for name, dtype in (("lm_max_log_prob", "<f4"), ("lm_entropy", "<f4"), ("last_tokens", "<i4")):
        np.save(tmp_path / "r" / f"{name}.npy", np.zeros(TOKENS, dtype))
    files = {path.name: {} for path in (tmp_path / "r").glob("*.npy")}
    edited(tmp_path / "r", files=files)
    array = np.load(tmp_path / "r" / f"{column}.npy")
    for last in (VOCABULARY - 1, wrong):
        array[-1] = last
        np.save(tmp_path / "r" / f"{column}.npy", array)
        if last != wrong:
            assert read_known(Retrieval.open(tmp_path / "r")).last_token_N.shape == (TOKENS,)
    with pytest.raises(DatastoreError, match=rf"{column}.npy: ids must be from 0 to {VOCABULARY - 1}, but are from"):
        read_known(Retrieval.open(tmp_path / "r"))


def test_what_the_system_writes_in_parts_is_written_whole(saved, tmp_path, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: whole(file, data[:7], offset))
    written(tmp_path / "hand", tmp_path / "ours", np.array_split(np.arange(TOKENS), 3))
    for file in (tmp_path / "hand").glob("*.npy"):
        assert (tmp_path / "ours" / file.name).read_bytes() == file.read_bytes()


def test_an_error_of_the_search_closes_what_was_opened(saved, tmp_path):
    """A finished retrieval is not replaced by half of one, and the directory can be written again."""
    with pytest.raises(AssertionError):
        written(tmp_path / "hand", tmp_path / "ours", [np.arange(TOKENS - 1)])  # a row is missing
    assert record_of(tmp_path / "ours")["state"] == "writing"
    assert written(tmp_path / "hand", tmp_path / "ours", [np.arange(TOKENS)]).state == "done"


def test_several_writers_share_the_rows_of_one_retrieval(saved, tmp_path):
    """The first one makes the files, and finishes when all rows are on the disk."""
    source = tmp_path / "hand"
    manifest = RetrievalManifest.read(source).replace(state="writing", lm=UNSET, mixture=UNSET, files={})
    arrays = {file.stem: np.load(file) for file in source.glob("*.npy")}
    given = tmp_path / "ours", columns_of(K, STORE_ROWS), manifest
    with pytest.raises(DatastoreError, match=r"targets.npy is not there, but another process has begun it: all proc"):
        RetrievalWriter(*given, there=True)
    with RetrievalWriter(*given) as first, RetrievalWriter(*given, there=True) as second:
        for writer, rows in ((second, np.arange(5, TOKENS)), (first, np.arange(5))):
            writer.write(rows, **{name: array[rows] for name, array in arrays.items()})
        second.flush(TOKENS - 5)
        first.finish(Loss(4.0, 16.0), Loss(math.inf, math.inf), rows=5)
    for file in source.glob("*.npy"):
        assert (tmp_path / "ours" / file.name).read_bytes() == file.read_bytes()


def edited(directory: Path, **changes) -> None:
    record = record_of(directory)
    record.update(changes)
    (directory / "manifest.json").write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


def cut(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "manifest.json").unlink(), "must be a saved retrieval, but has no manifest.json"),
        (lambda d: (d / "manifest.json").write_text("[" * 9999), "must be JSON"),
        (lambda d: (d / "manifest.json").write_text("3"), "must be of kind 'retrieval', but is of none"),
        (lambda d: edited(d, kind="index"), "must be of kind 'retrieval', but is of kind 'index'"),
        (lambda d: edited(d, version=2), "is of version 2, but this program reads version 1"),
        (lambda d: edited(d, k=...), "lacks the field 'k'"),
        (lambda d: edited(d, k=True), "'k' must be a whole number, but is True"),
        (lambda d: edited(d, lmbda="much"), "'lmbda' must be a number, but is 'much'"),
        (lambda d: edited(d, num_tokens=0), "'num_tokens' must be at least 1, but is 0"),
        (lambda d: edited(d, num_tokens=59), r"blocks.npy must be int32 of shape \(59,\)|must be .* of shape \(59"),
        (lambda d: edited(d, k=17), r"ids.npy must be int32 of shape \(60, 17\), but is int32 of shape \(60, 16\)"),
        (lambda d: edited(d, files={"../x.npy": {}}), "names the file '../x.npy', which is no column"),
        (lambda d: edited(d, files={}), "must have targets.npy, but was saved without"),
        (lambda d: edited(d, vocabulary_size=10), "ids must be from 0 to 9"),
        (lambda d: (d / "hits.npy").unlink(), "hits.npy does not exist, but its manifest names it"),
        (lambda d: cut(d / "ids.npy", 999), "must be a whole .npy file"),
        (lambda d: cut(d / "ids.npy", 0), "must be a whole .npy file"),
        (lambda d: (d / "hits.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': 'O'   "), "must be a whole .npy"),
        (lambda d: np.save(d / "blocks.npy", np.arange(60.0)), "blocks.npy must be int32 of shape"),
        (lambda d: np.save(d / "blocks.npy", np.arange(60)), "blocks.npy must be int32 of shape"),
        (lambda d: np.save(d / "targets.npy", np.full(60, 5)), "targets.npy must be int32 of shape"),
        (lambda d: np.save(d / "blocks.npy", np.array([None] * 60)), "must be a whole .npy file"),
    ],
)
def test_broken_ones_are_refused(saved, tmp_path, damage, message):
    damage(tmp_path / "hand")
    with pytest.raises(DatastoreError, match=message):
        Retrieval.open(tmp_path / "hand")
