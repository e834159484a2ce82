"""What a file is, told from its bytes and from the manifest beside it."""

import json
from pathlib import Path
from typing import Any

from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MAGIC, OLD_MAGIC, MMapIndexedDataset
from fairseq.errors import DataError, DatastoreError, FairseqError
from fairseq.knn.layout import keys_path, values_path
from fairseq.knn.manifest import DatastoreManifest, IndexManifest, manifest_path, read_manifest

_MAGICS = {b"PK\x03\x04": "checkpoint", b"\x80\x02": "checkpoint"}
_SUFFIXES = (".idx", ".bin")


def describe_file(name: str) -> dict[str, Any]:
    """Returns what is known of a file, or of the files of a prefix, in the order in which it is to be read.

    Raises:
        FairseqError: there is no such file, or it is none that this toolkit knows.
    """
    path = Path(name)
    for suffix in ("_keys.npy", "_vals.npy"):
        if name.endswith(suffix):
            return _datastore(Path(name.removesuffix(suffix)))
    if keys_path(path).is_file() or values_path(path).is_file():
        return _datastore(path)
    if path.suffix in _SUFFIXES or (not path.is_file() and path.with_name(path.name + ".idx").is_file()):
        return _data(path.with_suffix("") if path.suffix in _SUFFIXES else path)
    if not path.is_file():
        raise DataError(f"{path} {'is a directory; name a file in it' if path.is_dir() else 'does not exist'}")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith((MAGIC, OLD_MAGIC)):
        raise DataError(f"{path} is the index of binarised data, but its name does not end in .idx; rename it")
    if any(head.startswith(magic) for magic in _MAGICS):
        return _checkpoint(path)
    if path.suffix == ".json":
        return _json(path)
    if head[:4].isascii() and head[:2] in (b"Ix", b"Iw", b"IM", b"Ib", b"Im", b"IH", b"IN", b"IR", b"IV"):
        return _index(path)
    if path.name.startswith("dict"):
        dictionary = Dictionary.load(path)
        return {"kind": "dictionary", "ids": len(dictionary), "sha256": dictionary.sha256()}
    return _index(path)


def _data(prefix: Path) -> dict[str, Any]:
    data = MMapIndexedDataset(prefix)
    longest = int(data.sizes.max()) if len(data) else 0
    return {
        "kind": "binarised data",
        "sentences": len(data),
        "tokens": len(data.tokens),
        "longest sentence": longest,
        "dtype": str(data.tokens.dtype),
        "largest id": int(data.tokens.max()) if len(data.tokens) else "none",
    }


def _datastore(prefix: Path) -> dict[str, Any]:
    manifest = read_manifest(manifest_path(prefix), DatastoreManifest)
    sizes = {path.name: path.stat().st_size for path in (keys_path(prefix), values_path(prefix)) if path.is_file()}
    files = ", ".join(f"{name} ({size} bytes)" for name, size in sizes.items())
    if manifest is None:
        return {"kind": "datastore without a manifest", "files": files, "advice": "fairseq-knnlm adopt writes one"}
    return {"kind": "datastore", "files": files, **_of_datastore(manifest)}


def _of_datastore(manifest: DatastoreManifest) -> dict[str, Any]:
    done = (
        "complete" if manifest.state == "complete" else f"unfinished: {manifest.rows_written} of {manifest.rows} rows"
    )
    return {
        "state": done,
        "rows": manifest.rows,
        "keys": f"{manifest.key_dtype}, width {manifest.dimension}, {manifest.key_type}",
        "values": f"{manifest.value_dtype}, below {manifest.vocabulary_size}",
        "store id": manifest.store_id,
        "weights": manifest.weights_sha256,
        "dictionary": manifest.dictionary_sha256,
        **manifest.settings,
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    from fairseq.checkpoints import load_checkpoint, weights_sha256

    checkpoint = load_checkpoint(path)
    fields, extra = checkpoint.fields, checkpoint.extra_state
    shown = ("decoder_layers", "decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_attention_heads",
             "adaptive_input_cutoff", "adaptive_softmax_cutoff", "tokens_per_sample")  # fmt: skip
    return {
        "kind": "checkpoint",
        "written by": extra.get("written_by", "another program"),
        "updates": checkpoint.num_updates,
        "validation loss": extra.get("val_loss"),
        "optimizer": checkpoint.optimizer_name or "none",
        "numbers": f"{sum(tensor.numel() for tensor in checkpoint.state.values()):,}, tied ones counted twice",
        "weights": weights_sha256(checkpoint.state),
        "dictionary": extra.get("dictionary_sha256", "not recorded"),
        **{name: fields[name] for name in shown if fields.get(name) is not None},
    }


def _index(path: Path) -> dict[str, Any]:
    import faiss

    from fairseq.knn.faiss_index import metric_name, num_lists, read_index

    try:
        index = read_index(path)
    except DatastoreError as err:
        raise DataError(f"{path} is no file that this toolkit knows ({err})") from err
    inverted = faiss.try_extract_index_ivf(index)
    manifest = read_manifest(manifest_path(path), IndexManifest)
    known = (
        {"of datastore": manifest.store_id, "specification": manifest.spec, "sha256": manifest.sha256}
        if manifest is not None
        else {"manifest": "none: nothing says which datastore it is of"}
    )
    return {
        "kind": f"FAISS index, {type(index).__name__}",
        "keys": f"{index.ntotal} of width {index.d}" + ("" if index.ntotal else " (trained, empty)"),
        "metric": metric_name(index),
        "lists": num_lists(index),
        "nprobe": inverted.nprobe if inverted is not None else "none",
        "bytes per key": f"{path.stat().st_size / index.ntotal:.1f}" if index.ntotal else "none",
        **known,
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path} must be JSON, but is not ({err})") from err
    kind = record.get("kind") if isinstance(record, dict) else None
    try:
        if kind == "datastore":
            manifest = read_manifest(path, DatastoreManifest)
            assert manifest is not None
            return {"kind": "manifest of a datastore", **_of_datastore(manifest)}
        if kind == "index":
            index = read_manifest(path, IndexManifest)
            assert index is not None
            return {**vars(index), "kind": "manifest of an index"}
    except FairseqError as err:
        raise DataError(str(err)) from err
    if isinstance(record, dict) and "loss_base2" in record:
        names = ("loss_base2", "ppl", "targets", "dtype")
        return {"kind": "result of an evaluation", **{name: record.get(name) for name in names}}
    if isinstance(record, dict) and {"dictionary", "splits"} <= set(record):
        return {"kind": "record of fairseq-preprocess", "splits": ", ".join(map(str, record["splits"]))}
    if isinstance(record, dict) and {"num_updates", "settings"} <= set(record):
        return {"kind": "a checkpoint's settings, for people", "updates": record["num_updates"]}
    raise DataError(f"{path} is JSON, but none that this toolkit writes")
