"""What a file is, told by its content: a line for what it is, and one for each thing that it says.

Nothing is loaded that need not be: the inverted lists of an index and the keys of a datastore stay on the disk.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fairseq.checkpoints.format import load_checkpoint, saved_by, weights_sha256
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MAGIC, OLD_MAGIC, MMapIndexedDataset
from fairseq.errors import DataError, DatastoreError, FairseqError
from fairseq.knn.datastore.format import keys_path, values_path
from fairseq.knn.datastore.manifest import DatastoreManifest, IndexManifest, manifest_path, read_manifest
from fairseq.knn.index.faiss_index import code_bytes, metric_name, num_lists, read_index
from fairseq.knn.maintain.foreign import find_foreign, likely_layouts
from fairseq.knn.retrieval.format import MANIFEST, read_record
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.weight.file import read_model
from fairseq.knn.weight.model import BucketWeights, FixedWeight, NetworkWeights

Lines = list[tuple[str, Any]]

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_FIELDS = (
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
_LARGEST_HEADER = 100_000_000
_LARGEST_JSON = 1 << 28


def describe_all(files: Sequence[str], show: Callable[[str], None]) -> None:
    """Shows what each file is.

    Raises:
        DataError: some could not be read, or are of no kind that is known; the others have been shown.
    """
    problems = []
    for name in files:
        try:
            what, lines = describe(name)
        except FairseqError as err:
            problems.append(str(err))
            continue
        except OSError as err:
            problems.append(f"{name}: {err.strerror or err}")
            continue
        show(f"{name}: {what}")
        for label, value in lines:
            show("".join(c if c.isprintable() else "�" for c in f"  {label}: {value}"))
    if problems:
        raise DataError("; ".join(problems))


def describe(name: str) -> tuple[str, Lines]:
    """Returns what a file (or a datastore's prefix, or the unfinished index of a name) is, and what it says.

    Raises:
        FairseqError: it is not there, of no known kind, or damaged.
    """
    path = Path(name)
    if path.is_dir() and (path / MANIFEST).is_file():
        return _retrieval(path)
    if path.is_dir():
        raise DataError(f"{name} is a directory; give a file, such as {path / 'dict.txt'}")
    for suffix in ("_keys.npy", "_vals.npy"):
        if name.endswith(suffix):
            return _datastore(Path(name.removesuffix(suffix)))
    if path.is_file():
        return _file(path)
    if keys_path(path).exists() or values_path(path).exists():
        return _datastore(path)
    stages = [Path(f"{name}.{stage}") for stage in ("partial", "trained")]
    if any(stage.is_file() for stage in stages):
        return _unfinished_index(stages)
    raise DataError(f"{name} does not exist, nor does {keys_path(path)}; give a file, or a datastore's prefix")


def _file(path: Path) -> tuple[str, Lines]:
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith((MAGIC, OLD_MAGIC)):
        return _tokens(path.with_suffix(""))
    if path.suffix == ".bin" and path.with_suffix(".idx").is_file():
        return _tokens(path.with_suffix(""))
    if path.suffix == ".json":
        return _json(path)
    if head.startswith(_ZIP) or head.startswith(_PICKLE):
        return _checkpoint(path)
    if head[8:9] == b"{" and path.suffix == ".safetensors":
        return _safetensors(path)
    if head[:1] == b"I" and head[:4].isalnum() and path.suffix != ".txt":
        return _index(path)
    if path.suffix == ".txt":
        return _dictionary(path)
    raise DataError(
        f"{path} is of no known kind (a dictionary, .idx or .bin, checkpoint, datastore, FAISS index, manifest or"
        " results); check the path"
    )


def _dictionary(path: Path) -> tuple[str, Lines]:
    dictionary = Dictionary.load(path)
    return "dictionary", [("ids", len(dictionary)), ("sha256", dictionary.sha256())]


def _tokens(prefix: Path) -> tuple[str, Lines]:
    data = MMapIndexedDataset(prefix)
    return "binarised text", [
        ("dtype", data.tokens.dtype.name),
        ("sentences", len(data)),
        ("tokens", len(data.tokens)),
    ]


def _checkpoint(path: Path) -> tuple[str, Lines]:
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
        ("dictionary sha256", checkpoint.extra_state.get("dictionary_sha256") or "not recorded"),
    ]
    shown = [(name, checkpoint.fields.get(name)) for name in _FIELDS]
    return "checkpoint", [*lines, *((name, value) for name, value in shown if value not in (None, ()))]


def _safetensors(path: Path) -> tuple[str, Lines]:
    """Describes a safetensors file: eight bytes that say how long the JSON header is, the header, the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size, _LARGEST_HEADER):
            raise DataError(f"{path} must have a header of {length} bytes, but is shorter; it is torn, make it again")
        header = _parsed(path, file.read(length))
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
        ("format", metadata.get("format", "not recorded")),
        ("updates", metadata.get("num_updates", "not recorded")),
        ("dictionary sha256", metadata.get("dictionary_sha256") or "not recorded"),
    ]
    return "weights (safetensors)", lines


