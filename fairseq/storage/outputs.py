"""The outputs of a command: each is asked for before the work starts.

    claim("--json", path, FINDINGS, overwrite=config.overwrite)

A file is replaced only if it is of the kind that is to be written, this program wrote it, and ``--overwrite`` (or the
same command) says so. Refused are a symbolic link, a directory, a file that may not be written, the name of another
store's file, a file that the command reads, and a second output of the same command on the same file. Devices and
pipes are written to (fairseq/storage/files.py). Links among the directories above are followed.
"""

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq.errors import ConfigError
from fairseq.storage.files import hold_stream, is_stream, lock_name, release_stream, temporary_name
from fairseq.storage.marks import Kind, json_at
from fairseq.storage.stores import (
    DATASTORE_STAGES,
    INDEX_STAGES,
    Names,
    datastore_names,
    index_names,
    store_of,
)

ELSEWHERE = "give another path"
# Flags that do not decide what is written.
_NOT_DECIDING = ("--log-file", "--log-format", "--log-interval")
_NOT_DECIDING_ALONE = ("--no-progress-bar", "--traceback", "--overwrite")


@dataclass
class _Run:
    """What a command writes and reads, by the flag that names it."""

    writes: list[tuple[str, Path]] = field(default_factory=list)
    reads: list[Path] = field(default_factory=list)
    streams: list[Path] = field(default_factory=list)


_run: _Run | None = None


@contextmanager
def one_run() -> Iterator[None]:
    """Compares all that is claimed and read while the block runs."""
    global _run
    before, _run = _run, _Run()
    try:
        yield
    finally:
        for path in _run.streams:
            release_stream(path)
        _run = before


def claim(flag: str, path: str | os.PathLike[str], kind: Kind, *, overwrite: bool = True) -> Path:
    """Returns the path of an output, which may be written.

    Args:
        flag: that names it; empty where the command has claimed it already.
        path: where it goes.
        kind: what it is.
        overwrite: whether a file of this kind that this program wrote may be replaced: ``--overwrite`` was given, or
            it is of the same command; True as well where the caller asks that.

    Raises:
        ConfigError: something else is there.
    """
    path = Path(path)
    if is_stream(path):
        if not kind.streams:
            raise ConfigError(f"{_named(flag, path)} is no file, but {kind.what} is to be written there; {ELSEWHERE}")
        hold_stream(path)
        if _run is not None:
            _run.streams.append(path)
        return path
    _require_place(flag, path)
    other = store_of(path)
    if other is not None and other[0] != kind.store:
        raise ConfigError(f"{_named(flag, path)} is {other[1]}, or would be taken for one; {ELSEWHERE}")
    if os.path.lexists(path):
        _require_ours(flag, path, kind)
        if not overwrite:
            raise ConfigError(f"{_named(flag, path)} is there already; {ELSEWHERE}, or --overwrite to replace it")
    if flag:
        _note(flag, path)
    return path


def claim_all(flag: str, names: Names, *, overwrite: bool = True) -> None:
    """Claims every file of a store."""
    for path, kind in names:
        claim(flag, path, kind, overwrite=overwrite)


def claim_datastore(flag: str, prefix: Path, *, overwrite: bool) -> None:
    """Claims every file of a datastore; where it has a manifest, the caller asks whether it may be replaced."""
    require_datastore_name(flag, prefix)
    claim_all(flag, datastore_names(prefix), overwrite=overwrite or Path(f"{prefix}.json").is_file())


def require_datastore_name(flag: str, prefix: Path) -> None:
    """Raises ConfigError for a prefix that files beside another datastore have."""
    _require_own_name(flag, prefix, "datastore", DATASTORE_STAGES)


def claim_index(flag: str, path: Path, *, overwrite: bool) -> None:
    """Claims an index and what lies beside it while it is built; where it is there, the caller asks."""
    require_utf8(flag, path, "FAISS")
    _require_own_name(flag, path, "index", INDEX_STAGES)
    for name, kind in index_names(path):
        alone = name == Path(f"{path}.json") and not path.exists()
        claim(flag, name, kind, overwrite=overwrite or not alone)


def require_utf8(flag: str, path: Path, reader: str) -> None:
    """Raises ConfigError for a name that is not UTF-8, where a library must open it that takes no other."""
    try:
        str(path).encode()
    except UnicodeEncodeError as err:
        raise ConfigError(f"{_named(flag, path)} must be UTF-8: {reader} opens no other name; {ELSEWHERE}") from err


