"""From ``--model_args`` to a model, its texts and its neighbours: a Hugging Face model's directory, or a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fairseq.checkpoints.hub_names import local_directory
from fairseq.checkpoints.huggingface import is_model_directory, read_model_directory
from fairseq.data.dictionary import BOS, EOS
from fairseq.errors import ConfigError
from fairseq.harness.model_args import HarnessConfig
from fairseq.harness.texts import DictionaryTexts, Texts, TokenizerTexts
from fairseq.hub import LanguageModelHub
from fairseq.hub.module import checked_device, checked_dtype, precision_of
from fairseq.hub.pretrained import from_pretrained
from fairseq.knn.neighbours.opening import KNN
from fairseq.runtime.precision import Precision
from fairseq.storage.file_kinds import is_hub_name

DEFAULT_LENGTH = 2048  # of a model that says nothing, nor its tokenizer


@dataclass(frozen=True)
class OpenedModel:
    """A model and what belongs to it.

    Attributes:
        config: what was asked for.
        model: in evaluation mode, on the device of ``precision``.
        precision: device and number format.
        texts: makes ids of texts.
        longest_row: most tokens that the model reads at once.
        end_ids: ids of the model's that end a text.
        opening: ids of the model's that stand before each row.
        memory: the neighbours; None without any.
        lmbda: their weight.
        weights_sha256: of the weights.
    """

    config: HarnessConfig
    model: Any
    precision: Precision
    texts: Texts
    longest_row: int
    end_ids: frozenset[int]
    opening: tuple[int, ...] = ()
    memory: Any = None
    lmbda: float = 0.0
    weights_sha256: str | None = None

    def info(self) -> dict[str, Any]:
        """Returns what results say of the model: its weights, its neighbours, and their settings."""
        found: dict[str, Any] = {
            "model_num_parameters": sum(weight.numel() for weight in self.model.parameters()),
            "model_dtype": self.precision.name,
            "model_sha256": self.weights_sha256,
            "max_length": self.longest_row,
        }
        if self.memory is not None:
            knn = {"k": self.memory.config.k, "lmbda": self.lmbda, "probe": self.memory.config.probe}
            found["neighbours"] = {**self.memory.identity(), **knn, **self.memory.temperature_record()}
        return found


def open_model(config: HarnessConfig) -> OpenedModel:
    """Returns the model that a config names; files are checked before any text is read.

    Raises:
        ConfigError: settings that do not go together, or a package that is not installed.
        CheckpointError: the model cannot be read.
        DataError: there is no tokenizer, or no dictionary.
        MismatchError: the neighbours are another model's.
    """
    if is_hub_name(config.path):
        config = replace(config, path=local_directory(config.path))
    device, dtype = _device(config.device), checked_dtype(config.dtype)
    knn = _knn(config) if config.has_neighbours else None
    lm = from_pretrained(
        config.path,
        data_name_or_path=config.data,
        knn=knn,
        device=device,
        dtype=dtype,
        trust_remote_code=config.trust_remote_code,
        **config.text,
    )
    if len(lm.models) > 1:
        raise ConfigError("path names several checkpoints, but one is scored; give one")
    opened_as = _of_hugging_face if is_model_directory(config.path) else _of_checkpoint
    return opened_as(config, lm, precision_of(lm.dtype, device))


def _of_hugging_face(config: HarnessConfig, lm: LanguageModelHub, precision: Precision) -> OpenedModel:
    directory, model = read_model_directory(config.path), lm.models[0]
    texts = TokenizerTexts(
        config.path, config.add_bos_token, config.prefix_token_id, trust_remote_code=config.trust_remote_code
    )
    model.reader = replace(model.reader, adds_bos=False)  # the harness's rows begin as they are to begin
    known = int(model.model.get_input_embeddings().num_embeddings)
    if config.prefix_token_id is not None and config.prefix_token_id >= known:
        raise ConfigError(
            f"prefix_token_id must be below {known}, the number of the model's tokens, but is {config.prefix_token_id}"
        )
    if model.longest_row is not None:
        _require_room(config, model.longest_row)
    return OpenedModel(
        config,
        model,
        precision,
        texts,
        longest_row=_longest(config, directory.config, texts.longest),
        end_ids=_end_ids(model.model, texts),
        memory=lm.knn,
        lmbda=lm.lmbda,
        weights_sha256=directory.weights_sha256,
    )


def _of_checkpoint(config: HarnessConfig, lm: LanguageModelHub, precision: Precision) -> OpenedModel:
    if config.add_bos_token is not None or config.prefix_token_id is not None:
        raise ConfigError(
            f"add_bos_token and prefix_token_id are of a Hugging Face model, but {config.path} is none; leave them out"
        )
    _require_room(config, lm.longest_row)
    return OpenedModel(
        config,
        lm.models[0],
        precision,
        DictionaryTexts(lm),
        longest_row=config.max_length or lm.longest_row,
        end_ids=frozenset([EOS]),
        opening=(BOS,) if lm.task.config.add_bos_token else (),
        memory=lm.knn,
        lmbda=lm.lmbda,
    )


def _require_room(config: HarnessConfig, longest: int) -> None:
    if config.max_length is not None and config.max_length > longest:
        raise ConfigError(
            f"max_length must be at most {longest}, which is what the model sees at once, but is {config.max_length}"
        )


def _knn(config: HarnessConfig) -> KNN:
    settings: Any = dict(config.neighbours)
    return KNN(config.dstore_filename or "", config.indexfile or "", **settings)


def _device(named: str | None) -> torch.device:
    if named is None:
        named = "cuda" if torch.cuda.is_available() else "cpu"
    return checked_device(f"cuda:{named}" if named.isdecimal() else named)


def _longest(config: HarnessConfig, settings: Mapping[str, Any], of_tokenizer: int) -> int:
    """Returns the most tokens that a Hugging Face model reads at once."""
    nested = settings.get("text_config")
    own = nested if isinstance(nested, dict) else settings
    stated = [own.get(name) for name in ("n_positions", "max_position_embeddings", "n_ctx")]
    known = [int(value) for value in stated if isinstance(value, int) and value > 0]
    if config.max_length is not None:
        return config.max_length
    if known:
        return known[0]
    return of_tokenizer if of_tokenizer < 1 << 30 else DEFAULT_LENGTH


def _end_ids(model: Any, texts: TokenizerTexts) -> frozenset[int]:
    """Returns what ends a text: the tokenizer's end, and what the model's generation settings name."""
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = stated if isinstance(stated, (list, tuple)) else [stated]
    return frozenset(int(idx) + texts.shift for idx in (texts.eot_id, *named) if idx is not None)
