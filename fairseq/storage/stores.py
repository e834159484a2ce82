"""The names of files that belong together: of a datastore, an index, a retrieval, a data directory, a sweep.

For each, the files that a command may write, with the kind that each must be of. And ``store_of``, which says whose a
name is: a file under such a name would be taken for a part of the store, or stand in its way.
"""

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fairseq.storage.marks import (
    IMAGES,
    INDEX,
    INDEX_LISTS,
    NUMPY_MAGIC,
    SWEEP,
    TABLE,
    Kind,
    csv_kind,
    is_of_kind,
    json_at,
    json_kind,
)

Names = list[tuple[Path, Kind]]

STORE_MANIFEST = json_kind("a datastore's manifest", "datastore", store="datastore")
RANGE = json_kind("the record of a range of rows", "datastore-range", store="datastore")
FORGOTTEN = json_kind("a list of forgotten rows", "forgotten", store="datastore")
SHARDS_MANIFEST = json_kind("the manifest of an index in shards", "index-shards", store="index")
INDEX_MANIFEST = json_kind("an index's manifest", "index", store="index")
RETRIEVAL_MANIFEST = json_kind("a retrieval's manifest", "retrieval", store="retrieval")
RETRIEVAL_RESULTS = json_kind("results of a retrieval", "results", store="retrieval")
RETRIEVAL_RANGE = json_kind("a job's record of a retrieval", "retrieval-range", store="retrieval")
DATA_RECORD = Kind("a record of fairseq-preprocess", lambda path: _is_data_record(json_at(path)), store="data")

# How names of files end that lie beside a datastore or an index while it is worked on.
DATASTORE_STAGES = r"\.compact|\.append|\.range-\d+-of-\d+|\.forgotten\.[^/]*"
INDEX_STAGES = r"\.trained|\.partial|\.compact|\.shards|\.shard-\d+-of-\d+|\.ivfdata"

# What lies beside the ids of a text that a model's tokenizer has.
SOURCE_TEXT_SUFFIXES = (".documents.json", ".offsets", ".text")

# Every column that a retrieval may have.
COLUMNS = (
    "targets",
    "positions",
    "blocks",
    "lm_log_prob",
    "ids",
    "distances",
    "hits",
    "lm_max_log_prob",
    "lm_entropy",
    "last_tokens",
    "cache_log_prob",
)
FIGURES = (
    "perplexity_by_lambda",
    "perplexity_by_k",
    "perplexity_by_k_and_temperature",
    "perplexity_by_cache_weight",
    "perplexity_by_both_weights",
)
SWEEP_COLUMNS = (
    "lmbda,k,knn_temp,loss_base2,ppl,gain_ppl",
    "cache_size,cache_theta,lmbda,cache_lmbda,loss_base2,ppl,gain_ppl",
)
_KEY_BYTES, _VALUE_BYTES = {"float32": 4, "float16": 2}, {"int64": 8, "int32": 4, "int16": 2}
# How the records are named that the jobs of an array leave in a retrieval, until they are joined.
RETRIEVAL_RANGE_NAME = r"range-\d+-of-\d+\.json"
_SHARD = r"\.shard-\d+-of-\d+(\.partial|_keys\.npy|_vals\.npy)?(\.json)?"
_ROWS = ("_keys.npy", "_vals.npy")
_OF_RETRIEVAL = ("manifest.json", "results.json", "results.time.json")


def datastore_names(prefix: Path) -> Names:
    """Returns every file of a datastore, and what ranges, an append, a compaction or forgetting leave beside it."""
    names: Names = []
    for part in (f"{prefix}", f"{prefix}.compact"):
        names.append((Path(f"{part}.json"), STORE_MANIFEST))
        names += [(Path(f"{part}_{rows}.npy"), _rows_kind(part, rows)) for rows in ("keys", "vals")]
    names.append((Path(f"{prefix}.append.json"), _append_kind(prefix)))
    for pattern, kind in (("forgotten.*", FORGOTTEN), ("range-*-of-*", RANGE)):
        names += [(path, kind) for path in prefix.parent.glob(f"{glob.escape(prefix.name)}.{pattern}.json")]
    return names


def _append_kind(prefix: Path) -> Kind:
    """Returns the kind of an append's progress; a datastore of that name has rows of its own."""
    what, rows = "the progress of an append", Path(f"{prefix}.append_keys.npy")
    return Kind(what, lambda path: STORE_MANIFEST.is_ours(path) and not rows.exists(), store="datastore")


def _rows_kind(prefix: str, rows: str) -> Kind:
    what = f"the {'keys' if rows == 'keys' else 'values'} of a datastore"
    return Kind(what, lambda path: _is_rows(path, rows), store="datastore", links=True)


