"""The directory of a Hugging Face model becomes the object that scores and generates with it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fairseq.checkpoints.huggingface import DEFAULT_BLOCK, read_model_directory
from fairseq.config.flags import Namespace, resolve
from fairseq.config.path_lists import join_paths
from fairseq.data.config import LanguageModelingConfig
from fairseq.errors import refuse_unknown
from fairseq.hub.huggingface.texts import TokenizerTexts
from fairseq.hub.model import LanguageModelHub
from fairseq.hub.module import checked_device, precision_of
from fairseq.hub.protocol import MemoryConfig
from fairseq.models.key_types import LAST_FFN_INPUT
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.model_text import ModelText, check_tokenizer
from fairseq.tasks.opening import identity_of

_SETTINGS = ("tokens_per_sample",)


def open_directory(
    directory: str | Path,
    data: str | Path | None = None,
    knn: MemoryConfig | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    trust_remote_code: bool = False,
) -> LanguageModelHub:
    """Returns the model of a directory.

    Args:
        directory: with ``config.json``, weights and ``tokenizer.json``.
        data: directory that ``fairseq-preprocess --tokenizer`` wrote; none is needed.
        knn: neighbours to mix in; context vectors are those of the datastore's keys, with BOS where it stood there.
        device: the CPU if left out.
        dtype: that weights are loaded in; float32 if left out.
        overrides: ``tokens_per_sample``, the longest row.
        trust_remote_code: code that lies with the model is run.

    Raises:
        CheckpointError: the directory cannot be read.
        ConfigError: an argument that means nothing, or a package that is not installed.
        DataError: there is no tokenizer.
        MismatchError: the neighbours are another model's, or the data has another tokenizer's tokens.
    """
    from fairseq.models.huggingface.loading import load_model

    settings = dict(overrides or {})
    refuse_unknown(settings, _SETTINGS, "from_pretrained of a Hugging Face model")
    checkpoint = read_model_directory(directory)
    precision = precision_of(dtype if dtype is not None else torch.float32, checked_device(device))
    given = {"data": join_paths([data or directory]), "tokens_per_sample": DEFAULT_BLOCK, **settings}
    task = LanguageModelingTask(resolve(LanguageModelingConfig, given))
    text = ModelText.open(directory, task.dictionary)
    model: Any = load_model(directory, dtype=precision.dtype, trust_remote_code=trust_remote_code)
    if data is not None:
        check_tokenizer(task, str(directory), model.vocabulary_size)
    model.num_named = len(task.dictionary)
    memory, lmbda = None, 0.0
    if knn is not None:
        _match_queries(model, knn)
        memory, lmbda = knn.open_for(identity_of(model, task.dictionary, checkpoint))
    lm = LanguageModelHub(
        [model],
        task.dictionary,
        min(task.config.tokens_per_sample, model.max_positions),
        device=device,
        dtype=precision.dtype,
        name=str(directory),
        memory=memory,
        lmbda=lmbda,
        texts=TokenizerTexts(replace(text, num_scored=model.vocabulary_size)),
    )
    lm.is_loaded_in_format = True
    lm.task, lm.args = task, Namespace(**{**checkpoint.fields, **settings})
    return lm


def _match_queries(model: Any, knn: MemoryConfig) -> None:
    """Makes a model's context vectors those of a datastore's keys."""
    model.use_keys(getattr(knn, "key_type", None) or LAST_FFN_INPUT)
    if getattr(knn, "bos_in_front", False) and not model.reader.adds_bos:
        model.put_bos_in_front()
