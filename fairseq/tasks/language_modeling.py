"""Language modelling: predict each token of a stream from the ones before it."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fairseq.checkpoints.format import Checkpoint
from fairseq.config.flags import Namespace, as_dict, flag_fields, resolve
from fairseq.config.path_lists import split_paths
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.config import LanguageModelingConfig as Settings
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.source_text import SourceText
from fairseq.errors import CheckpointError, ConfigError, DataError, MismatchError, shown
from fairseq.models import MODELS, architecture_names, model_of
from fairseq.models.foreign_settings import refuse_other_computations, warn_of_unknown
from fairseq.models.upgrade import load_state, misfits
from fairseq.plugins.classes import asked_of_ours, called_on_class
from fairseq.plugins.thawed import thawed
from fairseq.storage.file_kinds import is_model_directory
from fairseq.storage.inputs import data_directories, require_split
from fairseq.tasks.model_text import TOKENIZER_FILE, dictionary_of

logger = logging.getLogger(__name__)

# fairseq's name for the settings, which a plugin's own may extend.
LanguageModelingConfig = thawed(Settings, "LanguageModelingConfig")


class _Unfilled(TorchFunctionMode):
    """Mode in which new weights are not filled.

    They have no memory to be filled; torch would do it in Python, for which it imports its compiler: half of the time
    that a command needs to start.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "zero_", "fill_", "constant_", "zeros_", "ones_"):
            return args[0] if args else given["tensor"]
        return func(*args, **given)