def _is_rows(path: Path, rows: str) -> bool:
    """Returns whether a file of bare numbers is the one that the manifest beside it describes, by its size."""
    prefix = str(path).removesuffix(f"_{rows}.npy")
    manifest, coming = json_at(Path(f"{prefix}.json")), json_at(Path(f"{prefix}.compact.json"))
    if manifest.get("kind") != "datastore" or _starts_with(path, NUMPY_MAGIC):
        return False
    row_bytes = _row_bytes(manifest, rows)
    done = manifest.get("rows" if manifest.get("state") == "complete" else "rows_written")
    if coming.get("kind") == "datastore" and isinstance(coming.get("rows"), int):
        done = min(done, coming["rows"]) if isinstance(done, int) else None  # half of a compaction may be in its place
    return row_bytes is not None and isinstance(done, int) and path.stat().st_size >= done * row_bytes


def _row_bytes(manifest: dict[str, Any], rows: str) -> int | None:
    if rows == "vals":
        return _VALUE_BYTES.get(str(manifest.get("value_dtype")))
    dimension, number = manifest.get("dimension"), _KEY_BYTES.get(str(manifest.get("key_dtype")))
    return dimension * number if isinstance(dimension, int) and number else None


def index_names(path: Path) -> Names:
    """Returns an index, its manifest, its shards that are there, and what lies beside it while it is worked on."""
    names: Names = [(shards_name(path), SHARDS_MANIFEST), (lists_name(path), INDEX_LISTS)]
    for stage in (path, *(Path(f"{path}.{stage}") for stage in ("trained", "partial", "compact"))):
        names += [(stage, INDEX), (Path(f"{stage}.json"), INDEX_MANIFEST)]
    return [*names, *shard_names(path)]


def shards_name(index: str | Path) -> Path:
    """Returns where the manifest of an index in several files lies."""
    return Path(f"{index}.shards.json")


def lists_name(index: str | Path) -> Path:
    """Returns where an index has its inverted lists, if they are a file of their own."""
    return Path(f"{index}.ivfdata")


def shard_names(path: Path) -> Names:
    """Returns the files of shards of an index that are there, finished or not."""
    rows = Kind(
        "keys or values of a shard", lambda _: json_at(shards_name(path)).get("has_rows") is True, store="index"
    )
    names: Names = []
    for other in sorted(path.parent.glob(f"{glob.escape(path.name)}.shard-*-of-*")):
        match = re.fullmatch(_SHARD, other.name[len(path.name) :])
        if match is not None:
            names.append((other, rows if match[1] in _ROWS else INDEX_MANIFEST if match[2] else INDEX))
    return names


def retrieval_names(directory: Path, columns: Iterable[str] = COLUMNS) -> Names:
    """Returns every file of a retrieval with these columns."""
    named = json_at(directory / "manifest.json")
    of_retrieval = named.get("kind") == "retrieval" and isinstance(named.get("files"), dict)
    listed = set(named["files"]) if of_retrieval else set()
    column = Kind(
        "a column of a retrieval",
        lambda path: path.name in listed and (_starts_with(path, NUMPY_MAGIC) or path.stat().st_size == 0),
        store="retrieval",
    )
    return [
        (directory / "manifest.json", RETRIEVAL_MANIFEST),
        (directory / "results.json", RETRIEVAL_RESULTS),
        (directory / "results.time.json", RETRIEVAL_RESULTS),
        *(
            (path, RETRIEVAL_RANGE)
            for path in sorted(directory.glob("range-*.json"))
            if re.fullmatch(RETRIEVAL_RANGE_NAME, path.name)
        ),
        *((directory / name, column) for name in sorted({*(f"{name}.npy" for name in columns), *listed})),
    ]


def sweep_names(directory: Path, *, figures: bool) -> Names:
    """Returns every file of a sweep."""
    names: Names = [
        (directory / "sweep.json", SWEEP),
        (directory / "table.md", TABLE),
        (directory / "sweep.csv", csv_kind(SWEEP_COLUMNS)),
    ]
    images = [(directory / f"{name}.{suffix}", kind) for name in FIGURES for suffix, kind in IMAGES.items()]
    return names + images if figures else names


def data_names(directory: Path, splits: list[str]) -> Names:
    """Returns the record, the dictionary and the texts of a data directory."""
    record = json_at(directory / "preprocess.json")
    ours = _is_data_record(record)
    known = set(record.get("splits") or {}) if ours else set()
    unfinished = record.get("unfinished") if ours else None
    known |= _splits_of(unfinished) if isinstance(unfinished, dict) else set()
    text = Kind("a text of fairseq-preprocess", lambda path: path.stem in known, store="data")
    dictionary = Kind("a dictionary of fairseq-preprocess", lambda _: ours, store="data")
    return [
        (directory / "preprocess.json", DATA_RECORD),
        (directory / "dict.txt", dictionary),
        *((directory / f"{split}{suffix}", text) for split in splits for suffix in (".idx", ".bin")),
    ]


