"""Ranges of a datastore: joined, they are the files of one process, byte for byte, or the fault is told in one line."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, FairseqError, MismatchError
from fairseq.knn.datastore import row_writer
from fairseq.knn.datastore.range_record import RangeRecord, range_path, read_range
from fairseq.knn.datastore.store import Datastore, DatastoreWriter
from fairseq.knn.dump import join
from fairseq.knn.dump.join import join_datastore
from fairseq.knn.dump.range_writer import RangeWriter
from fairseq.storage.files import locked
from tests.builders.small_store import clustered_keys, small_manifest, values_of, write_store

ROWS, CHUNK = 100, 16
CUTS = {1: [0, 100], 2: [0, 48, 100], 3: [0, 33, 33, 100], 4: [0, 3, 5, 90, 100]}  # an empty range, chunks of three


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes chunks so small that ranges have several, and share some."""
    for module in ("fairseq.knn.datastore.format", "fairseq.knn.dump.join"):
        monkeypatch.setattr(f"{module}.CHUNK_ROWS", CHUNK)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Returns the prefix of the datastore that one process has written."""
    (tmp_path / "one").mkdir()
    return write_store(tmp_path / "one", "d", clustered_keys(ROWS), values_of(ROWS)).prefix


def write_range(prefix: Path, number: int, count: int, *, stop: int | None = None, overwrite: bool = False, **changes):
    """Writes a range, or its first rows, some at a time."""
    manifest = small_manifest(**{"rows": ROWS, **changes})
    rows = range(*CUTS[count][number : number + 2])
    keys, values = clustered_keys(ROWS), values_of(ROWS)
    prefix.parent.mkdir(exist_ok=True)
    with RangeWriter.create(prefix, manifest, number, count, rows, overwrite=overwrite, save_interval_s=1e9) as writer:
        end = rows.stop if stop is None else stop
        while (start := writer.rows_done) < end:
            writer.append(keys[start : min(start + 7, end)], values[start : min(start + 7, end)])
        if stop is None:
            writer.finish()


def assert_same(prefix: Path, whole: Path) -> None:
    """Asserts that a directory has the files of the other, and no more."""
    found = {path.name: path.read_bytes() for path in prefix.parent.iterdir()}
    assert found == {path.name: path.read_bytes() for path in whole.parent.iterdir()}


@pytest.mark.parametrize("count", CUTS)
@pytest.mark.parametrize("backwards", [False, True])
def test_ranges_in_one_place_are_joined_to_the_bytes_of_one_process(tmp_path, whole, count, backwards):
    prefix = tmp_path / "ranges" / "d"
    for number in sorted(range(count), reverse=backwards):
        write_range(prefix, number, count)
    said = join_datastore([str(prefix)], None, overwrite=False)
    assert said.startswith(f"{prefix}: {ROWS} rows of width 16, of {count} ranges, store ")
    assert_same(prefix, whole)
    assert join_datastore([str(prefix)], None, overwrite=False).startswith(f"{prefix} is whole already")


def test_a_datastore_of_several_chunks_has_the_checksums_of_a_naive_loop(whole):
    """The oracle of the test above is sound: one process hashes every chunk of 16 rows."""
    import hashlib

    data, row_bytes = Path(f"{whole}_keys.npy").read_bytes(), 64
    sums = [hashlib.sha256(data[at : at + CHUNK * row_bytes]).hexdigest() for at in range(0, len(data), 1024)]
    manifest = Datastore.open(whole).manifest
    assert manifest is not None and list(manifest.keys_sha256) == sums


@pytest.mark.parametrize("stop", [33, 34, 47, 48, 50, 90, 100])
def test_a_range_that_was_stopped_goes_on(tmp_path, whole, stop, monkeypatch):
    monkeypatch.setattr(row_writer, "SYNC_ROWS", 10)
    prefix = tmp_path / "ranges" / "d"
    write_range(prefix, 0, 3)
    write_range(prefix, 2, 3, stop=stop)
    record = read_range(range_path(prefix, 2, 3))
    assert (record.rows_written, record.is_complete) == (stop - 33, False)
    with Path(f"{prefix}_keys.npy").open("r+b") as file:  # rows that were not on the disk yet, torn
        file.seek(stop * 64)
        file.write(b"\xff" * min(96, (ROWS - stop) * 64))
    write_range(prefix, 2, 3)
    write_range(prefix, 1, 3)
    join_datastore([str(prefix)], None, overwrite=False)
    assert_same(prefix, whole)


def test_ranges_on_disks_of_their_own_are_copied_to_one(tmp_path, whole):
    prefixes = [str(tmp_path / f"disk{number}" / "d") for number in range(4)]
    for number in (0, 1, 2, 3):
        write_range(Path(prefixes[number]), number, 4)
    before = {path: path.read_bytes() for path in tmp_path.glob("disk*/*")}
    target = tmp_path / "all" / "d"
    join_datastore(prefixes, str(target), overwrite=False)
    assert_same(target, whole)
    assert before == {path: path.read_bytes() for path in tmp_path.glob("disk*/*")}
    assert "is whole already" in join_datastore(prefixes, str(target), overwrite=False)


def test_ranges_are_copied_to_where_some_are(tmp_path, whole):
    first, second = tmp_path / "disk0" / "d", tmp_path / "disk1" / "d"
    for number, prefix in enumerate([first, second, second, first]):
        write_range(prefix, number, 4)
    with pytest.raises(ConfigError, match="are several places, and ranges are copied to one; give --dstore-mmap"):
        join_datastore([str(first), str(second)], None, overwrite=False)
    join_datastore([str(first), str(second)], str(first), overwrite=False)
    assert_same(first, whole)


def test_a_join_that_was_stopped_goes_on(tmp_path, whole, monkeypatch):
    """It is killed after each of its writes: of the copies' records, and of the manifest."""
    prefixes = [str(tmp_path / f"disk{number}" / "d") for number in range(2)]
    for number in range(2):
        write_range(Path(prefixes[number]), number, 2)
    monkeypatch.setattr(join, "_COPIED_BYTES", 10 * 72)
    monkeypatch.setattr(row_writer, "SYNC_ROWS", 10)
    target, check = tmp_path / "all" / "d", join.check

    class KilledError(Exception):
        """The process ended here."""

    copied = 0
    for allowed in range(20):
        left = [allowed]

        def stop(advice: str, left: list[int] = left) -> None:
            nonlocal copied
            copied += 1
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            check(advice)

        monkeypatch.setattr(join, "check", stop)
        try:
            join_datastore(prefixes, str(target), overwrite=False)
            break
        except KilledError:
            continue
    assert allowed > 1
    assert copied == 11  # ten rows each, none of them twice
    assert_same(target, whole)


