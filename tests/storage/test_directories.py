"""Directories of checkpoints in shards: whole or not there, whenever a run is killed; nobody else's files are lost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fairseq.errors import FairseqError
from fairseq.storage import directories
from fairseq.storage.directories import delete_directory, link_directory, put_in_place, recover, remove_directory
from fairseq.storage.file_kinds import SHARDED_RECORD
from fairseq.storage.files import temporary_name

SHARD = "shard-00001-model-00001-of-00001.safetensors"


def write(directory: Path, text: str) -> Path:
    """Writes a directory with a shard and a record."""
    directory.mkdir()
    for name in (SHARD, SHARDED_RECORD):
        (directory / name).write_text(text)
    return directory


def content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


class Killed(BaseException):
    """Ends a call as a signal would."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]) -> bool:
    """Makes a call end before its change of the disk number ``step``; returns whether it had so many."""
    done = 0

    def counted(name: str, original: Callable[..., object]) -> None:
        def change(self: Path, *args: object) -> object:
            nonlocal done
            done += 1
            if done > step:
                raise Killed
            return original(self, *args)

        monkeypatch.setattr(Path, name, change)

    with monkeypatch.context():
        for name in ("rename", "unlink", "rmdir"):
            counted(name, getattr(Path, name))
        try:
            call()
        except Killed:
            return True
        finally:
            monkeypatch.undo()
    return False


def test_whenever_it_is_killed_one_of_both_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for step in range(20):
        parent = tmp_path / str(step)
        parent.mkdir()
        target = write(parent / "checkpoint_last.dcp", "old")
        temporary = write(temporary_name(target), "new")
        killed = killed_at(step, monkeypatch, lambda: put_in_place(temporary, target))  # noqa: B023 - called at once
        recover(parent, ".dcp")
        assert [path.name for path in parent.iterdir()] == ["checkpoint_last.dcp"]
        found.append(content(target)[SHARD])
        assert set(content(target)) == {SHARD, SHARDED_RECORD}
        assert set(content(target).values()) == {found[-1]}
        if not killed:
            break
    assert found == ["old"] + ["new"] * 5  # set aside, put in place, two files and a directory removed


def test_a_new_one_that_is_not_whole_does_not_replace_the_old(tmp_path: Path) -> None:
    """It has no record yet; the old one was set aside by hand, or by a version that did so earlier."""
    target = tmp_path / "checkpoint_last.dcp"
    write(tmp_path / ".checkpoint_last.dcp.knnlm.old", "old")
    write(temporary_name(target), "new")
    (temporary_name(target) / SHARDED_RECORD).unlink()
    recover(tmp_path, ".dcp")
    assert set(content(target).values()) == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_name_is_of_the_same_files(tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError

    if not has_links:
        monkeypatch.setattr(directories.os, "link", refuse)
    source, target = write(tmp_path / "checkpoint1.dcp", "new"), write(tmp_path / "checkpoint_last.dcp", "old")
    link_directory(source, target)
    assert content(target) == content(source)
    assert (target / SHARD).samefile(source / SHARD) == has_links
    delete_directory(source)
    assert not source.exists() and set(content(target).values()) == {"new"}


def test_what_is_half_deleted_goes_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(5):
        path = write(tmp_path / "checkpoint1.dcp", "mine")
        killed = killed_at(step, monkeypatch, lambda: delete_directory(path))  # noqa: B023 - called at once
        if path.exists():
            assert len(content(path)) == 2
            delete_directory(path)
        recover(tmp_path, ".dcp")
        assert list(tmp_path.iterdir()) == []
    assert not killed


@pytest.mark.parametrize("kind", ["file of another", "directory", "link", "file"])
def test_what_is_not_ours_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".checkpoint_last.dcp.knnlm.tmp"
    if kind == "file":
        path.write_text("somebody's")
    elif kind == "link":
        path.symlink_to(write(tmp_path / "elsewhere", "somebody's"))
    else:
        write(path, "mine")
        (path / "notes.txt").mkdir() if kind == "directory" else (path / "notes.txt").write_text("somebody's")
    with pytest.raises(FairseqError, match=r"^.*checkpoint_last.dcp.knnlm.tmp is in the way: .* move it away$"):
        remove_directory(path)
    assert path.exists() and (kind in ("file", "link") or len(list(path.iterdir())) == 3)
