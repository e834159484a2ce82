"""What a file is, told by its content: a line for what it is, and one for each thing that it says.

``FILES`` says what describes a kind of file (fairseq/storage/file_kinds.py), ``JSON_KINDS`` and ``JSON_FIELDS`` the
same of JSON. Of a directory it tells what is in it (directory.py).
Nothing is loaded that need not be: the inverted lists of an index and the keys of a datastore stay on the disk.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq.checkpoints.format import load_checkpoint, saved_by, weights_sha256
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import DataError, DatastoreError, FairseqError
from fairseq.knn.datastore.format import keys_path, values_path
from fairseq.knn.datastore.manifest import IndexManifest
from fairseq.knn.index.faiss_index import code_bytes, metric_name, nprobe_of, num_lists, read_index
from fairseq.knn.index.index_file import look_at, require_readable
from fairseq.knn.inspect.config import InfoConfig
from fairseq.knn.inspect.directory import UNKNOWN, items_of, short_text, things_in
from fairseq.knn.inspect.findings import reason_of
from fairseq.knn.inspect.model_directory import Description, Lines, describe_model
from fairseq.knn.inspect.store import describe_datastore, describe_manifest, describe_range
from fairseq.knn.retrieval.format import RetrievalManifest
from fairseq.knn.retrieval.job_array import how_far
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.shards.manifest import is_sharded, read_shards
from fairseq.knn.shards.verify import shards_there
from fairseq.knn.weight.file import read_model
from fairseq.knn.weight.model import BucketWeights, FixedWeight, NetworkWeights
from fairseq.storage.file_kinds import GGUF, MODEL, SHARDED, directory_kind, file_kind
from fairseq.storage.records import as_json, parse, read_record
from fairseq.storage.stores import lists_name

_SETTINGS = (
    "arch",
    "decoder_layers",
    "decoder_embed_dim",
    "decoder_ffn_embed_dim",
    "decoder_attention_heads",
    "adaptive_softmax_cutoff",
    "tokens_per_sample",
    "max_target_positions",
    "criterion",
)
_OF_A_RETRIEVAL = ("split", "lmbda", "knn_temp", "distance_unit", "lm", "mixture", "settings", "identity", "datastore")
_LARGEST_HEADER = 100_000_000
_LARGEST_JSON = 1 << 28
_TORN = "it is torn or of another kind"


def describe_all(config: InfoConfig, show: Callable[[str], None]) -> None:
    """Shows what each file is.

    Raises:
        DataError: some could not be read, or are of no kind that is known; the others have been shown.
    """
    problems = []
    for name in config.files:
        try:
            what, lines = describe(name)
        except (FairseqError, OSError) as err:
            problems.append(reason_of(err))
            continue
        show(f"{name}: {what}")
        for label, value in lines:
            show("".join(c if c.isprintable() else "�" for c in f"  {label}: {value}"))
    if problems:
        raise DataError("; ".join(problems))


def describe(name: str) -> Description:
    """Returns what a file (or a datastore's prefix, or the unfinished index of a name) is, and what it says.

    Raises:
        FairseqError: it is not there, of no known kind, or damaged.
    """
    path = Path(name)
    if path.is_dir():
        kind = directory_kind(path)
        described = {"a saved retrieval": _retrieval, MODEL: describe_model, SHARDED: _checkpoint}.get(kind)
        return described(path) if described else (kind.partition(" ")[2], things_in(path))
    for suffix in ("_keys.npy", "_vals.npy"):
        if name.endswith(suffix):
            return describe_datastore(Path(name.removesuffix(suffix)))
    if path.is_file():
        return _file(path)
    if keys_path(path).exists() or values_path(path).exists():
        return describe_datastore(path)
    if is_sharded(path):
        return _shards(path)
    for stage in (Path(f"{name}.partial"), Path(f"{name}.trained")):  # an index that is being built, or was stopped
        if stage.is_file():
            return f"unfinished index, as far as {stage.name}; fairseq-build-dstore goes on with it", _index(stage)[1]
    raise DataError(f"{name} does not exist, nor does {keys_path(path)}; give a file, or a datastore's prefix")


def _file(path: Path) -> Description:
    if (description := FILES.get(file_kind(path))) is not None:
        return description(path)
    raise DataError(
        f"{path} is of no known kind (a dictionary, .idx or .bin, checkpoint, datastore, FAISS index, manifest or"
        " results); check the path"
    )


def _dictionary(path: Path) -> Description:
    dictionary = Dictionary.load(path)
    return "dictionary", [("ids", len(dictionary)), ("sha256", dictionary.sha256())]


def _text(path: Path) -> Description:
    data, items = MMapIndexedDataset(path.with_suffix("")), items_of(path, "sentences")
    return "binarised text", [("dtype", data.tokens.dtype), (items, len(data)), ("tokens", len(data.tokens))]


def _checkpoint(path: Path) -> Description:
    checkpoint = load_checkpoint(path)
    program, dtypes = saved_by(path)
    # Tied weights are one parameter: tensors that share memory, or that older programs stored twice.
    distinct = {(tensor.data_ptr(), tuple(tensor.shape)): tensor.numel() for tensor in checkpoint.state.values()}
    lines: Lines = [
        ("written by", program),
        ("parameters", sum(distinct.values())),
        ("updates", checkpoint.num_updates),
        ("stored as", dtypes),
        ("weights sha256", weights_sha256(checkpoint.state)),
        ("dictionary sha256", checkpoint.extra_state.get("dictionary_sha256") or UNKNOWN),
    ]
    lines += [(name, checkpoint.fields.get(name)) for name in _SETTINGS]
    return ("checkpoint in shards" if path.is_dir() else "checkpoint"), [x for x in lines if x[1] not in (None, ())]


def _safetensors(path: Path) -> Description:
    """Describes a safetensors file: eight bytes that say how long the JSON header is, the header, the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size, _LARGEST_HEADER):
            raise DataError(f"{path} must have a header of {length} bytes, but is shorter; it is torn, make it again")
        header = parse(file.read(length), dict[str, Any], str(path), DataError, _TORN)
    metadata = header.pop("__metadata__", {})
    shapes = [entry.get("shape") if isinstance(entry, dict) else None for entry in header.values()]
    if not isinstance(metadata, dict) or not all(
        isinstance(shape, list) and all(isinstance(size, int) and 0 <= size < 2**40 for size in shape)
        for shape in shapes
    ):
        raise DataError(f"{path} must describe tensors in its header, but does not; make it again")
    lines: Lines = [
        ("tensors", len(header)),
        ("parameters", sum(math.prod(shape) for shape in shapes if shape is not None)),
        ("format", metadata.get("format", UNKNOWN)),
        ("updates", metadata.get("num_updates", UNKNOWN)),
        ("dictionary sha256", metadata.get("dictionary_sha256") or UNKNOWN),
    ]
    return "weights (safetensors)", lines


