"""Checkpoints and the data directory's dictionary become models, everything checked, before any text is read.

The block size in force is the checkpoint's ``tokens_per_sample`` less the context window
(fairseq/evaluate/evaluation.py).
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.checkpoints.format import Checkpoint, load_checkpoint
from fairseq.checkpoints.hub_names import local_directory
from fairseq.checkpoints.huggingface import DEFAULT_BLOCK, ModelDirectory, is_model_directory, read_model_directory
from fairseq.config.flags import coerce, flag_fields, parse_literal_dict, resolve
from fairseq.config.path_lists import split_paths
from fairseq.data.blocks import check_window
from fairseq.data.config import OWNED_BY_CHECKPOINT
from fairseq.data.corpus.record import tokenizer_record
from fairseq.data.dictionary import Dictionary
from fairseq.errors import ConfigError, refuse_unknown
from fairseq.models import MODELS
from fairseq.models.protocol import ModelIdentity
from fairseq.runtime.precision import Precision
from fairseq.storage.file_kinds import is_hub_name
from fairseq.tasks import TASKS, make_task
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.model_text import check_tokenizer, reader_for, tokenizer_sha256

logger = logging.getLogger(__name__)

# Settings that --model-overrides of published commands hold, and that mean nothing to the model any more.
_KNOWN_OVERRIDES = ("knn_keytype",)


@dataclass(frozen=True)
class OpenedModels:
    """Models and what belongs to them.

    Attributes:
        task: the task, with its dictionary.
        task_config: its settings in force.
        checkpoints: as loaded, one per model.
        models: in evaluation mode, on the device.
    """

    task: Any
    task_config: Any
    checkpoints: Sequence[Checkpoint | ModelDirectory]
    models: Sequence[Any]

    @property
    def max_positions(self) -> int:
        """Most tokens that every model sees at once."""
        return min(int(model.max_positions) for model in self.models)

    @property
    def identities(self) -> list[ModelIdentity]:
        """What tells each model from another."""
        pairs = zip(self.models, self.checkpoints, strict=True)
        return [identity_of(model, self.task.dictionary, checkpoint) for model, checkpoint in pairs]

    @property
    def identity(self) -> ModelIdentity:
        """What tells the first model from another."""
        return self.identities[0]


def open_models(
    path: str,
    task_name: str,
    model_overrides: str,
    task_fields: Mapping[str, Any],
    precision: Precision,
    *,
    context_window: int = 0,
    also_from_checkpoint: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> OpenedModels:
    """Returns the models that ``--path`` names, for rows of a block and its context window.

    Args:
        path: checkpoints, joined by colons.
        task_name: of the task.
        model_overrides: a Python literal dict.
        task_fields: settings of the task. The checkpoint's tokens_per_sample and add_bos_token win over them.
        precision: device and number format.
        context_window: earlier tokens that each block sees.
        also_from_checkpoint: settings of the task that are the checkpoint's where ``task_fields`` has none.
        trust_remote_code: code in a model's directory is run, where its family is not one of transformers'.

    Raises:
        ConfigError: settings, overrides or lengths that do not go together.
        CheckpointError: a checkpoint that cannot be read, or does not fit.
        DataError: there is no dictionary.
        MismatchError: the checkpoint was trained with another dictionary.
    """
    overrides = parse_literal_dict(model_overrides, "--model-overrides")
    checkpoints = [open_checkpoint(part) for part in split_paths(path) if part]
    if not checkpoints:
        raise ConfigError("--path is required: the file of a checkpoint")
    _check_overrides(overrides, checkpoints)
    task_class = TASKS.config(task_name)
    assert task_class is not None
    fields = {**checkpoints[0].fields, **overrides}
    inherited = {name: fields[name] for name in also_from_checkpoint if fields.get(name) is not None}
    default = _default_block(task_class, checkpoints[0], {**inherited, **task_fields})
    task_config = _task_config(task_class, {**inherited, **task_fields}, fields, context_window, default)
    bos_in_front = isinstance(checkpoints[0], ModelDirectory) and bool(getattr(task_config, "add_bos_token", False))
    if bos_in_front:  # such a model puts it there itself, before the context window as well
        if other := next((part.path for part in checkpoints if not isinstance(part, ModelDirectory)), None):
            raise ConfigError(
                f"--add-bos-token with --path {checkpoints[0].path} and {other}: a Hugging Face model puts its own BOS"
                " in front of each row, and a checkpoint of words has none; leave the flag out, or give one of them"
            )
        task_config = dataclasses.replace(task_config, add_bos_token=False)
    task = make_task(task_name, task_config)
    models = [_load_model(task, checkpoint, overrides, precision, trust_remote_code) for checkpoint in checkpoints]
    for model in models if bos_in_front else ():
        model.put_bos_in_front()
    has_bos = bool(getattr(task_config, "add_bos_token", False))
    _check_rows(models, task_config.tokens_per_sample + context_window + has_bos)
    return OpenedModels(task, task_config, checkpoints, models)


def open_checkpoint(path: str) -> Checkpoint | ModelDirectory:
    """Returns what a part of ``--path`` names: a checkpoint, or the directory of a Hugging Face model.

    Raises:
        CheckpointError: it cannot be read, or is a name on the Hugging Face hub that cannot be brought.
    """
    if is_hub_name(path):
        path = local_directory(path)
    return read_model_directory(path) if is_model_directory(path) else load_checkpoint(path)


def _load_model(
    task: Any,
    checkpoint: Checkpoint | ModelDirectory,
    overrides: Mapping[str, Any],
    precision: Precision,
    trust_remote_code: bool,
) -> Any:
    """Returns the model of a checkpoint, on the device."""
    if isinstance(checkpoint, ModelDirectory):
        from fairseq.models.huggingface.loading import load_model

        model = load_model(checkpoint.path, dtype=precision.dtype, trust_remote_code=trust_remote_code)
        check_tokenizer(task, checkpoint.path, model.vocabulary_size)
        if isinstance(task, LanguageModelingTask):
            task.num_scored[checkpoint.path] = model.vocabulary_size
        model.num_named = len(task.dictionary)
        model.reader = reader_for(task, checkpoint.path, model.reader)
        return model.to(precision.device)
    return task.load_model(checkpoint, overrides).to(precision.device).eval()


def identity_of(model: Any, dictionary: Dictionary, checkpoint: Checkpoint | ModelDirectory) -> ModelIdentity:
    """Returns what tells a model from another: hashes of its dictionary and weights, width and kind of its vectors."""
    is_directory = isinstance(checkpoint, ModelDirectory)
    return ModelIdentity(
        dictionary.sha256(),
        checkpoint.weights_sha256,
        len(dictionary),
        int(model.key_dimension),
        getattr(model, "key_type", "last_ffn_input"),
        *((tokenizer_sha256(checkpoint.path), bool(model.reader.adds_bos)) if is_directory else ()),
    )


def _task_config(
    task_class: type, given: Mapping[str, Any], checkpoint: Mapping[str, Any], context_window: int, default: int
) -> Any:
    """Returns the task's settings, block size in force included; ``default`` is that of nobody who says one."""
    own = {name: checkpoint[name] for name in OWNED_BY_CHECKPOINT if checkpoint.get(name) is not None}
    for name, value in own.items():
        if name in given and str(given[name]) != str(value):
            logger.warning(
                "--%s %s has no effect: the checkpoint's %s is in force (or: --model-overrides \"{'%s': %s}\")",
                name.replace("_", "-"),
                given[name],
                value,
                name,
                given[name],
            )
    stated = {"tokens_per_sample": default, **given, **own}
    full = coerce(stated["tokens_per_sample"], int, "--tokens-per-sample")
    check_window(stated.get("sample_break_mode"), context_window)
    if context_window >= full:
        whose = "the checkpoint's tokens_per_sample" if "tokens_per_sample" in own else "--tokens-per-sample"
        raise ConfigError(f"--context-window {context_window} must be smaller than {whose}, {full}")
    return resolve(task_class, {**stated, "tokens_per_sample": full - context_window})


