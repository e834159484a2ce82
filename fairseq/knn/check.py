"""Verifying everything that goes into a run with neighbours, before days are spent on it.

    data        sizes, headers, ids within the dictionary, hashes of preprocess.json
    checkpoint  readable, finite, of this dictionary
    datastore   sizes, checksums, values within the vocabulary, keys that are not finite or all zero; of this model
    index       checksum, keys, width; of this datastore; how well it finds what is there

Each finding is one line: ok, FAILED, warning or skipped, what was checked, what was found. Files are read in blocks.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.checkpoints import Checkpoint, load_checkpoint, weights_sha256
from fairseq.data.config import LanguageModelingConfig
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import FairseqError
from fairseq.files import file_sha256
from fairseq.knn.checksums import CHUNK_ROWS, chunk_digests
from fairseq.knn.config import CheckConfig
from fairseq.knn.datastore import Datastore
from fairseq.knn.faiss_index import check_index_fits, metric_name, open_index
from fairseq.knn.layout import keys_path, values_path
from fairseq.knn.manifest import Expected, IndexManifest, check_index, check_store, manifest_path, read_manifest
from fairseq.knn.recall import measure_recall
from fairseq.log import Progress
from fairseq.tasks.language_modeling import LanguageModelingTask

BLOCK_ROWS = CHUNK_ROWS
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One finding; ``status`` is ok, FAILED, warning or skipped."""

    status: str
    what: str
    finding: str

    @property
    def line(self) -> str:
        """The finding as it is printed."""
        return f"{self.status:<8} {self.what}: {self.finding}"


def check_all(config: CheckConfig, log_format: str) -> Iterator[Finding]:
    """Yields what is found, part by part; a part that cannot be read is a finding too."""
    dictionary = checkpoint = store = None
    if config.data is not None:
        dictionary = yield from _attempt("dictionary", lambda: Dictionary.load(Path(config.data or "") / "dict.txt"))
        if dictionary is not None:
            yield Finding("ok", "dictionary", f"{len(dictionary)} ids")
            yield from _check_data(config, dictionary)
    if config.path is not None:
        checkpoint = yield from _attempt("checkpoint", lambda: load_checkpoint(config.path or ""))
        if checkpoint is not None:
            yield from _check_checkpoint(config, checkpoint)
    if config.dstore_filename is not None:
        size = len(dictionary) if dictionary is not None else None
        prefix = config.dstore_filename
        store = yield from _attempt("datastore", lambda: Datastore.open(prefix, vocabulary_size=size))
        if store is not None:
            yield from _check_store(config, store, dictionary, checkpoint, log_format)
    if config.indexfile is not None:
        yield from _check_index(config, store)


def _attempt(what: str, make: Any) -> Any:
    """Returns what ``make`` returns, or None after yielding the failure."""
    try:
        return make()
    except (FairseqError, OSError) as err:
        yield Finding("FAILED", what, str(err))
        return None


def _passes(what: str, finding: str, check: Any) -> Iterator[Finding]:
    """Yields ``finding`` if a check raises nothing, else what it raises."""
    try:
        check()
    except (FairseqError, OSError) as err:
        yield Finding("FAILED", what, str(err))
    else:
        yield Finding("ok", what, finding)


