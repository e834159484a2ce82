"""Files that are whole or not there."""

import errno
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from fairseq.errors import FairseqError
from fairseq.storage.files import atomic_write, locked, write_json
from fairseq.train.checkpoint_files import write_all


class CrashError(Exception):
    """Stands for whatever ends a program in the middle of a write."""


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "a.bin"
    with atomic_write(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert names(path.parent) == ["a.bin"]


@pytest.mark.pitfall(19)
def test_a_crash_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(CrashError), atomic_write(path) as file:
        file.write(b"half of the ne")
        raise CrashError
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_crash_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(CrashError), atomic_write(tmp_path / "a.bin"):
        raise CrashError
    assert names(tmp_path) == []


def test_the_bytes_are_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), sync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("rename"), replace(a, b))[1])
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"x")
    assert calls == ["fsync", "rename", "fsync"]


def test_json_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"λ": 0.25, "list": [1, None]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"λ": 0.25, "list": [1, None]}
    assert "λ" in text
    assert text.endswith("}\n")


def test_a_killed_run_leaves_one_temporary_file_at_most(tmp_path: Path) -> None:
    (tmp_path / ".a.bin.knnlm.tmp").write_bytes(b"left by a run that was killed")
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(IsADirectoryError) as caught, atomic_write(tmp_path / "a.bin"):
        pass
    assert caught.value.filename == str(tmp_path / "a.bin")
    with pytest.raises(OSError) as full, atomic_write(tmp_path / "b.bin"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(tmp_path / "b.bin"))


def hold(path: Path, ready: Path) -> None:
    with locked(path):
        ready.touch()
        signal.pause()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path, ready = tmp_path / "dstore", tmp_path / "ready"
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(path, ready))
    holder.start()
    while not ready.exists():
        assert holder.is_alive()
    with pytest.raises(FairseqError, match="dstore is being written by another process"), locked(path):
        pass
    holder.kill()
    holder.join()
    assert (tmp_path / ".dstore.knnlm.lock").exists(), "a killed process cannot tidy up"
    with locked(path) as was_killed:
        assert was_killed
    with locked(path) as was_killed:
        assert not was_killed
    assert names(tmp_path) == ["ready"]


def test_a_lock_leaves_no_empty_directory(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / "a"):
        assert (tmp_path / "new").is_dir()
    assert names(tmp_path) == []


def test_without_hard_links_names_are_copies_that_are_on_the_disk(tmp_path, monkeypatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "no links here")))
    monkeypatch.setattr("fairseq.storage.files.os.fsync", lambda number: synced.append(os.fstat(number).st_ino))

    def write(path: Path) -> None:
        path.write_bytes(b"weights")
        path.with_suffix(".json").write_bytes(b"{}")

    write_all(tmp_path, ["checkpoint1.pt", "checkpoint_last.pt"], write)
    copy = tmp_path / "checkpoint_last.pt"
    assert copy.read_bytes() == b"weights" and copy.stat().st_nlink == 1
    assert copy.stat().st_ino in synced
