"""Checks of binarised data and of a checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.checkpoints.format import Checkpoint, load_checkpoint, weights_sha256
from fairseq.data.config import LanguageModelingConfig
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import DataError
from fairseq.knn.inspect.config import CheckConfig
from fairseq.knn.inspect.findings import FAILED, OK, SKIPPED, Findings
from fairseq.runtime.files import file_sha256
from fairseq.tasks.language_modeling import LanguageModelingTask


@dataclass(frozen=True)
class CheckedData:
    """A data directory whose dictionary could be read."""

    directory: Path
    dictionary: Dictionary
    sha256: str


@dataclass(frozen=True)
class CheckedCheckpoint:
    """A checkpoint that could be read; the width of its keys is known if it was loaded into its model."""

    path: str
    weights_sha256: str
    key_dimension: int | None


def check_data(config: CheckConfig, findings: Findings) -> CheckedData | None:
    """Checks the dictionary and every split, and returns the dictionary where it can be read."""
    assert config.data is not None
    directory = Path(config.data)
    data: CheckedData | None = None
    with findings.failing("dictionary"):
        if not directory.is_dir():
            raise DataError(f"{directory} is no directory; give one that fairseq-preprocess made")
        dictionary = Dictionary.load(directory / "dict.txt")
        data = CheckedData(directory, dictionary, dictionary.sha256())
    record = _record(directory, findings)
    if data is not None:
        expected = _entry(record, "dictionary").get("sha256")
        problem = None
        if expected is not None and expected != data.sha256:
            problem = f"{directory / 'dict.txt'} is not the one that preprocess.json records; restore it"
        findings.judge("dictionary", problem, f"{len(data.dictionary)} ids, sha256 {data.sha256[:12]}")
    if config.gen_subset is not None:
        splits = [part for part in config.gen_subset.split(",") if part]
    else:
        splits = sorted(path.stem for path in directory.glob("*.idx"))
        if not splits and data is not None:
            findings.add(FAILED, "data", f"{directory} holds no split (NAME.idx and NAME.bin); make one")
    for split in splits:
        _check_split(config, findings, directory, split, data, _entry(_entry(record, "splits"), split))
    return data


def _record(directory: Path, findings: Findings) -> dict[str, Any]:
    """Returns what ``preprocess.json`` says, nothing where it is not there."""
    path = directory / "preprocess.json"
    record: Any = {}
    with findings.failing("preprocess.json"):
        if path.is_file():
            try:
                record = json.loads(path.read_bytes())
            except (ValueError, RecursionError) as err:
                raise DataError(f"{path} must be JSON, but is not ({err}); remove it, or binarise again") from err
            if not isinstance(record, dict):
                raise DataError(f"{path} must hold a JSON object, but holds a {type(record).__name__}; remove it")
    return record if isinstance(record, dict) else {}


def _entry(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _check_split(
    config: CheckConfig,
    findings: Findings,
    directory: Path,
    split: str,
    data: CheckedData | None,
    record: dict[str, Any],
) -> None:
    what = f"data {split}"
    tokens: MMapIndexedDataset | None = None
    with findings.failing(f"{what} sizes"):
        tokens = MMapIndexedDataset(directory / split)
        count = len(tokens.tokens)
        findings.add(OK, f"{what} sizes", f"{len(tokens)} sentences, {count} tokens of {tokens.tokens.dtype}")
    if tokens is None:
        return
    if data is None:
        findings.add(SKIPPED, f"{what} ids", "there is no dictionary to check them against")
    else:
        with findings.failing(f"{what} ids"):
            tokens.check_ids(len(data.dictionary), str(directory / "dict.txt"))
            findings.add(OK, f"{what} ids", f"all below {len(data.dictionary)}")
    expected = record.get("bin_sha256")
    if config.fast or expected is None:
        reason = "--fast" if config.fast else "no preprocess.json records it"
        findings.add(SKIPPED, f"{what} sha256", reason)
    else:
        found = file_sha256(tokens.tokens_path)
        problem = f"{tokens.tokens_path} has {found[:12]}, but preprocess.json records {str(expected)[:12]}"
        findings.judge(
            f"{what} sha256",
            None if found == expected else f"{problem}; the file was damaged or replaced, binarise the text again",
            found[:12],
        )


def check_checkpoint(config: CheckConfig, findings: Findings, data: CheckedData | None) -> CheckedCheckpoint | None:
    """Checks a checkpoint, and returns it where it can be read."""
    assert config.path is not None
    checkpoint: Checkpoint | None = None
    with findings.failing("checkpoint"):
        checkpoint = load_checkpoint(config.path)
    if checkpoint is None:
        return None
    sha256 = weights_sha256(checkpoint.state)
    findings.add(OK, "checkpoint", f"{len(checkpoint.state)} tensors, {checkpoint.num_updates} updates")
    findings.add(OK, "checkpoint weights", f"all finite, sha256 {sha256[:12]}")  # else it had not been loaded
    own = checkpoint.extra_state.get("dictionary_sha256")
    matches = True
    if own is None or data is None:
        reason = "no data directory was given" if data is None else "the program that wrote it did not record it"
        findings.add(SKIPPED, "checkpoint dictionary", reason)
    else:
        problem = f"trained with {str(own)[:12]}, but {data.directory / 'dict.txt'} is {data.sha256[:12]}"
        remedy = "give the data that was binarised with the model's dictionary"
        matches = findings.judge(
            "checkpoint dictionary", None if own == data.sha256 else f"{problem}; {remedy}", data.sha256[:12]
        )
    return CheckedCheckpoint(config.path, sha256, _key_dimension(findings, checkpoint, data if matches else None))


def _key_dimension(findings: Findings, checkpoint: Checkpoint, data: CheckedData | None) -> int | None:
    """Loads the checkpoint into its model, and returns the width of a key."""
    if data is None:
        findings.add(SKIPPED, "checkpoint model", "needs a data directory with the model's dictionary")
        return None
    with findings.failing("checkpoint model"):
        task = LanguageModelingTask(LanguageModelingConfig(data=str(data.directory)))
        model: Any = task.load_model(checkpoint, {})
        findings.add(OK, "checkpoint model", f"its weights fit its settings, key width {model.key_dimension}")
        return int(model.key_dimension)
    return None