def claim_record(
    flag: str, path: str | os.PathLike[str], kind: Kind, settings: Mapping[str, Any], *, overwrite: bool
) -> Path:
    """Claims a JSON record with the settings of its command, by which the same command is known again."""
    same = json_at(Path(path)).get("settings") == json.loads(json.dumps(settings))
    return claim(flag, path, kind, overwrite=overwrite or same)


def claim_directory(flag: str, path: str | os.PathLike[str]) -> Path:
    """Returns the path of a directory to write in; raises ConfigError where none is or can be made."""
    path = Path(path)
    if path.is_dir():
        return path
    if os.path.lexists(path):
        what = "a symbolic link that leads nowhere" if path.is_symlink() else "a file"
        raise ConfigError(f"{_named(flag, path)} must be a directory, but is {what}; {ELSEWHERE}")
    _require_place(flag, path)
    return path


def reads(*paths: str | os.PathLike[str]) -> None:
    """Notes files that the command reads; raises ConfigError where it also writes one."""
    if _run is None:
        return
    for path in map(Path, paths):
        _run.reads.append(path)
        for flag, output in _run.writes:
            _compare(flag, output, path)


def same_command(words: Sequence[str], others: object) -> bool:
    """Returns whether two command lines ask for the same work; where its log goes does not matter."""
    return isinstance(others, list) and _deciding(words) == _deciding([str(word) for word in others])


def _deciding(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        name, equals, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        if not skip and name not in (*_NOT_DECIDING, *_NOT_DECIDING_ALONE):
            kept.append(name + equals + value)
        skip = not skip and name in _NOT_DECIDING and not equals
    return kept


def _named(flag: str, path: Path) -> str:
    return f"{flag}: {path}" if flag else str(path)


def _require_own_name(flag: str, path: Path, what: str, stages: str) -> None:
    """Raises ConfigError for a name that a file beside another store has while that is worked on.

    Without a flag it is the program itself that writes such a file.
    """
    if flag and (match := re.fullmatch(rf"(?s)(.+)({stages})", path.name)):
        raise ConfigError(
            f"{_named(flag, path)} must not end in {match[2]}: files beside the {what} {path.with_name(match[1])} have"
            f" such names; {ELSEWHERE}"
        )


def _require_place(flag: str, path: Path) -> None:
    """Raises ConfigError where no file can be made, since what stands above is no directory."""
    place = path.absolute().parent
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ConfigError(f"{_named(flag, path)} cannot be made, since {place} is no directory; {ELSEWHERE}")


def _require_ours(flag: str, path: Path, kind: Kind) -> None:
    """Raises ConfigError for what is not a plain file of this kind that this program wrote."""
    found = path.lstat()
    mode, shared = found.st_mode, kind.links and (stat.S_ISLNK(found.st_mode) or found.st_nlink > 1)
    if not stat.S_ISREG(mode) and not (shared and path.is_file()):
        names = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a directory", stat.S_IFSOCK: "a socket"}
        what = names.get(stat.S_IFMT(mode), "a device")
        raise ConfigError(f"{_named(flag, path)} is {what}, but {kind.what} is to be written there; {ELSEWHERE}")
    if not shared and not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{_named(flag, path)} is read-only; {ELSEWHERE}, or make it writable")
    if not kind.is_ours(path):
        raise ConfigError(
            f"{_named(flag, path)} is there, and is not {kind.what} that this program wrote; move it, or {ELSEWHERE}"
        )


def _note(flag: str, path: Path) -> None:
    """Notes an output, and raises ConfigError where the same command reads it, or writes it under another flag."""
    if _run is None:
        return
    for other in _run.reads:
        _compare(flag, path, other)
    for other_flag, other in _run.writes:
        if other_flag != flag and _is_same(path, other):
            raise ConfigError(f"{other_flag} and {flag} both name {path}; give each a file of its own")
    _run.writes += [(flag, path), (flag, lock_name(path)), (flag, temporary_name(path))]


def _compare(flag: str, output: Path, source: Path) -> None:
    if _is_same(output, source):
        raise ConfigError(f"{_named(flag, output)} is read by the same command, and cannot be written; {ELSEWHERE}")


def _is_same(path: Path, other: Path) -> bool:
    """Returns whether two paths are one file: by the same place, or as two names of it."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return path.samefile(other)
    except OSError:
        return False
