"""What a power cut may leave on the disk: the contents that were flushed, and of names the least that can be hoped for.

A file holds what it held when it was last flushed (``os.fsync``). A directory has the names that it had when it was
flushed; of what was renamed or removed since, a disk may keep the last and lose what came before it. So there is a
state to go on from after every rename and every removal.
"""

import os
import stat
import sys
from pathlib import Path

import pytest

State = dict[str, bytes]


class PowerCuts:
    """Records, from now on, what a power cut would leave of a directory's files.

    Attributes:
        states: the files by name, after each rename and removal.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        if not sys.platform.startswith("linux"):
            pytest.skip("finds files by /proc")
        self.states: list[State] = []
        self._directory = directory
        self._contents = {path.stat().st_ino: path.read_bytes() for path in directory.iterdir() if path.is_file()}
        self._names = self._present()
        self._fsync, self._replace, self._unlink = os.fsync, os.replace, os.unlink
        for name in ("fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, getattr(self, name))
        monkeypatch.setattr(os, "remove", self.unlink)

    def _present(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self._directory.iterdir() if path.is_file()}

    def fsync(self, descriptor: int) -> None:
        """Flushes a file, or a directory's names."""
        self._fsync(descriptor)
        found = os.fstat(descriptor)
        if not stat.S_ISDIR(found.st_mode):
            self._contents[found.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        elif os.path.samestat(found, self._directory.stat()):
            self._names = self._present()

    def replace(self, old: str | Path, new: str | Path) -> None:
        """Renames a file."""
        self._replace(old, new)
        self._changed(Path(old), Path(new))

    def unlink(self, path: str | Path) -> None:
        """Removes a file."""
        self._unlink(path)
        self._changed(Path(path))

    def _changed(self, gone: Path, there: Path | None = None) -> None:
        names = {name: inode for name, inode in self._names.items() if name != gone.name}
        if there is not None:
            names[there.name] = there.stat().st_ino
        if gone.parent == self._directory:
            self.states.append({name: self._content(name, inode) for name, inode in names.items()})

    def _content(self, name: str, inode: int) -> bytes:
        # A lock holds nothing, but may have the number of a file that was removed.
        return b"" if name.endswith(".lock") else self._contents.get(inode, b"")


def put(state: State, directory: Path) -> None:
    """Makes a directory of the files of a state."""
    directory.mkdir()
    for name, data in state.items():
        (directory / name).write_bytes(data)