def _check_data(config: CheckConfig, dictionary: Dictionary) -> Iterator[Finding]:
    data = Path(config.data or "")
    splits = [config.gen_subset] if config.gen_subset else sorted(path.stem for path in data.glob("*.idx"))
    if not splits:
        yield Finding("FAILED", "data", f"{data} has no splits")
    try:
        recorded = json.loads((data / "preprocess.json").read_bytes())["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        recorded = {}
    for split in splits:
        what = f"split {split}"
        dataset = yield from _attempt(what, lambda split=split: MMapIndexedDataset(data / split))
        if dataset is None:
            continue
        found = f"{len(dataset)} sentences, {len(dataset.tokens)} tokens, every id in the dictionary"
        yield from _passes(what, found, lambda dataset=dataset: dataset.check_ids(len(dictionary), "dict.txt"))
        if config.fast or split not in recorded:
            yield Finding("skipped", f"{what}, hash", "--fast" if config.fast else "preprocess.json has none")
        elif file_sha256(dataset.tokens_path) == recorded[split].get("bin_sha256"):
            yield Finding("ok", f"{what}, hash", "that of preprocess.json")
        else:
            yield Finding(
                "FAILED", f"{what}, hash", f"{dataset.tokens_path} is not the file that preprocess.json names"
            )


def _check_checkpoint(config: CheckConfig, checkpoint: Checkpoint) -> Iterator[Finding]:
    numbers = sum(tensor.numel() for tensor in checkpoint.state.values())
    yield Finding("ok", "checkpoint", f"{checkpoint.num_updates} updates, {numbers:,} finite numbers")
    if config.data is not None:
        own = {name: checkpoint.fields.get(name) for name in ("tokens_per_sample", "add_bos_token")}
        settings = {name: value for name, value in own.items() if value is not None}
        task = LanguageModelingConfig(data=config.data, **settings)
        yield from _passes(
            "checkpoint and dictionary", "they fit", lambda: LanguageModelingTask(task).load_model(checkpoint, {})
        )


def _check_store(
    config: CheckConfig, store: Datastore, dictionary: Dictionary | None, checkpoint: Checkpoint | None, log_format: str
) -> Iterator[Finding]:
    manifest, prefix = store.manifest, store.prefix
    yield Finding("ok", "datastore", f"{store.rows} rows, width {store.dimension}, files of the right size")
    if manifest is None:
        yield Finding("warning", "datastore, manifest", "there is none; fairseq-knnlm adopt writes one")
    else:
        expected = Expected(
            vocabulary_size=len(dictionary) if dictionary is not None else None,
            dictionary_sha256=dictionary.sha256() if dictionary is not None else None,
            weights_sha256=weights_sha256(checkpoint.state) if checkpoint is not None else None,
        )
        yield from _passes(
            "datastore, origin", "that of model and dictionary", lambda: check_store(manifest, prefix, expected)
        )
        if config.fast:
            yield Finding("skipped", "datastore, checksums", "--fast")
        else:
            known = ((keys_path(prefix), manifest.key_bytes, manifest.keys_sha256),
                     (values_path(prefix), manifest.value_bytes, manifest.values_sha256))  # fmt: skip
            for path, row_bytes, digests in known:
                yield _check_sums(path, row_bytes, store.rows, digests, log_format)
    recorded = manifest.vocabulary_size if manifest is not None else None
    yield _check_values(store, len(dictionary) if dictionary is not None else recorded)
    if config.fast:
        yield Finding("skipped", "datastore, keys", "--fast")
    else:
        yield from _check_keys(store, log_format)


def _check_sums(path: Path, row_bytes: int, rows: int, digests: tuple[str, ...], log_format: str) -> Finding:
    what = f"checksums of {path.name}"
    if not digests:
        return Finding("skipped", what, "the manifest has none")
    bad = []
    with Progress(what, rows, "rows", log_format) as progress:
        for idx, digest in enumerate(chunk_digests(path, row_bytes, rows)):
            if idx >= len(digests) or digest != digests[idx]:
                bad.append(f"{idx * CHUNK_ROWS} to {min(rows, (idx + 1) * CHUNK_ROWS) - 1}")
            progress.advance(min(CHUNK_ROWS, rows - idx * CHUNK_ROWS))
    if bad:
        return Finding("FAILED", what, f"rows {', '.join(bad[:SHOWN])} are damaged ({len(bad)} chunks)")
    return Finding("ok", what, f"{len(digests)} chunks")


def _check_values(store: Datastore, vocabulary_size: int | None) -> Finding:
    low, high = int(store.values_N.min()), int(store.values_N.max())
    found = f"ids {low} to {high}"
    if low < 0 or (vocabulary_size is not None and high >= vocabulary_size):
        where = np.flatnonzero((store.values_N < 0) | (store.values_N >= (vocabulary_size or 2**31)))
        return Finding(
            "FAILED",
            "datastore, values",
            f"{found}, of {vocabulary_size}: {len(where)} outside, first in row {where[0]}",
        )
    return Finding("ok", "datastore, values", found)


def _check_keys(store: Datastore, log_format: str) -> Iterator[Finding]:
    assert store.keys_ND is not None
    infinite: list[int] = []
    zero: list[int] = []
    with Progress("read the keys", store.rows, "rows", log_format) as progress:
        for start in range(0, store.rows, BLOCK_ROWS):
            block_ND = np.asarray(store.keys_ND[start : start + BLOCK_ROWS])
            infinite += (start + np.flatnonzero(~np.isfinite(block_ND).all(axis=1))).tolist()
            zero += (start + np.flatnonzero(~block_ND.any(axis=1))).tolist()
            progress.advance(len(block_ND))
    for what, rows in (("not finite", infinite), ("all zero", zero)):
        if rows:
            tail = "; they end the file: rows that were never written" if _is_tail(rows, store.rows) else ""
            yield Finding("FAILED", f"keys that are {what}", f"{len(rows)}, first in row {rows[0]}{tail}")
        else:
            yield Finding("ok", f"keys that are {what}", "none")


def _is_tail(rows: list[int], count: int) -> bool:
    return rows[-1] == count - 1 and rows[-1] - rows[0] + 1 == len(rows)


def _check_index(config: CheckConfig, store: Datastore | None) -> Iterator[Finding]:
    path = Path(config.indexfile or "")
    manifest = yield from _attempt("index, manifest", lambda: read_manifest(manifest_path(path), IndexManifest))
    metric = manifest.metric if manifest is not None else "l2"
    index = yield from _attempt("index", lambda: open_index(path, nprobe=config.probe, metric=metric))
    if index is None:
        return
    yield Finding("ok", "index", f"{index.ntotal} keys of width {index.d}, metric {metric_name(index)}")
    if manifest is None:
        yield Finding("warning", "index, manifest", "there is none: nothing says which datastore it is of")
    elif path.stat().st_size != manifest.num_bytes:
        yield Finding("FAILED", "index, size", f"{path.stat().st_size} bytes, but {manifest.num_bytes} by its manifest")
    elif config.fast:
        yield Finding("skipped", "index, checksum", "--fast")
    elif file_sha256(path) != manifest.sha256:
        yield Finding("FAILED", "index, checksum", f"{path} is not the file that its manifest names")
    else:
        yield Finding("ok", "index, checksum", "that of its manifest")
    if store is None:
        return
    prefix = store.prefix
    try:
        check_index_fits(index, path, rows=store.rows, dimension=store.dimension, prefix=prefix)
    except FairseqError as err:
        yield Finding("FAILED", "index and datastore", str(err))
        return
    if manifest is not None:
        yield from _passes(
            "index and datastore", "they belong together", lambda: check_index(manifest, path, store.store_id, prefix)
        )
    else:
        yield Finding("ok", "index and datastore", "as many keys, of the same width")
    if config.sample:
        measured = measure_recall(index, store, config.k, config.sample)
        status = "warning" if measured.num_missing or measured.own_rows < measured.queries else "ok"
        yield Finding(status, "index, search", measured.words)