def _index(path: Path) -> Description:
    file = look_at(path)
    require_readable(file)
    index, manifest = read_index(path, mapped=True), file.manifest
    kind = "FAISS index"
    if index.ntotal == 0:
        kind = "FAISS index without keys (trained, to be filled)"
    elif path.suffix == ".partial":
        kind = "unfinished FAISS index"
    lines: Lines = [
        ("type", type(index).__name__),
        ("keys", index.ntotal),
        ("width", index.d),
        ("metric", metric_name(index)),
    ]
    if num_lists(index):
        lines += [("nlist", num_lists(index)), ("nprobe", nprobe_of(index))]
    code, size = f"{code_bytes(index) or '?'} (code)", path.stat().st_size
    if manifest is not None and manifest.shard:
        kind = f"shard {manifest.shard.number} of {manifest.shard.count} of a FAISS index"
    if manifest is not None and manifest.lists:
        kind, size = f"FAISS index with its lists in {lists_name(path).name}", manifest.size
    lines.append(("bytes per key", f"{size / index.ntotal:.1f}" if index.ntotal else code))
    lines += [("but", file.problem)] if file.problem is not None else []
    return kind, [*lines, *(_build_of(manifest) if manifest else [("manifest", "none")])]


def _shards(path: Path) -> Description:
    plan = read_shards(path)
    there = shards_there(path, plan)
    missing = [str(number) for number in range(plan.num_shards) if number not in there]
    kind = f"FAISS index in {plan.num_shards} shards"
    if missing:
        kind = f"unfinished {kind}; fairseq-build-dstore --num-shards {plan.num_shards} goes on with it"
    lines: Lines = [("keys", plan.index.rows), ("width", plan.index.dimension), ("metric", plan.index.metric)]
    lines += [("keys of shards", ", ".join(str(rows.num_rows) for rows in plan.rows_of_shards))]
    lines += [("not there yet", f"shard {', '.join(missing)}")] if missing else []
    beside = "beside each shard" if plan.has_rows else "the datastore's"
    return kind, [*lines, ("rows of a block", plan.block_rows), ("keys and values", beside), *_build_of(plan.index)]


