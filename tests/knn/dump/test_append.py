"""Appending: which rows may join a datastore, and where an append that was stopped goes on."""

import logging
from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET

from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.datastore.format import append_path
from fairseq.knn.datastore.manifest import DatastoreManifest, write_manifest
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.datastore.writer import DatastoreWriter
from fairseq.knn.dump.append import appended_so_far, open_target
from tests.builders.small_store import WIDTH, clustered_keys, small_manifest, values_of, write_store

OLD, NEW = 30, 20
SETTINGS = {"data": "train", "data_sha256": "a" * 64, "context_window": 8}
OTHER = {"data": "valid", "data_sha256": "b" * 64, "context_window": 8}


@pytest.fixture
def store(tmp_path: Path) -> Datastore:
    return write_store(tmp_path, "d", clustered_keys(OLD), settings=SETTINGS)


def new(**changes: object) -> DatastoreManifest:
    return small_manifest(**{"rows": NEW, "settings": OTHER, **changes})


def test_the_rows_of_another_text_go_behind_and_are_a_segment(store: Datastore) -> None:
    opened, target = open_target(store.prefix, new())
    assert target is not None and (opened.rows, target.rows) == (OLD, OLD + NEW)
    assert [(one.settings, one.rows) for one in target.all_segments] == [(SETTINGS, OLD), (OTHER, NEW)]
    start = appended_so_far(store.prefix, opened, target)
    with DatastoreWriter.extend(store.prefix, start, 60) as writer:
        writer.append(clustered_keys(NEW, seed=4), values_of(NEW, seed=5))
        writer.finish()
    found = Datastore.open(store.prefix)
    assert found.store_id == target.store_id and not append_path(store.prefix).exists()
    assert np.array_equal(found.keys_ND, np.concatenate([clustered_keys(OLD), clustered_keys(NEW, seed=4)]))
    assert open_target(store.prefix, new())[1] is None, "they are there already"


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": WIDTH + 1},
        {"key_type": "another"},
        {"key_dtype": "float16"},
        {"vocabulary_size": 7},
        {"dictionary_sha256": "0" * 64},
        {"weights_sha256": "0" * 64},
    ],
)
def test_rows_of_another_model_or_type_are_refused(store: Datastore, change: dict) -> None:
    with pytest.raises(MismatchError, match="but the rows to append have"):
        open_target(store.prefix, new(**change))


def test_keys_take_the_type_that_the_datastore_has(tmp_path: Path) -> None:
    store = write_store(tmp_path, "half", clustered_keys(OLD), settings=SETTINGS, key_dtype="float16")
    assert open_target(store.prefix, new())[1] is not None


def test_a_text_that_is_there_is_not_appended_again_and_one_that_is_cut_otherwise_warns(
    store: Datastore, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_target(store.prefix, new(settings={**SETTINGS, "data": "moved/train"}))[1] is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert open_target(store.prefix, new(settings={**SETTINGS, "context_window": 4}))[1] is not None
    assert "rows of this text already, cut in another way: train" in caplog.text
    assert "was written with --context-window 8, but the appended rows have 4" in caplog.text


def test_int16_values_take_no_more_rows(store: Datastore) -> None:
    manifest = store.require_manifest().replace(value_dtype="int16", fingerprints=UNSET)
    values = np.full(OLD, 9, "<i2")
    values.tofile(f"{store.prefix}_vals.npy")
    write_manifest(Path(f"{store.prefix}.json"), manifest.of_files(store.prefix))
    with pytest.raises(DatastoreError, match="no longer written"):
        open_target(store.prefix, new())


@pytest.mark.parametrize(
    ("written", "there", "expected"),
    [
        (None, OLD, OLD),
        (OLD, OLD, OLD),
        (OLD + 7, OLD + 7, OLD + 7),
        (OLD + NEW, OLD + NEW, OLD + NEW),
        (OLD + 7, OLD + 9, OLD + 7),
        (OLD + 7, OLD + 6, OLD),  # the file is shorter than it says
        (OLD - 1, OLD, OLD),  # fewer than the datastore has
        (OLD + NEW + 1, OLD + NEW + 1, OLD),  # more than there will be
    ],
)
@pytest.mark.parametrize("shorter", ["keys", "vals"])
def test_an_append_goes_on_where_its_rows_are_safe(
    store: Datastore, written: int | None, there: int, expected: int, shorter: str
) -> None:
    _, target = open_target(store.prefix, new())
    assert target is not None
    sizes = {"keys": 4 * WIDTH, "vals": 8}
    for name, row_bytes in sizes.items():
        rows = there if name == shorter else max(there, written or 0)
        with Path(f"{store.prefix}_{name}.npy").open("r+b") as file:
            file.truncate(rows * row_bytes)
    if written is not None:
        progress = target.replace(rows_written=written, keys_sha256=("k",), values_sha256=("v",))
        write_manifest(append_path(store.prefix), progress)
    found = appended_so_far(store.prefix, store, target)
    assert (found.rows_written, found.state) == (expected, "writing")
    sums = (("k",), ("v",)) if expected == written else (target.keys_sha256, target.values_sha256)
    assert (found.keys_sha256, found.values_sha256) == sums
    other = target.replace(weights_sha256="0" * 64)
    assert appended_so_far(store.prefix, store, other).rows_written == OLD, "another append's rows are not its own"
