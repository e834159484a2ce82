"""Directories that are whole or not there: checkpoints in shards.

A directory is written under a temporary name and then renamed. What it replaces is set aside before, since no rename
replaces a directory with files; whoever is killed in between leaves both, and ``recover`` ends what was begun. Both
names are ours alone: ``.NAME.knnlm.tmp`` and ``.NAME.knnlm.old``.
"""

import os
import shutil
from pathlib import Path

from fairseq.errors import FairseqError
from fairseq.storage.file_kinds import SHARDED_RECORD, SHARDED_WEIGHTS
from fairseq.storage.files import fsync_directory, temporary_name

_OLD = ".knnlm.old"


def put_in_place(temporary: Path, target: Path) -> None:
    """Gives a directory that is whole its name; one that has it already is removed."""
    old = _old_name(target)
    remove_directory(old)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    fsync_directory(target.parent)
    remove_directory(old)


def link_directory(source: Path, target: Path) -> None:
    """Makes a second directory of the same files, which are copied where the file system has no hard links."""
    temporary = temporary_name(target)
    remove_directory(temporary)
    temporary.mkdir()
    for file in sorted(source.iterdir(), key=lambda file: file.name == SHARDED_RECORD):
        try:
            os.link(file, temporary / file.name)
        except OSError:
            shutil.copyfile(file, temporary / file.name)
    fsync_directory(temporary)
    put_in_place(temporary, target)


def delete_directory(path: Path) -> None:
    """Deletes a checkpoint in shards, which is either whole or gone."""
    temporary = temporary_name(path)
    remove_directory(temporary)
    path.rename(temporary)
    remove_directory(temporary)


def recover(parent: Path, suffix: str) -> None:
    """Ends what a killed run has begun: renames a directory that was not yet in its place, removes leftovers."""
    for old in parent.glob(f".*{suffix}{_OLD}"):
        target = parent / old.name[1:].removesuffix(_OLD)
        temporary = temporary_name(target)
        if not target.exists():
            (temporary if (temporary / SHARDED_RECORD).is_file() else old).rename(target)
            fsync_directory(parent)
        remove_directory(old)
    for temporary in parent.glob(f".*{suffix}.knnlm.tmp"):
        remove_directory(temporary)


def remove_directory(path: Path) -> None:
    """Removes a directory of a checkpoint in shards, if it is there.

    Raises:
        FairseqError: it is none, or has other files as well.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir() or (others := other_files(path)):
        what = f"{others[0].name} in it is" if path.is_dir() and not path.is_symlink() else "it is"
        raise FairseqError(f"{path} is in the way: {what} no file of this program; move it away")
    for file in sorted(path.iterdir(), key=lambda file: file.name != SHARDED_RECORD):
        file.unlink()
    path.rmdir()


def other_files(directory: Path) -> list[Path]:
    """Returns what lies in the directory of a checkpoint in shards and is no part of it."""
    names = (SHARDED_RECORD, temporary_name(Path(SHARDED_RECORD)).name)
    return sorted(
        path
        for path in directory.iterdir()
        if path.is_dir() or (path.name not in names and not SHARDED_WEIGHTS.fullmatch(path.name))
    )


def _old_name(target: Path) -> Path:
    return target.with_name(f".{target.name}{_OLD}")
