"""Whether the files that a command names are there.

Asked before anything heavy is imported, so that a slip of the pen is answered at once.
"""

from pathlib import Path

from fairseq.errors import CheckpointError, DataError, did_you_mean


def require_checkpoint(path: str | Path) -> None:
    """Raises CheckpointError unless there is such a file."""
    if not Path(path).is_file():
        reason = "is a directory" if Path(path).is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {reason}; give --path (or --restore-file) the file of a checkpoint")


def require_inputs(checkpoints: str, data: str, split: str | None = None) -> None:
    """Raises CheckpointError or DataError unless all of ``A:B``, the data directory, and the split in it are there.

    With a split the directory must have a dictionary as well; without, a dictionary's file will do.
    """
    for path in filter(None, checkpoints.split(":")):
        require_checkpoint(path)
    directories = data_directories(data)
    if split is None:
        return
    dictionary = directories[0] / "dict.txt"
    if not dictionary.exists():
        raise DataError(f"dictionary {dictionary} does not exist; fairseq-preprocess --destdir makes one")
    require_split(data, directories[0] / split)


def require_split(data: str, prefix: Path) -> None:
    """Raises DataError unless the split's two files are there."""
    if Path(data.split(":")[0]).is_file():
        raise DataError(
            f"{data} is a file, but the split {prefix.name!r} lies in a data directory; give that"
            " (fairseq-preprocess --destdir makes one)"
        )
    for suffix in (".idx", ".bin"):
        if not (path := Path(f"{prefix}{suffix}")).exists():
            raise missing_split(path)


def missing_split(path: Path) -> DataError:
    """Returns the error for a file of a split that is not there; it knows which splits are."""
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
    found = [path.parent if path.is_file() else path for path in map(Path, filter(None, data.split(":")))]
    if not found or not found[0].is_dir():
        raise DataError(f"data directory {data} does not exist; fairseq-preprocess --destdir makes one")
    return found
