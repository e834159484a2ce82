"""Archives of models (``.tar.bz2``, ``.tar.gz``), unpacked once each into a cache.

    CACHE/SHA256/…             what an archive of this content holds: whole, or not there
    CACHE/SHA256.partial/…     being unpacked, or left by a run that was killed; the next one begins again
    CACHE/SHA256.lock          the operating system's lock: it ends with the process, the file stays

An archive is not trusted: it may hold plain files and directories only, each below the target, so many of them and so
many bytes, and the checksum at its end is read. What its headers take of memory has a bound: a name may say that it is
3 GiB long. ``.xz`` is not read, since its header says how much memory it needs.
"""

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from fairseq.errors import CheckpointError, ConfigError, FairseqError, shown
from fairseq.runtime.progress import Progress
from fairseq.runtime.resources import GIB, free_disk_bytes, shown_bytes
from fairseq.storage.files import file_sha256, fsync_directory

MOST_FILES = 10_000
MOST_BYTES = 64 * GIB
MOST_HEADER_BYTES = 64 << 20  # of all members; that of a file is 512 bytes, and some 1,536 more for a long name


class _HeadersTooLargeError(Exception):
    """What tarfile, which tries one compression after another, does not take for one that does not fit."""


_BROKEN = (tarfile.TarError, _HeadersTooLargeError, EOFError, zlib.error, ValueError, MemoryError, RecursionError)


class _BoundedReads:
    """A stream, unpacked, from which headers read ``MOST_HEADER_BYTES`` in all at the most, members what they like."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.left, self.reads_headers = stream, MOST_HEADER_BYTES, True

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes; raises an error where headers ask for too many."""
        if self.reads_headers:
            self.left -= size
            if size < 0 or self.left < 0:
                raise _HeadersTooLargeError(f"its headers are larger than {shown_bytes(MOST_HEADER_BYTES)}")
        data: bytes = self._stream.read(size)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Archive(tarfile.TarFile):
    """A tar file that was not compressed, or by gzip or bzip2."""

    OPEN_METH: ClassVar = {"tar": "taropen", "gz": "gzopen", "bz2": "bz2open"}

    def __init__(self, name: Any = None, mode: Any = "r", fileobj: Any = None, **more: Any) -> None:
        super().__init__(name, mode, _BoundedReads(fileobj), **more)

    def each(self) -> Iterator[tarfile.TarInfo]:
        """Yields the members, and keeps none."""
        stream: Any = self.fileobj
        kept: list[tarfile.TarInfo] = vars(self)["members"]
        while (member := self.next()) is not None:
            stream.reads_headers = False
            yield member
            stream.reads_headers = True
            kept.clear()
        stream.reads_headers = False


def unpacked(archive: Path, cache: Path) -> Path:
    """Returns the directory under ``cache`` with the content of the archive; a second process waits for the first.

    Raises:
        CheckpointError: not an archive, truncated, or holding what no model needs (links, paths outside).
        ConfigError: it does not fit the disk.
    """
    from filelock import FileLock

    target = cache / file_sha256(archive)
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return target
        partial = target.with_suffix(".partial")
        if partial.exists():
            shutil.rmtree(partial)
        try:
            _extract(archive, partial)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        fsync_directory(cache)
    return target


def _extract(archive: Path, target: Path) -> None:
    target.mkdir()
    room = min(MOST_BYTES, free_disk_bytes(target))
    try:
        with (
            archive.open("rb") as file,
            _Archive.open(fileobj=file, mode="r:*") as tar,
            Progress(f"unpack {archive.name}", archive.stat().st_size, "bytes") as progress,
        ):
            for number, member in enumerate(tar.each(), 1):
                _check(archive, member, number)
                room -= member.size
                if room < 0:
                    raise ConfigError(
                        f"{archive} holds more than the {shown_bytes(room + member.size)} that are left for it; free"
                        f" disk at {target.parent}, or move the cache (TORCH_HOME)"
                    )
                tar.extract(member, target, filter="data")
                if member.isreg():
                    with (target / member.name).open("rb") as unpacked_file:
                        os.fsync(unpacked_file.fileno())
                progress.advance(file.tell() - progress.n)
            _read_to_end(tar, archive)
    except FairseqError:
        raise
    except _BROKEN as err:
        raise _not_an_archive(archive, err) from err
    except OSError as err:
        if err.errno is not None:
            raise  # says itself what is wrong: a full disk, a place that cannot be written
        raise _not_an_archive(archive, err) from err


def _check(archive: Path, member: tarfile.TarInfo, number: int) -> None:
    """Raises CheckpointError for a member that is no plain file or directory below the target."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        reason = "lies outside of the directory that it is unpacked into; it was made to do harm, or by mistake"
    elif member.issym() or member.islnk():
        reason = "is a link; pack what it points to (tar --dereference --hard-dereference)"
    elif not (member.isdir() or member.isreg()) or member.issparse() or member.size < 0:
        reason = "is neither a plain file nor a directory, which are all that a model needs"
    elif number > MOST_FILES:
        reason = f"is one too many: {MOST_FILES:,} are allowed; pack the model alone"
    else:
        return
    raise CheckpointError(f"{archive} was not unpacked: its member {shown(member.name)} {reason}")


def _read_to_end(tar: tarfile.TarFile, archive: Path) -> None:
    """Reads the archive to its end: padding, and the checksum of the compression."""
    stream: Any = tar.fileobj
    for _ in range(1 << 10):
        if not stream.read(1 << 20):
            return
    raise _not_an_archive(archive, "much stands behind its last member")


def _not_an_archive(archive: Path, reason: object) -> CheckpointError:
    first_line = (str(reason).splitlines() or [type(reason).__name__])[0].rstrip(":")
    return CheckpointError(
        f"{archive} is not a whole archive (.tar.bz2, .tar.gz), torn or of another kind: {first_line[:200]}; get it"
        " again"
    )
