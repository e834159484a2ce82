"""What a file or a directory is, told by its name and first bytes, for messages about a path that names another thing.

Nothing is loaded, and what the bytes after the first ones say is not believed.
"""

import codecs
import os
import re
from collections.abc import Callable
from pathlib import Path

from fairseq.config.kinds import stores_in
from fairseq.storage.marks import NUMPY_MAGIC, is_of_kind, json_at

TEXTS = "a directory of texts that are not binarised"
MODEL, GGUF = "a Hugging Face model", "a model as GGUF"
# A checkpoint in shards is a directory with such a record, and such files beside it.
SHARDED, SHARDED_SUFFIX, SHARDED_RECORD = "a checkpoint in shards", ".dcp", "checkpoint.json"
SHARDED_WEIGHTS = re.compile(r"shard-\d+-[\w.-]+\.safetensors(\.tmp)?")
# A model's name on the Hugging Face hub, and what ends no such name.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OF_FILES = (".pt", ".bin", ".gguf", ".safetensors", ".json", ".pth", ".ckpt", ".txt")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_IDX_MAGICS = (b"MMIDIDX\x00\x00", b"TNTIDX\x00\x00")  # of today's .idx files, and of an older layout
_HEAD_BYTES, _LEAST_INDEX = 4096, 13
_WORD_AND_COUNT = re.compile(rb"\S+ \d+( #fairseq:overwrite)?\r?\n")
_ROWS = ("_keys.npy", "_vals.npy")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def _is_index(path: Path, head: bytes) -> bool:
    looks_so = path.suffix != ".txt" and head[:1] == b"I" and head[:4].isalnum()
    return looks_so and (b"\0" in head or len(head) < _LEAST_INDEX)


def _is_text(path: Path, head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return head != b"" and _CONTROL.search(head) is None


# Each kind of file, in words, and how it is known from its path and first bytes; the first that fits counts.
_KINDS: tuple[tuple[str, Callable[[Path, bytes], bool]], ...] = (
    ("binarised text", lambda path, head: head.startswith(_IDX_MAGICS)),
    ("binarised text", lambda path, head: path.suffix == ".bin" and path.with_suffix(".idx").is_file()),
    ("a file of a datastore", lambda path, head: path.name.endswith(_ROWS) and head[:6] != NUMPY_MAGIC),
    ("JSON", lambda path, head: path.suffix == ".json"),
    ("a checkpoint", lambda path, head: head.startswith((_ZIP, _PICKLE))),
    (GGUF, lambda path, head: head.startswith(b"GGUF")),
    ("weights in safetensors", lambda path, head: path.suffix == ".safetensors" and head[8:9] == b"{"),
    ("a FAISS index", _is_index),
    ("a dictionary", lambda path, head: path.name == "dict.txt" or _WORD_AND_COUNT.match(head) is not None),
    ("a text", _is_text),
)


def file_kind(path: Path) -> str:
    """Returns what a file is, in words; an empty string where that cannot be told."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return next((words for words, fits in _KINDS if fits(path, head)), "")


def directory_kind(path: Path) -> str:
    """Returns what a directory is, in words."""
    if is_of_kind(path / "manifest.json", "retrieval"):
        return "a saved retrieval"
    if is_sharded_checkpoint(path):
        return SHARDED
    if (path / "dict.txt").is_file():
        return "a directory of binarised data"
    if is_model_directory(path):
        return MODEL
    if checkpoints_in(path):
        return "a directory of checkpoints"
    if stores := stores_in(path):
        return f"a directory with the datastore {stores[0]}"
    if texts_in(path):
        return TEXTS
    return "a directory"


def is_sharded_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is the directory of a checkpoint in shards, and a whole one: its record comes last."""
    return is_of_kind(Path(path) / SHARDED_RECORD, "sharded checkpoint")


def is_model_directory(path: str | Path) -> bool:
    """Returns whether a path is the directory of a Hugging Face model: it has a ``config.json``."""
    return (Path(path) / "config.json").is_file()


def is_hub_name(path: str) -> bool:
    """Returns whether a path is a model's name on the Hugging Face hub, ``org/model``: neither it nor org is here."""
    if _HUB_NAME.fullmatch(path) is None or path.endswith(_OF_FILES) or Path(path).exists():
        return False
    return not Path(path).parent.exists()


def kind_at(path: str | Path) -> str:
    """Returns what is at a path, in words; an empty string where that cannot be told, or nothing is there."""
    path = Path(path)
    try:
        if path.is_dir():
            return directory_kind(path)
        if path.is_file():
            kind = file_kind(path)
            if kind != "JSON":
                return kind
            if path.name == "preprocess.json":
                return "the record of fairseq-preprocess"
            what = json_at(path).get("kind")
            return f"the JSON record of {_with_article(str(what))}" if isinstance(what, str) else "a JSON file"
    except OSError:
        pass
    return ""


def is_instead(path: str | Path, wanted: str) -> str:
    """Returns ``' is X, not WANTED'`` where something else is known to be at a path; else an empty string."""
    kind = kind_at(path)
    return f" is {kind}, not {wanted}" if kind and kind != wanted else ""


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun[:40]}"


def checkpoints_in(directory: Path) -> list[Path]:
    """Returns the checkpoints in a directory, ``checkpoint_best`` first."""
    names = sorted(path for path in directory.glob("*.pt") if path.is_file())
    names += sorted(path for path in directory.glob(f"*{SHARDED_SUFFIX}") if is_sharded_checkpoint(path))
    return sorted(names, key=lambda path: path.stem != "checkpoint_best")


def models_in(directory: Path) -> list[Path]:
    """Returns the directories of Hugging Face models in a directory, sorted."""
    return sorted(path.parent for path in directory.glob("*/config.json"))


def texts_in(directory: Path) -> list[Path]:
    """Returns the files in a directory that look like texts, sorted."""
    suffixes = (".txt", ".tokens", ".raw", ".tok")
    return sorted(path for path in directory.iterdir() if path.suffix in suffixes and path.name != "dict.txt")
