"""Files that are whole or not there, and locks on what is being written.

A file is written under a temporary name, flushed to the disk, then renamed. The temporary name is the same every time,
so that a killed run leaves at most one such file, which the next run takes over; ``locked`` keeps two runs apart.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fairseq.errors import FairseqError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yields a binary file that takes ``path``'s place when the block ends well; else ``path`` stays as it was.

    Raises:
        OSError: named by ``path``, whatever call it came from: a full disk says where.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(21, "is a directory, but a file is to be written there", str(target))
    temporary = target.with_name(f".{target.name}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as err:
        if err.filename in (None, str(temporary), temporary.name) and err.errno is not None:
            raise OSError(err.errno, err.strerror, str(target)) from err
        raise
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(target.parent)


def fsync_directory(directory: Path) -> None:
    """Makes the renames in ``directory`` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike[str], record: Any) -> None:
    """Writes ``record`` as indented JSON, atomically; bytes of file names that are no text are escaped."""
    with atomic_write(path) as file:
        file.write((json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


@contextmanager
def locked(path: str | os.PathLike[str], timeout_s: float = 0) -> Iterator[bool]:
    """Keeps every other process from writing ``path`` while the block runs.

    The lock is the operating system's, on ``PATH.lock``: it ends with the process, however that ends. The file is
    removed in the end; one that a killed run has left is no lock.

    Args:
        path: what is written.
        timeout_s: how long to wait for another process.

    Yields:
        Whether such a file was there: an earlier run was killed.

    Raises:
        FairseqError: another process holds the lock.
    """
    from filelock import FileLock, Timeout

    file = Path(f"{path}.lock")
    is_new = not file.parent.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    was_killed = file.exists()
    lock = FileLock(file, timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout as err:
        raise FairseqError(
            f"{path} is being written by another process, which holds {file}; wait for it, or write elsewhere"
        ) from err
    try:
        yield was_killed
    finally:
        file.unlink(missing_ok=True)  # before the release, so that nobody's lock is removed
        lock.release()
        if is_new:
            with suppress(OSError):
                file.parent.rmdir()  # where nothing came of it