def _default_block(task_class: type, checkpoint: Checkpoint | ModelDirectory, given: Mapping[str, Any]) -> int:
    """Returns the tokens in a row where nobody says how many; BOS takes a position of a model's that puts it there."""
    if not isinstance(checkpoint, ModelDirectory):
        return DEFAULT_BLOCK
    adds_bos: bool | None = None
    if coerce(given.get("add_bos_token", False), bool, "--add-bos-token"):
        adds_bos = True
    elif tokenizer_sha256(checkpoint.path) is None:
        data = Path(split_paths(str(given.get("data") or getattr(task_class, "data", "")))[0])
        record = tokenizer_record(data.parent if data.is_file() else data)
        adds_bos = record is not None and record.add_bos
    return checkpoint.default_block(adds_bos=adds_bos)


def _check_rows(models: Sequence[Any], length: int) -> None:
    for model in models:
        if model.longest_row is not None and length > model.longest_row:
            raise ConfigError(
                f"rows of {length} tokens (block and context window) are longer than the {model.longest_row} positions"
                " of the model; lower --context-window or tokens_per_sample"
            )


def _check_overrides(overrides: Mapping[str, Any], checkpoints: Sequence[Checkpoint | ModelDirectory]) -> None:
    models = {name for model_config in MODELS.configs() for name in flag_fields(model_config)}
    used = {*_KNOWN_OVERRIDES, *OWNED_BY_CHECKPOINT}
    known = {*used, *models, *checkpoints[0].fields}
    if not all(isinstance(checkpoint, ModelDirectory) for checkpoint in checkpoints):  # config.json has all of theirs
        used |= models
    refuse_unknown(overrides, known, f"{checkpoints[0].path} (--model-overrides)")
    for name in overrides:
        if name not in used:
            logger.warning("--model-overrides: %r has no effect: it is no setting of the model", name)