def test_a_join_that_was_killed_before_it_removed_the_records_is_done(tmp_path, whole, monkeypatch):
    prefix = tmp_path / "ranges" / "d"
    for number in range(2):
        write_range(prefix, number, 2)
    with monkeypatch.context() as patch:
        patch.setattr(join, "remove_ranges", lambda prefix: None)
        join_datastore([str(prefix)], None, overwrite=False)
    assert Datastore.open(prefix).rows == ROWS and range_path(prefix, 0, 2).exists()
    join_datastore([str(prefix)], None, overwrite=False)
    assert_same(prefix, whole)


def test_what_is_missing_is_told(tmp_path):
    prefix = tmp_path / "ranges" / "d"
    write_range(prefix, 0, 4)
    write_range(prefix, 2, 4, stop=50)
    what = "range 1 of 4 is missing, range 2 of 4 has 45 of 85 rows, range 3 of 4 is missing; run the command of each"
    with pytest.raises(DatastoreError, match=f"{prefix} is not whole: {what}"):
        join_datastore([str(prefix)], None, overwrite=False)
    with pytest.raises(DatastoreError, match=f"{prefix} is unfinished: {what}"):
        Datastore.open(prefix)
    for number in (1, 2, 3):
        write_range(prefix, number, 4)
    with pytest.raises(DatastoreError, match=f"all of its 4 ranges are written; fairseq-knnlm join {prefix} makes"):
        Datastore.open(prefix)


def test_what_is_missing_on_all_disks_is_told(tmp_path):
    prefixes = [tmp_path / f"disk{number}" / "d" for number in range(2)]
    for number, prefix in enumerate(prefixes):
        write_range(prefix, number, 3)
    what = r"range 2 of 3 is missing; run its command again \(--num-shards 3 --shard-id 2, or torchrun's\)"
    with pytest.raises(DatastoreError, match=rf"disk0/d, .*disk1/d: {what}; give the prefixes of all ranges"):
        join_datastore([str(prefix) for prefix in prefixes], str(tmp_path / "all" / "d"), overwrite=False)
    assert not (tmp_path / "all").exists()


