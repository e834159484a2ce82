"""Files that are whole or not there."""

import json
import os
from pathlib import Path

import pytest

from fairseq.files import atomic_write, write_json


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
