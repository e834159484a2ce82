"""An index's file before FAISS reads it: whether it is the one that its manifest was written for.

Size and fingerprint (fairseq/storage/fingerprint.py) are compared at every open; where an older version of this program
has recorded no fingerprint, every byte is. A file that is ours is read as it is. Any other may be anything: FAISS
may end the process over it, so it is tried in a process of its own first (trial.py).
"""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.identity import mismatch
from fairseq.knn.datastore.manifest import IndexManifest, ListsFile, manifest_path, read_manifest
from fairseq.knn.index.trial import try_index
from fairseq.storage.file_kinds import is_instead, kind_at
from fairseq.storage.files import file_sha256
from fairseq.storage.fingerprint import fingerprint
from fairseq.storage.outputs import require_utf8
from fairseq.storage.stores import lists_name, shards_name

logger = logging.getLogger(__name__)

INDEX_WORDS = "a FAISS index"


@dataclass(frozen=True)
class IndexFile:
    """What is known of an index's file.

    Attributes:
        path: the file.
        manifest: beside it, if there is one.
        fingerprint: of the file that is there.
        problem: what tells it from the file that the manifest was written for; None if nothing does.
    """

    path: Path
    manifest: IndexManifest | None
    fingerprint: str
    problem: str | None

    @property
    def is_ours(self) -> bool:
        """Whether its manifest was written for it."""
        return self.manifest is not None and self.problem is None

    @property
    def sha256(self) -> str | None:
        """The checksum of its bytes, as far as that is known without reading them."""
        return self.manifest.sha256 if self.manifest is not None and self.is_ours else None


def require_file(path: str | Path) -> None:
    """Raises DatastoreError where there is no index, and OSError where it cannot be opened: FAISS does not say why."""
    if Path(path).is_file():
        require_utf8("", Path(path), "FAISS")
        with Path(path).open("rb"):
            return
    if shards_name(path).is_file() and not Path(path).exists():
        raise DatastoreError(
            f"{path} is in shards, but one file is wanted here; fairseq-build-dstore --num-shards N --merge memory (or"
            " disk) makes one"
        )
    partial = read_manifest(manifest_path(f"{path}.partial"), IndexManifest)
    if partial is not None or Path(f"{path}.trained").is_file():
        done = partial.rows if partial is not None else 0
        raise DatastoreError(
            f"{path} is unfinished: its build has saved {done} keys; run fairseq-build-dstore again, which goes on from"
            " there"
        )
    if Path(path).exists():
        raise DatastoreError(f"{path}{is_instead(path, INDEX_WORDS) or ' is not a file'}; give the index's file")
    raise DatastoreError(f"{path} does not exist; {_instead(Path(path))}")


def _instead(path: Path) -> str:
    """Returns what to give instead of an index that is not there."""
    if Path(f"{path}_vals.npy").is_file():
        return "it is a datastore's prefix; give the index of fairseq-build-dstore"
    stages = (".trained", ".partial")
    there = sorted(str(other) for other in path.parent.glob("*") if kind_at(other) == INDEX_WORDS)
    there = [other for other in there if not other.endswith(stages)]
    return (
        f"{path.parent} has {', '.join(there[:3])}" if there else "make a datastore's index with fairseq-build-dstore"
    )


def look_at(path: str | Path) -> IndexFile:
    """Returns what is known of an index's file.

    Raises:
        DatastoreError: there is none, or its manifest cannot be read.
    """
    require_file(path)
    path = Path(path)
    manifest = read_manifest(manifest_path(path), IndexManifest)
    found = fingerprint(path)
    return IndexFile(path, manifest, found, _problem(path, manifest, found) if manifest is not None else None)


def require_ours(file: IndexFile, *, allow_mismatch: bool = False, mapped: bool = False) -> None:
    """Checks that a file is the one that its manifest was written for, or at least one that FAISS can read.

    Args:
        file: what is known of it.
        allow_mismatch: only warn of another one.
        mapped: it is to be left on the disk, where nobody reads it whole to find out whether it is sound.

    Raises:
        DatastoreError: FAISS cannot read it, or it is to be mapped and no manifest says that it is sound.
        MismatchError: it is another one; with ``allow_mismatch`` a warning.
    """
    if file.is_ours:
        return
    if file.problem is not None:
        mismatch(file.problem, allow_mismatch)
    if mapped:
        raise DatastoreError(
            f"{file.path} is not known to be sound, as --map-index needs it: {manifest_path(file.path)} must be its own"
            " manifest; build the index with fairseq-build-dstore, adopt it with fairseq-knnlm adopt, or leave"
            " --map-index out"
        )
    require_readable(file)


def require_readable(file: IndexFile) -> None:
    """Raises DatastoreError where a file is not ours and FAISS cannot read it."""
    if not file.is_ours:
        if other := is_instead(file.path, INDEX_WORDS):
            raise DatastoreError(f"{file.path}{other}; give the index that fairseq-build-dstore wrote")
        _tried_once(file.path, file.fingerprint)


@functools.lru_cache(maxsize=64)
def _tried_once(path: Path, _fingerprint: str) -> None:
    """Tries a file once in a process, as long as it has this fingerprint."""
    try_index(path)


def _problem(path: Path, manifest: IndexManifest, found: str) -> str | None:
    size, remedy = path.stat().st_size, "restore the file, or build it again with fairseq-build-dstore --overwrite"
    if size != manifest.num_bytes:
        return (
            f"{path} must have {manifest.num_bytes} bytes by its manifest, but has {size}: it was truncated or"
            f" exchanged; {remedy}"
        )
    if manifest.fingerprint:
        same = manifest.fingerprint == found
    else:
        logger.info("%s has no fingerprint in its manifest, which an older version wrote: every byte is compared", path)
        same = file_sha256(path) == manifest.sha256
    if not same:
        return f"{path} is not the file that its manifest was written for: it was exchanged; {remedy}"
    return problem_of_lists(path, manifest.lists) if manifest.lists else None


def problem_of_lists(path: Path, lists: ListsFile) -> str | None:
    """Returns what is wrong with the lists of an index, where they are a file of their own."""
    data = lists_name(path)
    if not data.is_file():
        return f"{data} is not there, which holds the lists of {path}; move both files together, or build it again"
    remedy = "restore it, or build the index again with fairseq-build-dstore --overwrite"
    if (size := data.stat().st_size) != lists.num_bytes:
        return f"{data} must have {lists.num_bytes} bytes by the manifest of {path}, but has {size}; {remedy}"
    same = fingerprint(data) == lists.fingerprint
    return None if same else f"{data} does not hold the lists of {path}, by its manifest: it was exchanged; {remedy}"
