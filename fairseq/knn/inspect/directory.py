"""What a directory holds: a line for each thing in it, told without loading any.

Files that belong together are one thing: a datastore's keys, values and manifest, an index and its manifest, the two
files of a binarised text with its source text, a checkpoint and its summary.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fairseq.data.corpus.record import tokenizer_record
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.source_text import SourceText
from fairseq.errors import FairseqError
from fairseq.knn.datastore.manifest import manifest_path
from fairseq.knn.datastore.range_record import range_paths
from fairseq.knn.shards.manifest import read_shards
from fairseq.knn.shards.verify import shards_there
from fairseq.storage.file_kinds import kind_at
from fairseq.storage.marks import is_of_kind, json_at
from fairseq.storage.stores import shards_name

MOST_THINGS = 200
UNKNOWN = "not recorded"
_BESIDE = re.compile(
    r"(?s)(.+?)(_keys\.npy|_vals\.npy|\.append\.json|\.range-\d+-of-\d+\.json|\.forgotten\..*|\.time\.json"
    r"|\.documents\.json|\.json|\.bin|\.offsets|\.text|\.ivfdata)"
)
_OF_SHARDS = re.compile(r"(?s)(.+?)(\.shards\.json|\.shard-\d+-of-\d+(\..*|_keys\.npy|_vals\.npy)?)")


def things_in(directory: Path) -> list[tuple[str, str]]:
    """Returns the name of each thing in a directory and what it is, in words, at most ``MOST_THINGS``."""
    found: dict[str, str] = {}
    paths = sorted(directory.iterdir())
    for path in paths:
        name, words = next(_thing(path), (path.name, ""))
        found.setdefault(name, words)
        if len(found) > MOST_THINGS:
            return [*list(found.items())[:MOST_THINGS], ("…", f"{len(paths)} files and directories in all")]
    return [(name, words or "of no kind that is known") for name, words in found.items()]


def _thing(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the thing that a path is, or is a part of; what comes first counts."""
    match = _OF_SHARDS.fullmatch(path.name)
    if match is not None and is_of_kind(plan := shards_name(path.with_name(match[1])), "index-shards"):
        yield match[1], _told(_of_shards, plan)
    match = _BESIDE.fullmatch(path.name)
    if match is not None and path.is_file():
        whole = path.with_name(match[1])
        for main in (Path(f"{whole}_vals.npy"), whole, Path(f"{whole}.idx"), Path(f"{whole}.pt")):
            if main.is_file() and main != path:
                yield from _thing(main)
    kind = kind_at(path)
    name = path.name
    if name.endswith(("_vals.npy", "_keys.npy")):
        prefix = path.with_name(name[:-9])
        yield prefix.name, f"datastore{_of_manifest(manifest_path(prefix))}"
    elif kind in _DETAILS:
        label, details = _DETAILS[kind]
        yield (path.stem if kind == "binarised text" else name), f"{label}{_told(details, path)}"
    elif kind:
        yield name, kind


def _told(details: Callable[[Path], str], path: Path) -> str:
    """Returns details, or nothing where the file is broken: ``info FILE`` says how."""
    try:
        return details(path)
    except (FairseqError, OSError):
        return " that cannot be read"


def _of_manifest(path: Path) -> str:
    manifest = json_at(path)
    if manifest.get("kind") not in ("datastore", "index"):
        return " without a manifest"
    rows, done = manifest.get("rows"), manifest.get("rows_written")
    if manifest.get("state") == "writing":
        if ranges := [json_at(path).get("rows_written") for path in range_paths(path.with_suffix(""))]:
            done = f"in ranges, {sum(count for count in ranges if isinstance(count, int))}"
        return f", unfinished: {done} of {rows} rows"
    if manifest["kind"] == "index":
        return f", {rows} keys, {manifest.get('spec')}"
    return f", {rows} rows of width {manifest.get('dimension')}"


def _of_index(path: Path) -> str:
    stages = {".trained": ", trained, without keys: a build begins there", ".partial": " that is being built"}
    return stages.get(path.suffix) or _of_manifest(manifest_path(path))


def _of_shards(path: Path) -> str:
    index = path.with_name(path.name.removesuffix(".shards.json"))
    plan = read_shards(index)
    there = len(shards_there(index, plan))
    some = "" if there == plan.num_shards else f", {there} of them there"
    return f"FAISS index in {plan.num_shards} shards{some}, {plan.index.rows} keys, {plan.index.spec}"


def _of_checkpoint(path: Path) -> str:
    updates = json_at(path.with_suffix(".json")).get("num_updates")
    return f", {updates} updates" if isinstance(updates, int) else ""


def _of_text(path: Path) -> str:
    data = MMapIndexedDataset(path.with_suffix(""))
    return f", {len(data)} {items_of(path, 'lines')}, {len(data.tokens)} tokens"


def items_of(path: Path, words: str) -> str:
    """Returns what a binarised text is made of: documents where it is tokenized, else these words."""
    return "documents" if SourceText.is_beside(path.with_suffix("")) else words


def settings_lines(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    """Returns a line for each setting of a datastore; blocks are recorded without their context window."""
    size, window = settings.get("tokens_per_sample"), settings.get("context_window")
    lines = dict(settings)
    if isinstance(size, int) and isinstance(window, int) and window:
        lines["tokens_per_sample"] = f"{size} ({size + window} with the context window)"
    return list(lines.items())


def short_text(value: Any) -> str:
    """Returns a value on one line, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def _of_record(path: Path) -> str:
    tokenizer = tokenizer_record(path.parent)
    return f": tokenizer of {tokenizer.directory}, sha256 {tokenizer.sha256[:12]}" if tokenizer is not None else ""


def _of_retrieval(path: Path) -> str:
    manifest: dict[str, Any] = json_at(path / "manifest.json")
    if manifest.get("state") != "done":
        return ", unfinished"
    return f" of {manifest.get('split')}, {manifest.get('num_tokens')} tokens, {manifest.get('k')} neighbours each"


_DETAILS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "binarised text": ("binarised text", _of_text),
    "a FAISS index": ("FAISS index", _of_index),
    "a checkpoint": ("checkpoint", _of_checkpoint),
    "a dictionary": ("dictionary", lambda path: f", {len(Dictionary.load(path))} ids"),
    "a saved retrieval": ("saved retrieval", _of_retrieval),
    "the record of fairseq-preprocess": ("record of fairseq-preprocess", _of_record),
    "a text": ("text", lambda path: ""),
}
