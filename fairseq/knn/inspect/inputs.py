"""Checks of binarised data and of a checkpoint: what a run has beside its datastores."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fairseq.checkpoints.format import Checkpoint, load_checkpoint, weights_sha256
from fairseq.config.path_lists import join_paths, unescaped
from fairseq.data.config import LanguageModelingConfig
from fairseq.data.corpus.record import PreprocessRecord
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.source_text import SourceText
from fairseq.errors import DataError
from fairseq.knn.inspect.config import CheckConfig
from fairseq.knn.inspect.findings import FAILED, OK, SKIPPED, Findings
from fairseq.knn.inspect.model_directory import check_model
from fairseq.models.protocol import ModelIdentity
from fairseq.storage.file_kinds import is_model_directory
from fairseq.storage.records import read_record
from fairseq.tasks.language_modeling import LanguageModelingTask


@dataclass(frozen=True)
class Inputs:
    """The data directory and the model, as far as they were given and can be read."""

    directory: Path | None = None
    model: ModelIdentity = field(default_factory=ModelIdentity)


def check_inputs(config: CheckConfig, findings: Findings) -> Inputs:
    """Checks the data and the checkpoint that are given, and returns them for what is to be compared with them."""
    inputs = _check_data(config, findings, Path(unescaped(config.data))) if config.data else Inputs()
    return _check_checkpoint(findings, unescaped(config.path), inputs) if config.path else inputs


def _check_data(config: CheckConfig, findings: Findings, directory: Path) -> Inputs:
    """Checks the dictionary and every split."""
    path, inputs = directory / "dict.txt", Inputs()
    dictionary = findings.opened("dictionary", lambda: Dictionary.load(path))
    record = findings.opened("preprocess.json", lambda: _record(directory)) or PreprocessRecord()
    if dictionary is not None:
        sha256, size = dictionary.sha256(), len(dictionary)
        inputs = Inputs(directory, ModelIdentity(sha256, vocabulary_size=size))
        problem = f"{path} is not the one that preprocess.json records; restore it"
        same = (record.dictionary or {}).get("sha256") in (None, sha256)
        findings.judge("dictionary", None if same else problem, f"{size} ids, sha256 {sha256[:12]}")
    if config.gen_subset is not None:
        splits = [part for part in config.gen_subset.split(",") if part]
    else:
        splits = sorted(path.stem for path in directory.glob("*.idx"))
        if not splits and dictionary is not None:
            findings.add(FAILED, "data", f"{directory} holds no split (NAME.idx and NAME.bin); make one")
    for split in splits:
        recorded = (record.splits or {}).get(split, {})
        _check_split(findings, directory / split, inputs.model.vocabulary_size, recorded)
    return inputs


def _record(directory: Path) -> PreprocessRecord | None:
    path = directory / "preprocess.json"
    remedy = "remove it, or binarise again"
    return read_record(path, PreprocessRecord, DataError, remedy) if path.is_file() else None


def _check_split(findings: Findings, prefix: Path, vocabulary_size: int | None, recorded: Mapping[str, Any]) -> None:
    """Checks the ids of a split, and its source text where it has one."""
    what = f"data {prefix.name}"
    text = findings.opened(f"{what} sizes", lambda: MMapIndexedDataset(prefix))
    if text is None:
        return
    findings.add(OK, f"{what} sizes", f"{len(text)} sentences, {len(text.tokens)} tokens of {text.tokens.dtype}")
    if vocabulary_size is None:
        findings.add(SKIPPED, f"{what} ids", "there is no dictionary to check them against")
    else:
        with findings.failing(f"{what} ids"):
            text.check_ids(vocabulary_size, str(prefix.parent / "dict.txt"))
            findings.add(OK, f"{what} ids", f"all below {vocabulary_size}")
    files = {".bin": recorded.get("bin_sha256"), ".offsets": recorded.get("offsets_sha256")}
    known = {Path(f"{prefix}{suffix}"): sha256 for suffix, sha256 in files.items() if sha256}
    with findings.failing(f"{what} source text"):
        source = SourceText.open(prefix)
        if source is not None and not findings.fast:
            source.check(text.offsets)
            findings.add(OK, f"{what} source text", f"{source.num_documents} documents, as recorded")
    if all(path.is_file() for path in known):
        findings.checksum_of_files(what, known, "binarise the text again")


def _check_checkpoint(findings: Findings, path: str, inputs: Inputs) -> Inputs:
    """Checks a checkpoint, and returns what it adds to the identity of the model."""
    if is_model_directory(path):
        return replace(inputs, model=check_model(findings, path, inputs.model))
    checkpoint = findings.opened("checkpoint", lambda: load_checkpoint(path))
    if checkpoint is None:
        return inputs
    sha256 = weights_sha256(checkpoint.state)
    findings.add(OK, "checkpoint", f"{len(checkpoint.state)} tensors, {checkpoint.num_updates} updates")
    findings.add(OK, "checkpoint weights", f"all finite, sha256 {sha256[:12]}")  # else it had not been loaded
    width = _key_dimension(findings, checkpoint, inputs)
    return replace(inputs, model=replace(inputs.model, weights_sha256=sha256, key_dimension=width))


def _key_dimension(findings: Findings, checkpoint: Checkpoint, inputs: Inputs) -> int | None:
    """Returns the width of a key, for which the checkpoint is loaded into its model, if its dictionary is there."""
    own = ModelIdentity(checkpoint.extra_state.get("dictionary_sha256"))
    findings.belongs("checkpoint", own, inputs.model, ("dictionary",))
    if inputs.directory is None or findings.failed("checkpoint dictionary"):
        findings.add(SKIPPED, "checkpoint model", "needs a data directory with the model's dictionary")
        return None
    task = LanguageModelingTask(LanguageModelingConfig(data=join_paths([inputs.directory])))
    model: Any = findings.opened("checkpoint model", lambda: task.load_model(checkpoint, {}))
    if model is None:
        return None
    findings.add(OK, "checkpoint model", f"its weights fit its settings, key width {model.key_dimension}")
    return int(model.key_dimension)