def _build_of(manifest: IndexManifest) -> Lines:
    lines: Lines = [("specification", manifest.spec), ("built from store", manifest.store_id)]
    if manifest.trained_on:
        lines.append(("rows appended since training on store", manifest.trained_on))
    trained = ("trained on", f"{manifest.sample} rows, seed {manifest.seed}")
    return [*lines, trained, ("FAISS", manifest.faiss_version)]


def _retrieval(directory: Path) -> Description:
    manifest = RetrievalManifest.read(directory)
    if manifest.state != "done":
        return f"unfinished retrieval; {how_far(directory, manifest) or 'its command starts over'}", []
    retrieval = Retrieval.open(directory)
    lines: Lines = [("tokens", len(retrieval)), ("neighbours", retrieval.k), ("columns", ", ".join(retrieval.columns))]
    return "saved retrieval", [*lines, *_entries(as_json(retrieval.manifest), *_OF_A_RETRIEVAL)]


def _json(path: Path) -> Description:
    if path.stat().st_size > _LARGEST_JSON:
        raise DataError(f"{path} has {path.stat().st_size} bytes, too many for a manifest or results; check the path")
    record = parse(path.read_bytes(), dict[str, Any], str(path), DataError, _TORN)
    kind = str(record.get("kind"))
    if kind in JSON_KINDS:
        return JSON_KINDS[kind](path, record)
    for names, what in JSON_FIELDS:
        if all(name in record for name in names):
            return what, _entries(record, *(name for name in record if name != "settings"))
    raise DataError(
        f"{path} is JSON of no known kind (a manifest, results or a record of this program); check the path"
    )


def _index_file(path: Path) -> Description:
    manifest = read_record(path, IndexManifest, DatastoreError, _TORN)
    lines: Lines = [("keys", manifest.rows), ("width", manifest.dimension), ("metric", manifest.metric)]
    return "manifest of an index", [*lines, ("nprobe", manifest.nprobe), *_build_of(manifest)]


def _weight(path: Path) -> Description:
    model = read_model(path)
    what = {FixedWeight: "one for all", BucketWeights: "by the nearest distance", NetworkWeights: "by token"}
    lines: Lines = [("λ", what[type(model.weights)]), ("k", model.k), ("knn_temp", model.knn_temp)]
    held_out = [(f"held-out perplexity, {kind}", f"{value:.2f}") for kind, value in model.held_out.items()]
    return "fitted weight λ", [*lines, *held_out, *((name, value) for name, value in model.fitted_for.items())]


def _entries(record: Any, *names: str) -> Lines:
    """Returns what a record says, of these names or of all."""
    known = record if isinstance(record, dict) else {}
    return [(name, short_text(known.get(name))) for name in names or known]


# What describes a kind of file.
FILES: dict[str, Callable[[Path], Description]] = {
    "binarised text": _text,
    "JSON": _json,
    "a checkpoint": _checkpoint,
    "weights in safetensors": _safetensors,
    GGUF: lambda path: ("model as GGUF; fairseq-knnlm convert", [("bytes", path.stat().st_size)]),
    "a FAISS index": _index,
    "a dictionary": _dictionary,
    "a text": lambda path: ("text, not binarised", [("bytes", path.stat().st_size)]),
}
# What describes JSON, by its kind; what has none is known by its fields.
JSON_KINDS: dict[str, Callable[[Path, dict[str, Any]], Description]] = {
    "datastore": lambda path, _: describe_manifest(path),
    "index": lambda path, _: _index_file(path),
    "index-shards": lambda path, _: _shards(Path(str(path).removesuffix(".shards.json"))),
    "retrieval": lambda path, _: _retrieval(path.parent),
    "retrieval-range": lambda _, record: (
        "a job's record of a retrieval; fairseq-knnlm join",
        _entries(record, "number", "count", "command"),
    ),
    "lmbda-model": lambda path, _: _weight(path),
    "sweep": lambda _, record: ("result of a sweep", _entries(record.get("best"))),
    "datastore-range": lambda path, _: describe_range(path),
    "forgotten": lambda _, record: ("rows of a datastore that are forgotten", _entries(record, "ranges")),
}
JSON_FIELDS = (
    (("loss_base2", "ppl"), "results of an evaluation"),
    (("num_updates", "extra_state"), "summary of a checkpoint"),
    (("dictionary", "splits"), "record of fairseq-preprocess"),
    (("failed", "findings"), "findings of fairseq-knnlm check"),
)