def test_ranges_of_another_run_are_refused(tmp_path, whole):
    first, other, copy = (tmp_path / name / "d" for name in ("disk0", "disk1", "disk2"))
    write_range(first, 0, 2)
    write_range(other, 1, 2, weights_sha256="x" * 64)
    with pytest.raises(
        MismatchError, match=r"disk0/d is of train; .*disk1/d has another checkpoint; give ranges of one run"
    ):
        join_datastore([str(first), str(other)], str(copy), overwrite=False)
    shutil.rmtree(other.parent)
    write_range(other, 2, 4)
    with pytest.raises(DatastoreError, match=r"disk1/d is in 4 ranges, but .*disk0/d in 2"):
        join_datastore([str(first), str(other)], str(copy), overwrite=False)
    with pytest.raises(DatastoreError, match="is a whole datastore, not a range of one"):
        join_datastore([str(first), str(whole)], str(copy), overwrite=False)
    with pytest.raises(DatastoreError, match="there is no datastore"):
        join_datastore([str(tmp_path / "nothing")], None, overwrite=False)
    assert not copy.parent.exists()


def test_a_datastore_that_one_process_writes_is_in_no_ranges(tmp_path):
    with DatastoreWriter.create(tmp_path / "d", small_manifest(rows=ROWS)) as writer:
        writer.append(clustered_keys(ROWS)[:20], values_of(ROWS)[:20])
    with pytest.raises(DatastoreError, match="not in ranges: one process has written 20 of 100 rows; run its command"):
        join_datastore([str(tmp_path / "d")], None, overwrite=False)
    with pytest.raises(DatastoreError, match="20 of 100 rows that one process has written; go on with one"):
        write_range(tmp_path / "d", 0, 2)


@pytest.mark.parametrize("row", [0, 32, 33, 47, 99])
@pytest.mark.parametrize("file", ["keys", "vals"])
def test_a_damaged_copy_is_noticed(tmp_path, whole, row, file):
    prefixes = [str(tmp_path / f"disk{number}" / "d") for number in range(3)]
    for number in range(3):
        write_range(Path(prefixes[number]), number, 3)
    own = prefixes[0 if row < 33 else 2]
    damage(Path(f"{own}_{file}.npy"), row)
    target = tmp_path / "all" / "d"
    message = rf"{own}: rows .* are not those that range \d of 3 has written there; remove {own}\.range-\d-of-3\.json"
    for _ in range(2):
        with pytest.raises(DatastoreError, match=message):
            join_datastore(prefixes, str(target), overwrite=False)
    damage(Path(f"{own}_{file}.npy"), row)  # and back
    join_datastore(prefixes, str(target), overwrite=False)
    assert_same(target, whole)


@pytest.mark.parametrize("row", [32, 47])
def test_damage_in_a_chunk_that_ranges_share_is_noticed(tmp_path, row):
    prefix = tmp_path / "ranges" / "d"
    for number in range(3):
        write_range(prefix, number, 3)
    damage(Path(f"{prefix}_keys.npy"), row)
    number = 0 if row < 33 else 2
    message = (
        rf"rows .* are not those that range {number} of 3 has written there; remove .*d\.range-{number}-of-3\.json"
    )
    with pytest.raises(DatastoreError, match=message):
        join_datastore([str(prefix)], None, overwrite=False)
    range_path(prefix, number, 3).unlink()
    write_range(prefix, number, 3)  # that one alone
    join_datastore([str(prefix)], None, overwrite=False)
    assert np.array_equal(np.asarray(Datastore.open(prefix).keys_ND), clustered_keys(ROWS))


def damage(path: Path, row: int) -> None:
    """Flips the bits of a number of a row."""
    with path.open("r+b") as file:
        row_bytes = path.stat().st_size // ROWS
        file.seek(row * row_bytes)
        byte = file.read(1)
        file.seek(row * row_bytes)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_files_that_became_shorter_are_noticed(tmp_path):
    prefix = tmp_path / "ranges" / "d"
    for number in range(2):
        write_range(prefix, number, 2)
    with Path(f"{prefix}_vals.npy").open("r+b") as file:
        file.truncate(90 * 8)
    with pytest.raises(DatastoreError, match="must have 800 bytes, but has 720; it was truncated or replaced"):
        join_datastore([str(prefix)], None, overwrite=False)
    with pytest.raises(DatastoreError, match=r"is shorter than the rows of .*range-1-of-2.json; remove"):
        write_range(prefix, 1, 2)


