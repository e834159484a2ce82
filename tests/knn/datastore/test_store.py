"""The datastore's files: bytes, manifests, resuming, and everything that is refused."""

import json
import shutil
import struct

import numpy as np
import pytest
from msgspec import UNSET

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore import row_writer
from fairseq.knn.datastore.format import append_path
from fairseq.knn.datastore.manifest import manifest_path, write_manifest
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore, DatastoreWriter, check_ids
from tests.builders.power_cut import PowerCuts
from tests.builders.small_store import ROWS, WIDTH, clustered_keys, values_of, write_store


def write_raw(prefix, keys: np.ndarray, values: np.ndarray) -> None:
    prefix.with_name(prefix.name + "_keys.npy").write_bytes(keys.tobytes())
    prefix.with_name(prefix.name + "_vals.npy").write_bytes(values.tobytes())


def test_the_bytes_of_both_files(tmp_path, manifest):
    with DatastoreWriter.create(tmp_path / "d", manifest.replace(rows=2, dimension=3)) as writer:
        writer.append(np.array([[1, 2, 3]], np.float32), np.array([40000]))
        writer.append(np.array([[4, 5, -6]], np.float32), np.array([[2]]))
        writer.finish()
    assert (tmp_path / "d_keys.npy").read_bytes() == struct.pack("<6f", 1, 2, 3, 4, 5, -6)
    assert (tmp_path / "d_vals.npy").read_bytes() == struct.pack("<2q", 40000, 2)
    assert json.loads((tmp_path / "d.json").read_text())["state"] == "complete"


def test_files_of_the_older_tools_written_by_hand(tmp_path):
    (tmp_path / "d_keys.npy").write_bytes(struct.pack("<6f", 1, 2, 3, 4, 5, -6))
    (tmp_path / "d_vals.npy").write_bytes(struct.pack("<2q", 40000, 2))
    for rows in (None, 2):
        store = Datastore.open(tmp_path / "d", rows=rows, dimension=3, vocabulary_size=50000)
        assert store.rows == 2 and store.manifest is None
        assert store.keys_ND.tolist() == [[1, 2, 3], [4, 5, -6]]
        assert store.values_N.tolist() == [40000, 2]


@pytest.mark.parametrize("key_dtype", ["float32", "float16"])
@pytest.mark.parametrize("value_dtype", ["int64", "int32"])
@pytest.mark.parametrize("rows", [None, ROWS])
def test_layouts_of_other_tools(tmp_path, key_dtype, value_dtype, rows):
    write_raw(tmp_path / "d", clustered_keys().astype(key_dtype), values_of().astype(value_dtype))
    store = Datastore.open(
        tmp_path / "d", rows=rows, dimension=WIDTH, key_fp16=key_dtype == "float16", vocabulary_size=50000
    )
    assert (store.rows, store.keys_ND.dtype, store.values_N.dtype) == (ROWS, key_dtype, value_dtype)
    assert np.array_equal(store.values_N, values_of())


def test_float16_beside_int32_is_recognised_without_any_flag(tmp_path):
    write_raw(tmp_path / "d", clustered_keys().astype(np.float16), values_of().astype(np.int32))
    store = Datastore.open(tmp_path / "d", dimension=WIDTH, vocabulary_size=50000)
    assert (store.rows, store.keys_ND.dtype) == (ROWS, np.float16)


@pytest.mark.pitfall(1)
def test_int16_values(tmp_path, caplog):
    keys = clustered_keys().astype(np.float16)
    write_raw(tmp_path / "small", keys, (values_of() - 39000).astype(np.int16))
    store = Datastore.open(tmp_path / "small", rows=ROWS, dimension=WIDTH, key_fp16=True, vocabulary_size=20000)
    assert np.array_equal(store.values_N, values_of() - 39000) and "int16" in caplog.text
    with pytest.raises(DatastoreError, match="above 32767 do not fit"):
        Datastore.open(tmp_path / "small", rows=ROWS, dimension=WIDTH, key_fp16=True, vocabulary_size=267744)
    one = values_of() - 39000
    one[700] = -5
    write_raw(tmp_path / "overflowed", keys, one.astype(np.int16))
    with pytest.raises(DatastoreError, match="words are lost"):
        Datastore.open(tmp_path / "overflowed", rows=ROWS, dimension=WIDTH, key_fp16=True)