class LanguageModelingTask:
    """A dictionary, splits cut into blocks, and the model over them.

    A dictionary's file may stand for the directory, where a text that has no split is to be read, and so may a
    Hugging Face model's directory, whose tokenizer has the words.

    Args:
        config: where the data is and how it is cut.
    """

    config_class = Settings

    def __init__(self, config: Settings) -> None:
        self.config = self.args = self.cfg = config  # the last two are fairseq's names
        self.num_scored: dict[str, int] = {}  # ids that a Hugging Face model has, by its directory
        self.data_dirs = data_directories(config.data)
        first = Path(next(filter(None, split_paths(config.data))))
        self.dictionary_path = first if first.is_file() else self.data_dirs[0] / "dict.txt"
        self.dictionary = self._dictionary()
        for other in self.data_dirs[1:]:
            if not other.is_dir():
                raise DataError(f"data directory {other} of {config.data} does not exist")
            own = other / "dict.txt"
            if own.is_file() and Dictionary.load(own).sha256() != self.dictionary.sha256():
                raise MismatchError(
                    f"{other / 'dict.txt'} differs from {self.dictionary_path}; binarise both texts with one"
                    " dictionary (fairseq-preprocess --srcdict)"
                )

    def _dictionary(self) -> Dictionary:
        """Returns the dictionary of the data, or that of a model's tokenizer."""
        directory = self.dictionary_path.parent
        if not self.dictionary_path.is_file() and (
            (directory / TOKENIZER_FILE).is_file() or is_model_directory(directory)
        ):
            return dictionary_of(directory)
        return Dictionary.load(self.dictionary_path)

    @classmethod
    def setup_task(cls, config: Settings, **_: Any) -> "LanguageModelingTask":
        """Returns the task; what a plugin overrides to change it."""
        return cls(config)

    @staticmethod
    def add_args(parser: Any) -> None:
        """Adds nothing: flags of a plugin's class stand behind those of ``config_class``."""

    @property
    def source_dictionary(self) -> Dictionary:
        """The dictionary, as criterions written for fairseq name it."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The dictionary, likewise."""
        return self.dictionary

    def split_prefix(self, split: str, epoch: int = 1) -> Path:
        """Returns the path of a split's files without their suffix; several directories take turns by epoch."""
        return self.data_dirs[(epoch - 1) % len(self.data_dirs)] / split

    def load_split(
        self, split: str, *, epoch: int = 1, context_window: int = 0, combined: bool = False
    ) -> BlockDataset:
        """Returns the blocks of ``train``, ``valid``, ``test``, …; every id is checked against the dictionary.

        ``combined`` puts the texts of ``valid1``, ``valid2``, … behind that of ``valid``, as many as are there.

        Raises:
            DataError: the split cannot be read, or has no tokens.
            MismatchError: an id is beyond the dictionary.
        """
        texts = [self._text(self.split_prefix(split, epoch))]
        while combined and (more := self.split_prefix(f"{split}{len(texts)}", epoch)).with_suffix(".idx").is_file():
            texts.append(self._text(more))
        if combined:
            logger.info("'%s' is %d texts of %s together", split, len(texts), self.split_prefix(split, epoch).parent)
        tokens, sizes = texts[0].tokens, texts[0].sizes
        if len(texts) > 1:
            tokens, sizes = (np.concatenate([getattr(t, name) for t in texts]) for name in ("tokens", "sizes"))
        return BlockDataset(
            tokens,
            sizes,
            self.config.sample_break_mode,
            self.config.tokens_per_sample,
            context_window,
            self.config.add_bos_token,
            whole_documents=SourceText.is_beside(self.split_prefix(split, epoch)),
        )

    def _text(self, prefix: Path) -> MMapIndexedDataset:
        """Returns a split's file, opened and checked."""
        require_split(self.config.data, prefix)
        data = MMapIndexedDataset(prefix)
        if not len(data.tokens):
            raise DataError(
                f"{data.index_path} must have tokens, but has none in its {len(data)} sentences; binarise a text that"
                " is not empty"
            )
        data.check_ids(len(self.dictionary), str(self.dictionary_path))
        for path, num_scored in self.num_scored.items():
            if num_scored < len(self.dictionary):  # the tokenizer may have more tokens than the model
                data.check_ids(num_scored, f"the model of --path {path}")
        return data

    def build_model(self, name: str, config: Any, tokens_per_sample: int | None = None) -> nn.Module:
        """Returns a new model; its longest row, if not given, is the block size that it is trained with.

        From now on the dictionary stays as it is.
        """
        self.dictionary.freeze()
        if getattr(config, "max_target_positions", ...) is None:
            length = (tokens_per_sample or self.config.tokens_per_sample) + self.config.add_bos_token
            config = dataclasses.replace(config, max_target_positions=length)
        try:
            factory = MODELS.get(name)
            with asked_of_ours(factory, "model"):
                if build := called_on_class(factory, "build_model"):  # of a class over ours
                    settings = Namespace(**as_dict(self.config, *([] if config is None else [config])))
                    model: nn.Module = build(settings, self)
                else:
                    model = factory(config, len(self.dictionary))
        except (RuntimeError, MemoryError) as err:
            if not isinstance(err, MemoryError) and not re.search("allocate|overflow", str(err)):
                raise
            raise ConfigError(
                "the model is too large for this machine's memory; give fewer layers, or smaller --decoder-…-dim"
            ) from err
        return model

    def check_dictionary(self, checkpoint: Checkpoint) -> None:
        """Raises MismatchError if a checkpoint names another dictionary; those of other programs name none."""
        trained_with = checkpoint.extra_state.get("dictionary_sha256")
        if trained_with is not None and trained_with != self.dictionary.sha256():
            raise MismatchError(
                f"{checkpoint.path} was trained with another dictionary than {self.dictionary_path}: ids mean"
                " other words there; give the data that was binarised with the model's dict.txt (--srcdict)"
            )

    def load_model(self, checkpoint: Checkpoint, overrides: Mapping[str, Any]) -> nn.Module:
        """Returns the model of a checkpoint, built from its fields (``arch`` may lie), with its weights.

        Raises:
            CheckpointError: the weights do not fit the fields or the dictionary.
            MismatchError: the checkpoint was trained with another dictionary.
        """
        self.check_dictionary(checkpoint)
        self.dictionary.freeze()  # a plugin's build_model need not
        name = _model_name(checkpoint)
        config_class = MODELS.config(name)
        self._check_settings({**checkpoint.fields, **overrides}, config_class, checkpoint)
        try:
            config: Any = config_class and resolve(config_class, checkpoint.fields, overrides)
            length = self._block_size(checkpoint.fields)
            problems = self._misfits(name, config, length, checkpoint)
            if not problems:
                model = self.build_model(name, config, length)
                problems = load_state(model, checkpoint.state)
        except ConfigError as err:
            raise CheckpointError(f"the settings in {checkpoint.path} do not make a model: {err}") from err
        if problems:
            more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
            raise CheckpointError(
                f"the weights of {checkpoint.path} do not fit its settings and the {len(self.dictionary)} ids of"
                f" {self.dictionary_path}: {'; '.join(problems[:3])}{more}"
            )
        return model

    def _check_settings(self, settings: Mapping[str, Any], config_class: type | None, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError if a setting that the model does not have changes what its weights mean."""
        of_model = flag_fields(config_class) if config_class is not None else {}
        own = {*of_model, *flag_fields(Settings)}
        refuse_other_computations(settings, of_model, len(self.dictionary), checkpoint.path)
        if "dictionary_sha256" not in checkpoint.extra_state:  # another program's
            warn_of_unknown(settings, own, checkpoint.path)

    def _block_size(self, fields: Mapping[str, Any]) -> int | None:
        """Returns the block size that a checkpoint records, if it does."""
        length = fields.get("tokens_per_sample")
        return resolve(Settings, {"tokens_per_sample": length}).tokens_per_sample if length else None

    def _misfits(self, name: str, config: Any, length: int | None, checkpoint: Checkpoint) -> list[str]:
        """Returns how the weights differ from the model that the settings describe, which takes no memory here.

        A plugin's model is only made in earnest: its factory need not work on a device without memory.
        """
        if name != "transformer_lm":
            return []
        if config.decoder_layers > len(checkpoint.state):  # even without memory, each layer takes time to make
            return [f"decoder_layers is {config.decoder_layers}, but there are {len(checkpoint.state)} tensors"]
        with torch.device("meta"), _Unfilled():
            return misfits(self.build_model(name, config, length), checkpoint.state)


def _model_name(checkpoint: Checkpoint) -> str:
    """Returns the name of a checkpoint's model, by its architecture; that of another program may be unknown."""
    arch = str(checkpoint.fields.get("arch", "transformer_lm"))
    if arch in architecture_names():
        return model_of(arch)
    if "dictionary_sha256" in checkpoint.extra_state:  # ours: it names a plugin's architecture if the model is one
        logger.warning(
            "%s was trained with --arch %s, which is not known here, and is read as transformer_lm; if a plugin made"
            " the model, give its --user-dir",
            checkpoint.path,
            shown(arch),
        )
    return "transformer_lm"
