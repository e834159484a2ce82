"""``from_pretrained``: the files of a model become the object that scores with it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fairseq.checkpoints.format import load_checkpoint
from fairseq.checkpoints.hub_names import local_directory
from fairseq.checkpoints.huggingface import is_model_directory
from fairseq.config.flags import Namespace, as_dict, flag_fields, resolve
from fairseq.config.keywords import in_keywords
from fairseq.config.path_lists import join_paths
from fairseq.data.config import LanguageModelingConfig
from fairseq.errors import ConfigError, refuse_unknown
from fairseq.generate.config import GenerationConfig
from fairseq.hub.files import find_checkpoints, find_data, published_text
from fairseq.hub.huggingface.opening import open_directory
from fairseq.hub.model import LanguageModelHub
from fairseq.hub.module import checked_device, checked_dtype
from fairseq.hub.protocol import MemoryConfig
from fairseq.hub.text_settings import pipeline_of, text_settings
from fairseq.models import MODELS
from fairseq.storage.file_kinds import is_hub_name
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.opening import identity_of
from fairseq.text.pipeline import TextConfig, text_configs

# Settings of the task that belong to the model.
_OF_THE_TASK = ("tokens_per_sample", "add_bos_token")
# Flags of commands that are arguments here.
_RENAMED = {"path": "checkpoint_file", "restore_file": "name_or_path"}


def from_pretrained(
    name_or_path: str | Path,
    checkpoint_file: str | None = None,
    data_name_or_path: str | Path | None = None,
    *,
    knn: MemoryConfig | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    **overrides: Any,
) -> LanguageModelHub:
    """Returns a trained model, ready to score and to generate.

        lm = from_pretrained("checkpoints")  # its checkpoint_best.pt, and the data directory that it was trained with
        lm = from_pretrained("checkpoints/checkpoint_last.pt", data_name_or_path="data-bin", device="cuda")
        lm = from_pretrained("SmolLM2-135M", device="cuda", dtype="bfloat16")  # directory of a Hugging Face model
        lm = from_pretrained("checkpoints", knn=KNN("checkpoints/dstore", "checkpoints/knn.index", k=64, lmbda=0.25))

    Args:
        name_or_path: a directory, a Hugging Face model's too or its name on the hub, a checkpoint, an archive
            (``.tar.gz``, ``.tar.bz2``), or a name of fairseq's.
        checkpoint_file: file in there; ``a.pt:b.pt`` averages the probabilities of several. If left out
            ``model.pt``, else ``checkpoint_best.pt``, ``checkpoint_last.pt`` or the only ``.pt``.
        data_name_or_path: directory with ``dict.txt``; one that begins with ``.`` is relative to the model's directory.
            If left out, that one, or the data directory that the checkpoint was trained with.
        knn: neighbours to mix in, a ``knnlm.KNN`` or an open ``KNN_Dstore``.
        device: the CPU if left out.
        dtype: format to compute in, such as ``"bfloat16"``; float32 if left out.
        trust_remote_code: run the code that lies with a Hugging Face model.
        overrides: how raw text is read: ``tokenizer``, ``bpe``, and their settings, as in ``fairseq-interactive``
            (without them, texts are words between white space); settings of ``generate``, such as ``max_len_b``; and
            of the model in place of the checkpoint's, such as ``max_target_positions``.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that does not fit its settings.
        ConfigError: an argument that means nothing.
        DataError: no dictionary.
        MismatchError: the dictionary or the neighbours are another model's.
    """
    text, generation = _checked_overrides(overrides)
    _check_knn(knn)
    checked_device(device)
    number_format = checked_dtype(dtype)
    if is_hub_name(str(name_or_path)):
        name_or_path = local_directory(str(name_or_path))
    if is_model_directory(name_or_path):
        if checkpoint_file is not None or text:
            extra = "checkpoint_file" if checkpoint_file is not None else next(iter(text))
            raise ConfigError(f"{name_or_path} is a Hugging Face model, which has no use for {extra}; leave it out")
        lm = open_directory(
            name_or_path, data_name_or_path, knn, device, number_format, overrides, trust_remote_code=trust_remote_code
        )
    else:
        root, paths = find_checkpoints(name_or_path, checkpoint_file)
        published = published_text(name_or_path)
        lm = _open_checkpoints(root, paths, data_name_or_path, knn, device, {**overrides}, (published, text))
        lm.to(number_format or torch.float32)
    lm.generation_settings = generation
    return lm


def _open_checkpoints(
    root: Path,
    paths: list[Path],
    data: str | Path | None,
    knn: MemoryConfig | None,
    device: str | torch.device | None,
    overrides: dict[str, Any],
    texts: tuple[Mapping[str, str], Mapping[str, Any]],
) -> LanguageModelHub:
    """Returns the model of some checkpoints; ``texts`` are settings of raw text, of the model's name and as given."""
    if knn is not None and len(paths) > 1:
        raise ConfigError("checkpoint_file names several checkpoints, but a datastore belongs to one; give one")
    with in_keywords(LanguageModelingConfig, TextConfig, *text_configs(), *MODELS.configs(), **_RENAMED):
        checkpoints = [load_checkpoint(path) for path in paths]
        first = checkpoints[0]
        pipeline = pipeline_of(root, texts[0], first.fields, texts[1])
        task = _task(find_data(root, data, first), {**first.fields, **overrides})
        models: list[Any] = [task.load_model(checkpoint, overrides) for checkpoint in checkpoints]
        memory, lmbda = (None, 0.0) if knn is None else knn.open_for(identity_of(models[0], task.dictionary, first))
    positions = min(model.max_positions for model in models) - task.config.add_bos_token  # <s> takes one of them
    lm = LanguageModelHub(
        models,
        task.dictionary,
        min(task.config.tokens_per_sample, positions),
        device=device,
        name=", ".join(map(str, paths)),
        add_bos=task.config.add_bos_token,
        memory=memory,
        lmbda=lmbda,
        pipeline=pipeline,
    )
    lm.task, lm.args = task, _settings(first.fields, models[0], overrides)
    return lm