def test_one_process_writes_a_range_at_a_time(tmp_path):
    prefix = tmp_path / "ranges" / "d"
    write_range(prefix, 0, 2)
    write_range(prefix, 1, 2, stop=50)
    with locked(range_path(prefix, 1, 2)):
        with pytest.raises(FairseqError, match=r"d\.range-1-of-2\.json is being written by another process"):
            write_range(prefix, 1, 2)
        with pytest.raises(FairseqError, match="is being written by another process"):
            write_range(prefix, 0, 2, overwrite=True, weights_sha256="x" * 64)
    assert read_range(range_path(prefix, 0, 2)).is_complete


def test_another_run_takes_the_place_only_when_it_is_asked_to(tmp_path, whole):
    prefix = tmp_path / "ranges" / "d"
    write_range(prefix, 0, 2, weights_sha256="x" * 64)
    write_range(prefix, 1, 2, weights_sha256="x" * 64)
    with pytest.raises(MismatchError, match="is an unfinished datastore of another run"):
        write_range(prefix, 0, 2)
    with pytest.raises(MismatchError, match="is an unfinished datastore of another run"):
        DatastoreWriter.create(prefix, small_manifest(rows=ROWS))
    for number in range(2):
        write_range(prefix, number, 2, overwrite=True)
    with pytest.raises(DatastoreError, match="is written in ranges: all of its 2 ranges are written"):
        DatastoreWriter.create(prefix, small_manifest(rows=ROWS))
    with pytest.raises(DatastoreError, match="is written in 2 ranges, but this run has 3; give --num-shards 2"):
        write_range(prefix, 0, 3)
    for number in range(3):
        write_range(prefix, number, 3, overwrite=True)
    join_datastore([str(prefix)], None, overwrite=False)
    assert_same(prefix, whole)
    with pytest.raises(DatastoreError, match="is a complete datastore of 100 rows"):
        write_range(prefix, 0, 2)
    for number in range(2):
        write_range(prefix, number, 2, overwrite=True)
    join_datastore([str(prefix)], None, overwrite=False)
    assert_same(prefix, whole)


def test_a_destination_that_is_there_is_replaced_only_when_it_is_asked_to(tmp_path, whole):
    prefix, target = tmp_path / "ranges" / "d", tmp_path / "all" / "d"
    for number in range(2):
        write_range(prefix, number, 2)
    target.parent.mkdir()
    write_store(target.parent, "d", clustered_keys(20), values_of(20))
    with pytest.raises(DatastoreError, match="is a complete datastore of 20 rows"):
        join_datastore([str(prefix)], str(target), overwrite=False)
    assert Datastore.open(target).rows == 20
    join_datastore([str(prefix)], str(target), overwrite=True)
    assert_same(target, whole)


def test_the_disk_is_asked_first(tmp_path, monkeypatch):
    prefix = tmp_path / "ranges" / "d"
    for number in range(2):
        write_range(prefix, number, 2)
    monkeypatch.setattr("fairseq.runtime.resources.free_disk_bytes", lambda path: ROWS * 72 - 1)
    with pytest.raises(ConfigError, match=r"of disk, but .* are free there; make room"):
        join_datastore([str(prefix)], str(tmp_path / "all"), overwrite=False)
    assert not list(tmp_path.glob("all*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": 2}, "must have a number below its count 2, but has 2"),
        ({"rows_written": 101}, "must end at its stop_row 100, but has 101 rows"),
    ],
)
def test_a_record_that_cannot_be_is_refused(tmp_path, changes, message):
    from fairseq.storage.files import write_json
    from fairseq.storage.records import as_json

    record = as_json(RangeRecord(store_id="s", number=0, count=2, first_row=0, stop_row=ROWS))
    write_json(tmp_path / "r.json", {**record, **changes})
    with pytest.raises(DatastoreError, match=message):
        read_range(tmp_path / "r.json")