def test_sizes_that_fit_nothing(tmp_path):
    write_raw(tmp_path / "d", clustered_keys(), values_of())
    with pytest.raises(DatastoreError, match="check --dimension"):
        Datastore.open(tmp_path / "d", rows=ROWS, dimension=WIDTH + 1)
    with pytest.raises(DatastoreError, match=f"--dstore-size {9 * ROWS} is larger than the"):
        Datastore.open(tmp_path / "d", rows=9 * ROWS, dimension=WIDTH, vocabulary_size=50000)
    with pytest.raises(DatastoreError, match="not float16"):
        Datastore.open(tmp_path / "d", rows=ROWS, dimension=WIDTH, key_fp16=True, vocabulary_size=50000)


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.pitfall(3)
def test_size_larger_and_smaller(tmp_path, make_store, caplog, with_manifest):
    make_store()
    if not with_manifest:
        (tmp_path / "dstore.json").unlink()
    prefix, known = tmp_path / "dstore", dict(dimension=WIDTH, vocabulary_size=50000)
    with pytest.raises(DatastoreError, match=rf"^--dstore-size {9 * ROWS} is larger than .*; leave the flag out$"):
        Datastore.open(prefix, rows=9 * ROWS, **known)
    store = Datastore.open(prefix, rows=100, **known)
    assert store.rows == len(store.keys_ND) == len(store.values_N) == 100
    assert "the others are left out" in caplog.text
    assert np.array_equal(store.keys_ND, clustered_keys()[:100])


@pytest.mark.pitfall(1)
def test_values_above_int16_survive_beside_float16_keys(make_store):
    store = make_store(key_dtype="float16")
    assert store.keys_ND.dtype == np.float16
    assert np.array_equal(store.values_N, values_of()) and store.values_N.max() > 32767


def test_without_keys_their_file_need_not_exist(make_store, tmp_path):
    make_store()
    assert Datastore.open(tmp_path / "dstore", load_keys=False).keys_ND is None
    (tmp_path / "dstore_keys.npy").unlink()
    store = Datastore.open(tmp_path / "dstore", load_keys=False)
    assert store.keys_ND is None and np.array_equal(store.values_N, values_of())
    with pytest.raises(DatastoreError, match=r"dstore_keys\.npy does not exist"):
        Datastore.open(tmp_path / "dstore")
    (tmp_path / "dstore.json").unlink()
    assert Datastore.open(tmp_path / "dstore", load_keys=False, dimension=WIDTH).rows == ROWS


def test_in_memory_is_equal_and_not_a_mapped_file(make_store, tmp_path):
    mapped = make_store()
    loaded = Datastore.open(tmp_path / "dstore", in_memory=True)
    assert type(loaded.keys_ND) is np.ndarray and np.array_equal(loaded.keys_ND, mapped.keys_ND)


def test_truncated_file_is_refused(make_store, tmp_path):
    make_store()
    with (tmp_path / "dstore_keys.npy").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DatastoreError, match="by its manifest"):
        Datastore.open(tmp_path / "dstore")