def _datastore(prefix: Path) -> tuple[str, Lines]:
    manifest = read_manifest(manifest_path(prefix), DatastoreManifest)
    if manifest is not None:
        return _store_manifest(manifest)
    sizes = [path.stat().st_size if path.is_file() else 0 for path in (keys_path(prefix), values_path(prefix))]
    lines: Lines = [("bytes of keys", sizes[0] or "missing"), ("bytes of values", sizes[1] or "missing")]
    layouts = likely_layouts(find_foreign(str(prefix))) if all(sizes) else []
    lines += [("may be", str(layout)) for layout in layouts]
    if not layouts:
        raise DatastoreError(f"{prefix} has {sizes[0]} bytes of keys and {sizes[1]} of values: no datastore's sizes")
    return "datastore without a manifest (fairseq-knnlm adopt writes one)", lines


def _store_manifest(manifest: DatastoreManifest) -> tuple[str, Lines]:
    done = manifest.rows_written
    whole = manifest.state == "complete"
    state = "datastore" if whole else f"unfinished datastore, {_share(done, manifest.rows)}"
    lines: Lines = [
        ("rows", manifest.rows),
        ("width", manifest.dimension),
        ("keys", f"{manifest.key_dtype} {manifest.key_type}"),
        ("values", manifest.value_dtype),
        ("vocabulary", manifest.vocabulary_size or "not recorded"),
        ("store id", manifest.store_id),
        ("weights sha256", manifest.weights_sha256 or "not recorded"),
        ("dictionary sha256", manifest.dictionary_sha256 or "not recorded"),
    ]
    if manifest.forgotten:
        lines.append(("rows forgotten", manifest.forgotten.get("rows")))
    if not manifest.segments:
        return state, [*lines, *manifest.settings.items()]
    for number, record in enumerate(manifest.segments):
        lines.append((f"segment {number}", _short(record)))
    return state, lines


def _share(done: int, total: int) -> str:
    return f"{done} of {total} rows ({100 * done / max(total, 1):.0f} %)"


def _index(path: Path) -> tuple[str, Lines]:
    index = read_index(path, mapped=True)
    manifest = read_manifest(manifest_path(path), IndexManifest)
    kind = "FAISS index"
    if not index.is_trained or index.ntotal == 0:
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
        lines += [("nlist", num_lists(index)), ("nprobe", _nprobe(index))]
    code = f"{code_bytes(index) or '?'} (code)"
    lines.append(("bytes per key", f"{path.stat().st_size / index.ntotal:.1f}" if index.ntotal else code))
    return kind, [*lines, *(_index_lines(manifest) if manifest else [("manifest", "none")])]


def _nprobe(index: Any) -> int:
    import faiss

    return int(faiss.extract_index_ivf(index).nprobe)


