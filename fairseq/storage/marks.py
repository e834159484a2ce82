"""Marks: how a file is known to be of a kind, and to be written by this program.

A JSON record names its ``kind``. What has another format carries a mark where that format has room for one: a page its
generator, an image its software, a log its first line, an index a line behind its last byte, a table a comment. What
has no room (rows of numbers) is named by a record beside it.
"""

import json
import re
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = "fairseq-knnlm"
_LARGEST_JSON = 1 << 28
_LARGEST_HEADER = 100_000_000
_LARGEST_PICKLE = 1 << 26
_HEAD_BYTES = 4096

GENERATOR = f'<meta name="generator" content="{PROGRAM} report">'
# What pages had before they named their generator.
_OLDER_PAGE = ("img-src data:; base-uri 'none'; form-action 'none'\">", "<title>kNN-LM on ", "--gain: light-dark(")
TABLE_MARK = f"<!-- {PROGRAM} sweep -->"
IMAGE_MARK = f"{PROGRAM} sweep"
LOG_MARK = f"log of {PROGRAM}"
INDEX_MARK = f"\n{PROGRAM} index\n".encode()
DISTRIBUTION_MARK = f"{PROGRAM} distribution"
NUMPY_MAGIC = b"\x93NUMPY"
_LOG_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| INFO \| fairseq \| " + LOG_MARK.encode() + rb"\b")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        what: in words, for messages.
        is_ours: whether this program wrote the regular file at a path, and as this kind.
        store: which store's names it may have: ``datastore``, ``index``, ``retrieval``, ``data``.
        streams: whether a device or a pipe may take its place.
        links: whether it may be another file under a second name, which is given up and not written to.
    """

    what: str
    is_ours: Callable[[Path], bool]
    store: str = ""
    streams: bool = False
    links: bool = False


def json_at(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; an empty one where there is none, or none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_JSON:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_of_kind(path: Path, *kinds: str) -> bool:
    """Returns whether a file is a JSON record of one of these kinds."""
    return json_at(path).get("kind") in kinds


def json_kind(what: str, *kinds: str, older: Collection[str] = (), store: str = "", streams: bool = False) -> Kind:
    """Returns the kind of a JSON record.

    Args:
        what: in words.
        kinds: its ``kind``, one of these.
        older: the fields of one that this program wrote before there was a ``kind``.
        store: whose name it may have.
        streams: whether it may go to a device or a pipe.
    """

    def is_ours(path: Path) -> bool:
        found = json_at(path)
        return found.get("kind") in kinds or (bool(older) and "kind" not in found and set(older) <= set(found))

    return Kind(what, is_ours, store, streams)


def _head(path: Path, count: int = _HEAD_BYTES) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def tail(path: Path, count: int) -> bytes:
    """Returns the last bytes of a file."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - count, 0))
        return file.read(count)


def _is_log(path: Path) -> bool:
    return path.stat().st_size == 0 or _LOG_LINE.match(_head(path)) is not None


def _is_marked_index(path: Path) -> bool:
    return tail(path, len(INDEX_MARK)) == INDEX_MARK


def _is_index(path: Path) -> bool:
    """Returns whether an index carries our mark; or, from before there was one, its manifest tells its size."""
    manifest = json_at(Path(f"{path}.json"))
    return _is_marked_index(path) or (
        manifest.get("kind") == "index" and manifest.get("num_bytes") == path.stat().st_size
    )


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size, _LARGEST_HEADER):
            return False
        try:
            metadata = json.loads(file.read(length)).get("__metadata__", {})
        except (ValueError, AttributeError, RecursionError):
            return False
    return isinstance(metadata, dict) and metadata.get("format") == PROGRAM


def _is_checkpoint(path: Path) -> bool:
    """Returns whether a checkpoint's pickle, which is not loaded, names what only this program writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith("/data.pkl") and entry.file_size <= _LARGEST_PICKLE:
                    return b"dictionary_sha256" in archive.read(entry)
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError):
        pass
    return False


def csv_kind(headers: Sequence[str]) -> Kind:
    """Returns the kind of a table of comma-separated values, known by its first line."""
    lines = [f"{header}\n".encode() for header in headers]
    return Kind("a table of every setting", lambda path: any(_head(path).startswith(line) for line in lines))


def _is_page(path: Path) -> bool:
    head = _head(path)
    return GENERATOR.encode() in head or all(part.encode() in head for part in _OLDER_PAGE)


def _is_image(magic: bytes) -> Callable[[Path], bool]:
    return lambda path: _head(path).startswith(magic) and IMAGE_MARK.encode() in _head(path)


PAGE = Kind("a page of fairseq-knnlm report", _is_page, streams=True)
TABLE = Kind("a table of a sweep", lambda path: tail(path, 64).rstrip().endswith(TABLE_MARK.encode()))
IMAGES = {
    suffix: Kind(f"a figure of a sweep ({suffix})", _is_image(magic))
    for suffix, magic in (("svg", b"<?xml"), ("png", b"\x89PNG\r\n"))
}
LOG = Kind("a log", _is_log, streams=True)
DISTRIBUTION = Kind(
    "an Arrow file of fairseq-knnlm export-distribution", lambda path: DISTRIBUTION_MARK.encode() in _head(path)
)
INDEX = Kind("an index", _is_index, store="index")
INDEX_LISTS = Kind("the inverted lists of an index", _is_marked_index, store="index")
SAFETENSORS = Kind("weights in safetensors", _is_safetensors)
CHECKPOINT = Kind("a checkpoint", _is_checkpoint)
CHECKPOINT_SUMMARY = json_kind(
    "the summary of a checkpoint", "checkpoint", older=("num_updates", "extra_state", "settings"), store="checkpoint"
)
RESULTS = json_kind("the results of an evaluation", "evaluation", older=("loss_base2", "ppl", "command"), streams=True)
TIMES = json_kind("the times of an evaluation", "times", older=("seconds", "tokens_per_s"))
FINDINGS = json_kind(
    "findings of fairseq-knnlm check", "findings", older=("failed", "findings", "settings"), streams=True
)
ROWS = json_kind("rows of fairseq-knnlm rows", "rows", older=("prefix", "store_id", "found"), streams=True)
RECALL = json_kind(
    "a table of fairseq-knnlm recall", "recall", older=("queries", "queries_from", "rows", "settings"), streams=True
)
LMBDA_MODEL = json_kind("a fitted weight", "lmbda-model", streams=True)
SWEEP = json_kind("the result of a sweep", "sweep", "cache-sweep")
