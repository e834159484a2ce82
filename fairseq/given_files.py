"""Whether the files that a command names are there.

Asked before anything heavy is imported, so that a slip of the pen is answered at once.
"""

from pathlib import Path

from fairseq.errors import CheckpointError, DataError


def require_checkpoint(path: str | Path) -> None:
    """Raises CheckpointError unless there is such a file."""
    if not Path(path).is_file():
        reason = "is a directory" if Path(path).is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {reason}; give --path (or --restore-file) the file of a checkpoint")


def require_inputs(checkpoints: str, data: str) -> None:
    """Raises CheckpointError or DataError unless all of ``A:B`` and the data directory are there."""
    for path in filter(None, checkpoints.split(":")):
        require_checkpoint(path)
    data_directories(data)


def data_directories(data: str) -> list[Path]:
    """Returns the directories of ``DATA1:DATA2``; a dictionary's file stands for its own.

    Raises:
        DataError: the first one is not there.
    """
    found = [path.parent if path.is_file() else path for path in map(Path, filter(None, data.split(":")))]
    if not found or not found[0].is_dir():
        raise DataError(f"data directory {data} does not exist; fairseq-preprocess --destdir makes one")
    return found