@pytest.mark.parametrize("synced", [True, False])
@pytest.mark.pitfall(5)
def test_resumed_equals_uninterrupted(tmp_path, manifest, make_store, monkeypatch, synced):
    make_store("whole")
    keys, values = clustered_keys(), values_of()
    monkeypatch.setattr(row_writer, "SYNC_ROWS", 200)
    writer = DatastoreWriter.create(tmp_path / "part", manifest)
    for start in range(0, 900, 90):
        writer.append(keys[start : start + 90], values[start : start + 90])
    if synced:  # Ctrl-C: the context is left; else: killed, with rows in the files that the manifest does not count
        writer.__exit__(None, None, None)
    else:
        writer._keys.file.close()
        writer._values.file.close()
        writer._held.close()
    with pytest.raises(DatastoreError, match="unfinished"):
        Datastore.open(tmp_path / "part")
    with DatastoreWriter.create(tmp_path / "part", manifest) as writer:
        assert writer.rows_done == (900 if synced else 810)
        writer.append(keys[writer.rows_done :], values[writer.rows_done :])
        done = writer.finish()
    assert (done.state, done.rows_written) == ("complete", ROWS)
    for suffix in ("_keys.npy", "_vals.npy", ".json"):
        assert (tmp_path / f"part{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


@pytest.mark.pitfall(5)
def test_nothing_is_replaced_without_overwrite(tmp_path, manifest, make_store):
    make_store()
    with pytest.raises(DatastoreError, match="complete datastore of 1500 rows"):
        DatastoreWriter.create(tmp_path / "dstore", manifest)
    write_manifest(tmp_path / "dstore.json", manifest.replace(weights_sha256="x" * 64))
    with pytest.raises(MismatchError, match="another run"):
        DatastoreWriter.create(tmp_path / "dstore", manifest)
    with DatastoreWriter.create(tmp_path / "dstore", manifest, overwrite=True) as writer:
        assert writer.rows_done == 0


@pytest.mark.parametrize("overwrite", [False, True])
def test_rows_without_a_manifest_are_somebody_elses(tmp_path, manifest, make_store, overwrite):
    make_store()
    (tmp_path / "dstore.json").unlink()
    with pytest.raises(ConfigError, match="is not the keys of a datastore that this program wrote"):
        DatastoreWriter.create(tmp_path / "dstore", manifest, overwrite=overwrite)
    assert (tmp_path / "dstore_vals.npy").stat().st_size == 8 * ROWS


def test_missing_rows_and_keys_that_do_not_fit(tmp_path, manifest):
    small = manifest.replace(rows=3, dimension=2, key_dtype="float16")
    with DatastoreWriter.create(tmp_path / "d", small) as writer:
        writer.append(np.zeros((1, 2), np.float32), np.array([1]))
        with pytest.raises(DatastoreError, match="must get 3 rows, but got 1"):
            writer.finish()
        with pytest.raises(DatastoreError, match="row 2 has 70000, beyond float16"):
            writer.append(np.array([[0, 0], [70000, 0]], np.float32), np.array([1, 1]))
        with pytest.raises(DatastoreError, match="row 1 is not finite"):
            writer.append(np.array([[np.nan, 0]], np.float32), np.array([1]))


def test_a_power_cut_leaves_every_row_that_the_manifest_counts(tmp_path, manifest, monkeypatch):
    keys, values = clustered_keys(60), values_of(60)
    monkeypatch.setattr(row_writer, "SYNC_ROWS", 20)
    (tmp_path / "d").mkdir()
    cuts = PowerCuts(monkeypatch, tmp_path / "d")
    with DatastoreWriter.create(tmp_path / "d" / "s", manifest.replace(rows=60)) as writer:
        for start in range(0, 60, 10):
            writer.append(keys[start : start + 10], values[start : start + 10])
        writer.finish()
    whole = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    counted = []
    for state in cuts.states:
        record = json.loads(state.get("s.json", b"{}"))
        rows = record.get("rows_written", 0)
        assert state.get("s_keys.npy", b"")[: rows * 4 * WIDTH] == keys[:rows].tobytes()
        assert state.get("s_vals.npy", b"")[: rows * 8] == values[:rows].tobytes()
        assert record.get("state") != "complete" or state.items() >= whole.items()
        counted.append(rows)
    assert {0, 20, 40, 60} <= set(counted)


def test_an_id_is_below_the_size_of_the_vocabulary(tmp_path, manifest):
    small = manifest.replace(rows=4, dimension=2, vocabulary_size=40)
    with DatastoreWriter.create(tmp_path / "d", small) as writer:
        for wrong in ([1, 40], [-1, 39]):
            with pytest.raises(AssertionError, match="ids out of range"):
                writer.append(np.zeros((2, 2), np.float32), np.array(wrong))
        writer.append(np.zeros((2, 2), np.float32), np.array([0, 39]))
    check_ids(tmp_path / "d", np.array([0, 39]), 40)
    for wrong in ([0, 40], [-1, 39]):
        with pytest.raises(DatastoreError, match="must be from 0 to 39, but are from"):
            check_ids(tmp_path / "d", np.array(wrong), 40)


def test_a_writer_begins_at_the_first_row_whatever_the_manifest_says_of_progress(tmp_path, manifest):
    with DatastoreWriter.create(tmp_path / "d", manifest.replace(state="complete", rows_written=9)) as writer:
        assert writer.rows_done == 0
        record = json.loads((tmp_path / "d.json").read_text())
        assert (record["state"], record["rows_written"]) == ("writing", 0)
    with pytest.raises(DatastoreError, match="is unfinished: 0 of 1500 rows"):
        Datastore.open(tmp_path / "d")


@pytest.mark.pitfall(1)
@pytest.mark.parametrize(("vocabulary_size", "fits"), [(32768, True), (32769, False)])
def test_every_id_of_a_vocabulary_of_two_to_the_fifteenth_fits_int16(tmp_path, vocabulary_size, fits):
    write_raw(tmp_path / "d", clustered_keys(4), np.array([4, 5, 32767, 9], np.int16))
    opened = dict(rows=4, dimension=WIDTH, vocabulary_size=vocabulary_size)
    if fits:
        assert Datastore.open(tmp_path / "d", **opened).values_N.tolist() == [4, 5, 32767, 9]
        return
    with pytest.raises(DatastoreError, match="above 32767 do not fit"):
        Datastore.open(tmp_path / "d", **opened)


def test_what_is_left_are_the_rows_that_are_not_forgotten(make_store):
    store = make_store()
    store.forgotten = RowRanges.of([[3, 10], [20, 21]])
    assert store.rows_left == ROWS - 8 == store.left.num_rows
    assert store.left.pairs == [[0, 3], [10, 20], [21, ROWS]]


@pytest.mark.parametrize("end", ["_keys.npy", "_vals.npy"])
def test_a_file_that_was_exchanged_for_one_of_the_same_size_is_refused(tmp_path, end) -> None:
    own = write_store(tmp_path)
    write_store(tmp_path, "other", clustered_keys(seed=8), values_of(seed=8))
    assert own.manifest is not None and own.manifest.fingerprints
    shutil.copy(tmp_path / f"other{end}", tmp_path / f"dstore{end}")
    with pytest.raises(DatastoreError, match=f"dstore{end} is not the file that its manifest was written for"):
        Datastore.open(tmp_path / "dstore")
    if end == "_keys.npy":  # which are not wanted then
        assert Datastore.open(tmp_path / "dstore", load_keys=False).keys_ND is None
    write_manifest(manifest_path(tmp_path / "dstore"), own.manifest.replace(fingerprints=UNSET))
    assert Datastore.open(tmp_path / "dstore").rows == ROWS  # of an older version: only sizes are known
    assert own.store_id == Datastore.open(tmp_path / "dstore").store_id


def test_rows_that_are_being_appended_lie_behind_those_of_the_fingerprints(tmp_path) -> None:
    own = write_store(tmp_path)
    for end in ("_keys.npy", "_vals.npy"):
        with (tmp_path / f"dstore{end}").open("ab") as file:
            file.write(bytes(640))
    append_path(tmp_path / "dstore").write_bytes(b"{}")
    assert Datastore.open(tmp_path / "dstore").rows == own.rows


def test_a_datastore_without_a_manifest_is_known_by_its_keys_values_and_layout(tmp_path):
    def id_of(name, keys, values, **known):
        write_raw(tmp_path / name, keys, values)
        return Datastore.open(tmp_path / name, dimension=WIDTH, vocabulary_size=50000, **known).store_id

    keys, values = clustered_keys(30), values_of(30)
    own = id_of("d", keys, values)
    assert own == id_of("again", keys.copy(), values.copy()) is not None
    other_keys, other_values = keys.copy(), values.copy()
    other_keys[-1, 0] += 1
    other_values[0] += 1
    different = [
        id_of("keys", other_keys, values),
        id_of("values", keys, other_values),
        id_of("narrow", keys, values.astype(np.int32)),
    ]
    assert len({own, *different}) == 4
    assert Datastore.open(tmp_path / "d", dimension=WIDTH, load_keys=False).store_id == own
    (tmp_path / "d_keys.npy").unlink()
    assert Datastore.open(tmp_path / "d", dimension=WIDTH, load_keys=False).store_id is None


def test_a_writer_that_goes_on_needs_room_for_the_rest_only(tmp_path, manifest, monkeypatch):
    keys, values, row = clustered_keys(), values_of(), 4 * WIDTH + 8
    free = [ROWS * row]
    monkeypatch.setattr("fairseq.runtime.resources.free_disk_bytes", lambda path: free[0])
    with DatastoreWriter.create(tmp_path / "d", manifest) as writer:
        writer.append(keys[:900], values[:900])
    free[0] = 600 * row - 1
    with pytest.raises(ConfigError, match="make room, or give --dstore-fp16"):
        DatastoreWriter.create(tmp_path / "d", manifest)
    free[0] = 600 * row
    with DatastoreWriter.create(tmp_path / "d", manifest) as writer:
        assert writer.rows_done == 900