def source_text_names(directory: Path, splits: list[str]) -> Names:
    """Returns the files of the source text of splits that a model's tokenizer has."""
    record = json_at(directory / "preprocess.json")
    known = set[str]()
    if _is_data_record(record):
        recorded = record.get("splits") or {}
        known = {name for name in recorded if isinstance(recorded[name], dict) and "offsets_sha256" in recorded[name]}
        unfinished = record.get("unfinished")
        if isinstance(unfinished, dict) and unfinished.get("tokenizer") not in (None, "space"):
            known |= _splits_of(unfinished)
    source = Kind(
        "a source text of fairseq-preprocess", lambda path: path.name.partition(".")[0] in known, store="data"
    )
    return [(directory / f"{split}{suffix}", source) for split in splits for suffix in SOURCE_TEXT_SUFFIXES]


def _is_data_record(record: dict[str, Any]) -> bool:
    return bool(record) and set(record) <= {"dictionary", "splits", "settings", "unfinished", "tokenizer"}


def _splits_of(settings: dict[str, Any]) -> set[str]:
    """Returns the names of the texts that a run of fairseq-preprocess with these settings writes."""
    texts = {name: str(settings.get(f"{name}pref") or "") for name in ("train", "valid", "test")}
    counts = {name: len([part for part in text.split(",") if part]) for name, text in texts.items()}
    return {f"{name}{number or ''}" for name, count in counts.items() for number in range(count)}


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def store_of(path: Path) -> tuple[str, str] | None:
    """Returns the kind of store that has this name, and in words which one; None where it is nobody's."""
    for owner in (_index_in_shards_of, _datastore_of, _index_of, _directory_of, _checkpoint_of):
        for store, words in owner(path):
            return store, words
    return None


def _datastore_of(path: Path) -> Iterator[tuple[str, str]]:
    pattern = r"(?s)(.+?)(\.compact)?(_keys\.npy|_vals\.npy|\.json|\.append\.json|\.range-\d+-of-\d+\.json"
    pattern += r"|\.forgotten\.[^/]*\.json)"
    for match in (re.fullmatch(pattern, path.name),):
        if match is not None:
            prefix = path.with_name(match[1])
            rows = [Path(f"{prefix}_{rows}.npy") for rows in ("keys", "vals")]
            others = [other for other in rows if other != path]
            if any(other.exists() for other in others) or is_of_kind(Path(f"{prefix}.json"), "datastore"):
                yield "datastore", f"a file of the datastore {prefix}"


def _index_in_shards_of(path: Path) -> Iterator[tuple[str, str]]:
    match = re.fullmatch(rf"(?s)(.+?)(\.shards\.json|\.trained(\.json)?|{_SHARD})", path.name)
    if match is not None and is_of_kind(shards_name(index := path.with_name(match[1])), "index-shards"):
        yield "index", f"a file of the index {index}"


def _index_of(path: Path) -> Iterator[tuple[str, str]]:
    match = re.fullmatch(r"(?s)(.+?)(\.trained|\.partial|\.compact|\.ivfdata)?(\.json)?", path.name)
    if match is not None and (match[2] or match[3]):
        index = path.with_name(match[1])
        if is_of_kind(Path(f"{index}.json"), "index") or (index.is_file() and _looks_like_an_index(index)):
            yield "index", f"a file of the index {index}"


def _looks_like_an_index(path: Path) -> bool:
    """Returns whether a file begins as FAISS's do: four letters, the first an I."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[:1] == b"I" and head[:4].isalnum() and b"\0" in head


def _directory_of(path: Path) -> Iterator[tuple[str, str]]:
    directory, name = path.parent, path.name
    is_ours = name in _OF_RETRIEVAL or name.endswith(".npy") or re.fullmatch(RETRIEVAL_RANGE_NAME, name) is not None
    if is_ours and is_of_kind(directory / "manifest.json", "retrieval"):
        yield "retrieval", f"a file of the retrieval {directory}"
    is_named = name in ("dict.txt", "preprocess.json") or path.suffix in (".idx", ".bin")
    source = next((name.removesuffix(suffix) for suffix in SOURCE_TEXT_SUFFIXES if name.endswith(suffix)), None)
    is_named |= source is not None and (directory / f"{source}.idx").is_file()
    if is_named and ((directory / "dict.txt").is_file() or _is_data_record(json_at(directory / "preprocess.json"))):
        yield "data", f"a file of the data directory {directory}"


def _checkpoint_of(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".json" and path.with_suffix(".pt").is_file():
        yield "checkpoint", f"the summary of the checkpoint {path.with_suffix('.pt')}"
