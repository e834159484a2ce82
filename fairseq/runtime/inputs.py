"""Checks that the files that a command names exist.

Commands call them before they import torch, so that a typing error is answered at once.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from fairseq.config.path_lists import colon_hint, split_paths
from fairseq.errors import CheckpointError, ConfigError, DataError, did_you_mean, shown
from fairseq.runtime.outputs import reads


def require_checkpoint(path: str | Path, typed: str = "") -> None:
    """Raises CheckpointError unless there is such a file; ``typed`` is the list that names it."""
    if not Path(path).is_file():
        reason = "is a directory" if Path(path).is_dir() else "does not exist"
        raise CheckpointError(
            f"checkpoint {path} {reason}; give --path (or --restore-file) the file of a checkpoint{colon_hint(typed)}"
        )


def require_inputs(checkpoints: str, data: str, split: str | None = None) -> None:
    """Raises CheckpointError or DataError unless all checkpoints ``A:B``, the data directory and the split exist.

    With a split the directory must have a dictionary as well; without, a dictionary's file will do.
    """
    for path in filter(None, split_paths(checkpoints)):
        require_checkpoint(path, checkpoints)
        reads(path)
    directories = data_directories(data)
    if split is None:
        return
    dictionary = directories[0] / "dict.txt"
    if not dictionary.exists():
        raise DataError(f"dictionary {dictionary} does not exist; fairseq-preprocess --destdir makes one")
    require_split(data, directories[0] / split)


def require_split(data: str, prefix: Path) -> None:
    """Raises DataError unless the split's two files are there."""
    if Path(split_paths(data)[0]).is_file():
        raise DataError(
            f"{data} is a file, but the split {prefix.name!r} lies in a data directory; give that"
            " (fairseq-preprocess --destdir makes one)"
        )
    for suffix in (".idx", ".bin"):
        if not (path := Path(f"{prefix}{suffix}")).exists():
            raise missing_split(path)


def missing_split(path: Path) -> DataError:
    """Returns the error for a missing file of a split; it suggests one that exists, or how to make it."""
    split, there = path.stem, sorted(other.stem for other in path.parent.glob(f"*{path.suffix}"))
    hint = did_you_mean(split, there)
    known = split.rstrip("0123456789")
    pref = known if known in ("train", "valid", "test") else "test"
    hint = hint or f"; fairseq-preprocess --only-source --{pref}pref TEXT --destdir {path.parent} makes it"
    return DataError(f"{path} does not exist{hint}")


def data_directories(data: str) -> list[Path]:
    """Returns the directories of ``DATA1:DATA2``; a dictionary's file stands for its own.

    Raises:
        DataError: the first one is not there.
    """
    found = [path.parent if path.is_file() else path for path in map(Path, filter(None, split_paths(data)))]
    if not found or not found[0].is_dir():
        raise DataError(
            f"data directory {data} does not exist; fairseq-preprocess --destdir makes one{colon_hint(data)}"
        )
    return found


def require_directory(flag: str, value: str, *, text: bool = False) -> None:
    """Raises ConfigError unless a directory is, or can be made, where a flag says.

    Args:
        flag: its name.
        value: the path.
        text: whether the path must be text in UTF-8, for a library that takes no other.
    """
    path = Path(value)
    for place in (path, *path.parents):
        if place.exists() or place.is_symlink():
            if not place.is_dir():
                raise ConfigError(f"{flag} {value} must be a directory, but {place} is none; give another")
            break
    if text and any("\udc80" <= char <= "\udcff" for char in value):
        raise ConfigError(f"{flag} must be a path in UTF-8, but is {shown(value)}; give another")


def open_input(name: str) -> AbstractContextManager[IO[bytes]]:
    """Returns the text file that ``--input`` names, or the standard input for ``-``, which stays open.

    Raises:
        DataError: there is no such file.
    """
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    path = Path(name)
    if path.is_dir() or not path.exists():
        problem = "is a directory" if path.is_dir() else "does not exist"
        raise DataError(f"--input must name text files, but {name} {problem}; give the path of one, or - to read stdin")
    reads(path)
    return path.open("rb")
