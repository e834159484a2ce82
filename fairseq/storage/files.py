"""Files that are whole or not there, and locks on what is being written.

A file is written under a temporary name, flushed to the disk, then renamed. The temporary name is the same every time,
so that a killed run leaves at most one such file, which the next run takes over; ``locked`` keeps two runs apart. Both
names are ours alone: ``.NAME.knnlm.tmp`` and ``.NAME.knnlm.lock``.

What is no file is written to, not replaced: a device (``/dev/null``), a pipe, one of the process's own streams
(``/dev/stdout``). Nothing is written through a symbolic link.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fairseq.errors import FairseqError

_OWN_STREAM = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev/fd|proc/self/fd)/(\d{1,9})")
_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
_held: dict[str, IO[bytes]] = {}


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, replace_link: bool = False) -> Iterator[IO[bytes]]:
    """Yields a binary file that takes ``path``'s place when the block ends well; else ``path`` stays as it was.

    Args:
        path: of the file; a device or a pipe is written to, as it comes.
        replace_link: a symbolic link is given up for a file.

    Raises:
        FairseqError: it is a symbolic link.
        OSError: named by ``path``, whatever call it came from: a full disk says where.
    """
    target = Path(path)
    if is_stream(target):
        with _named(target, target), open_stream(target) as stream:
            yield stream
        return
    if target.is_symlink() and not replace_link:
        raise FairseqError(f"{target} is a symbolic link, and nothing is written through one; give another path")
    if target.is_dir():
        raise IsADirectoryError(21, "is a directory, but a file is to be written there", str(target))
    temporary = temporary_name(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _named(target, temporary):
            remove_leftover(temporary)
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    finally:
        with suppress(OSError, FairseqError):
            remove_leftover(temporary)
    fsync_directory(target.parent)


@contextmanager
def _named(target: Path, temporary: Path) -> Iterator[None]:
    """Names an OSError by ``target`` where it has no name, or that of the temporary file."""
    try:
        yield
    except OSError as err:
        if err.filename in (None, str(temporary), temporary.name) and err.errno is not None:
            raise OSError(err.errno, err.strerror, str(target)) from err
        raise


def temporary_name(path: Path) -> Path:
    """Returns where a file is written before it takes its place."""
    return path.with_name(f".{path.name}.knnlm.tmp")


def remove_leftover(temporary: Path) -> None:
    """Removes what a killed run has left under a temporary name; raises FairseqError for what no run leaves there."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(temporary.lstat().st_mode):
            raise FairseqError(f"{temporary} is in the way: it is no file of this program; move it away")
        temporary.unlink()


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is written to and never replaced: a device, a pipe, or a stream of this process."""
    if _OWN_STREAM.fullmatch(os.fspath(path)):
        return True
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def hold_stream(path: str | os.PathLike[str]) -> None:
    """Opens a device, a pipe or a stream of this process, which is written to later.

    A pipe's reader waits that long, and one that nobody reads is known before the work.

    Raises:
        OSError: nobody reads the pipe, or it cannot be written to.
    """
    release_stream(path)
    _held[os.fspath(path)] = open_stream(path)


def release_stream(path: str | os.PathLike[str]) -> None:
    """Closes what ``hold_stream`` has opened and nothing was written to."""
    if (held := _held.pop(os.fspath(path), None)) is not None:
        held.close()


def open_stream(path: str | os.PathLike[str]) -> IO[bytes]:
    """Returns a device, a pipe or a stream of this process, open for writing.

    Raises:
        OSError: nobody reads the pipe, or it cannot be written to.
    """
    if (held := _held.pop(os.fspath(path), None)) is not None:
        return held
    own = _OWN_STREAM.fullmatch(os.fspath(path))
    if own:
        number = _STREAMS[own[1]] if own[1] else int(own[2])
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        descriptor = os.dup(number)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            os.close(descriptor)
            raise OSError(errno.EBADF, "is open for reading only", str(path))
    else:
        # Without waiting: a pipe that nobody reads would keep the command for ever.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb")


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
        file.write(encoded(json.dumps(record, indent=2, ensure_ascii=False) + "\n"))


def encoded(text: str) -> bytes:
    """Returns text as UTF-8. What a name of a file has that is not UTF-8 is written as escapes: a byte 0xff as udcff.

    In JSON they are read as the same name again.
    """
    return text.encode(errors="backslashreplace")


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

    The lock is the operating system's, on ``.NAME.knnlm.lock`` beside what is written: it ends with the process,
    however that ends. The file is empty, and removed in the end; one that a killed run has left is no lock. A stream
    has none.

    Args:
        path: what is written.
        timeout_s: how long to wait for another process.

    Yields:
        Whether such a file was there: an earlier run was killed.

    Raises:
        FairseqError: another process holds the lock, or something else has its name.
    """
    from filelock import FileLock, Timeout

    if is_stream(path):
        yield False
        return
    file = lock_name(path)
    is_new = not file.parent.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    was_killed = _is_lock(file)
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


def lock_name(path: str | os.PathLike[str]) -> Path:
    """Returns the file that is locked while ``path`` is written; the same for every spelling of it."""
    directory, name = os.path.split(os.path.realpath(path))
    return Path(directory) / f".{name}.knnlm.lock"


def _is_lock(file: Path) -> bool:
    """Returns whether a killed run has left a lock; raises FairseqError where a file with something in it has its name.

    Locking would empty such a file.
    """
    try:
        found = file.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        raise FairseqError(f"{file} is in the way: it is no lock of this program (those are empty); move it away")
    return True