def _index_lines(manifest: IndexManifest) -> Lines:
    appended: Lines = [("rows appended since training on store", manifest.trained_on)] if manifest.trained_on else []
    return [
        ("specification", manifest.spec),
        ("built from store", manifest.store_id),
        *appended,
        ("trained on", f"{manifest.sample} rows, seed {manifest.seed}"),
        ("FAISS", manifest.faiss_version),
    ]


def _unfinished_index(stages: Sequence[Path]) -> tuple[str, Lines]:
    """Describes the furthest stage of an index that is being built, or whose build was stopped."""
    stage = next(path for path in stages if path.is_file())
    _, lines = _index(stage)
    return f"unfinished index, as far as {stage.name}; build_dstore.py goes on from there", lines


def _json(path: Path) -> tuple[str, Lines]:
    if path.stat().st_size > _LARGEST_JSON:
        raise DataError(f"{path} has {path.stat().st_size} bytes, too many for a manifest or results; check the path")
    record = _parsed(path, path.read_bytes())
    if record.get("kind") == "datastore":
        store = read_manifest(path, DatastoreManifest)
        assert store is not None
        what, lines = _store_manifest(store)
        return f"manifest of a {what}" if store.state == "complete" else f"manifest of an {what}", lines
    if record.get("kind") == "retrieval":
        return _retrieval(path.parent)
    if record.get("kind") == "sweep" and isinstance(record.get("best"), dict):
        return "result of a sweep", [(name, _short(value)) for name, value in record["best"].items()]
    if record.get("kind") == "lmbda-model":
        return _weight(path)
    if record.get("kind") == "forgotten":
        return "rows of a datastore that are forgotten", [("ranges", _short(record.get("ranges")))]
    if record.get("kind") == "index":
        manifest = read_manifest(path, IndexManifest)
        assert manifest is not None
        lines = [("keys", manifest.rows), ("width", manifest.dimension), ("metric", manifest.metric)]
        return "manifest of an index", [*lines, ("nprobe", manifest.nprobe), *_index_lines(manifest)]
    for names, what in (
        (("loss_base2", "ppl"), "results of an evaluation"),
        (("num_updates", "extra_state"), "summary of a checkpoint"),
        (("dictionary", "splits"), "record of fairseq-preprocess"),
        (("failed", "findings"), "findings of fairseq-knnlm check"),
    ):
        if all(name in record for name in names):
            return what, [(name, _short(value)) for name, value in record.items() if name != "settings"]
    raise DataError(
        f"{path} is JSON of no known kind (a manifest, results or a record of this program); check the path"
    )


def _retrieval(directory: Path) -> tuple[str, Lines]:
    if read_record(directory).get("state") != "done":
        return "unfinished retrieval; its command starts over", []
    retrieval = Retrieval.open(directory)
    lines: Lines = [("tokens", len(retrieval)), ("neighbours", retrieval.k), ("columns", ", ".join(retrieval.columns))]
    shown = ("split", "lmbda", "knn_temp", "lm", "mixture", "settings", "identity", "datastore")
    found = [(name, retrieval.manifest.get(name)) for name in shown]
    return "saved retrieval", [*lines, *((name, _short(value)) for name, value in found)]


def _weight(path: Path) -> tuple[str, Lines]:
    model = read_model(path)
    what = {FixedWeight: "one for all", BucketWeights: "by the nearest distance", NetworkWeights: "by token"}
    lines: Lines = [("λ", what[type(model.weights)]), ("k", model.k), ("knn_temp", model.temperature)]
    held_out = [(f"held-out perplexity, {kind}", f"{value:.2f}") for kind, value in model.held_out.items()]
    return "fitted weight λ", [*lines, *held_out, *((name, value) for name, value in model.fitted_for.items())]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def _parsed(path: Path, data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path} must hold JSON, but does not ({err}); it is torn or of another kind") from err
    if not isinstance(record, dict):
        raise DataError(f"{path} must hold a JSON object, but holds a {type(record).__name__}; check the path")
    return record