def _settings(fields: Mapping[str, Any], model: Any, overrides: Mapping[str, Any]) -> Namespace:
    """Returns the settings of a checkpoint, those that it does not hold as its model has them."""
    own = as_dict(model.config) if dataclasses.is_dataclass(getattr(model, "config", None)) else {}
    return Namespace(**{**fields, **own, **overrides})


def _task(data_dir: Path, fields: Mapping[str, Any]) -> LanguageModelingTask:
    own = {name: fields[name] for name in _OF_THE_TASK if fields.get(name) is not None}
    return LanguageModelingTask(resolve(LanguageModelingConfig, {"data": join_paths([data_dir]), **own}))


def _checked_overrides(overrides: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Takes the settings of raw text and of generating out of ``overrides``, and returns them.

    Raises:
        ConfigError: what is no setting, or a setting of generating that is out of range.
    """
    arguments = ("knn", "device", "dtype", "trust_remote_code", "checkpoint_file", "data_name_or_path")
    settings = [name for config in MODELS.configs() for name in flag_fields(config)]
    generating = flag_fields(GenerationConfig)
    owner = "from_pretrained, which takes knn, device, tokenizer, bpe and settings of generating and of the model"
    refuse_unknown(overrides, [*_OF_THE_TASK, *arguments, *text_settings(), *generating, *settings], owner)
    generation = {name: overrides.pop(name) for name in generating if name in overrides}
    with in_keywords(GenerationConfig):
        resolve(GenerationConfig, {"beam": generation.get("nbest", 1)}, generation)
    return {name: overrides.pop(name) for name in text_settings() if name in overrides}, generation


def _check_knn(knn: object) -> None:
    if knn is not None and not hasattr(knn, "open_for"):
        raise ConfigError(
            "from_pretrained: knn must be knnlm.KNN(datastore, index) or an open KNN_Dstore, but is"
            f" {type(knn).__name__}"
        )
