"""The transformer language model of Baevski and Auli (2019): adaptive input, layers, adaptive softmax.

    ids ─ embed · √C ─ + positions ─ dropout ─ layer × L ─ [LayerNorm] ─ features ─ output layer ─ log p(target)

B batch, T time, S scored time (the last S of T columns), C width, N scored tokens.
"""

import dataclasses
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq.config.flags import resolve
from fairseq.config.registry import load
from fairseq.errors import ConfigError
from fairseq.models.decoder import Decoder
from fairseq.models.preset_functions import PresetFunction, preset_function
from fairseq.models.protocol import DecoderOutput, FairseqCalls
from fairseq.models.transformer_config import TransformerConfig
from fairseq.modules.adaptive_softmax import log_sum_and_entropy, row_slices
from fairseq.modules.embedding import PADDING_IDX
from fairseq.modules.kv_cache import KeyValueCache
from fairseq.modules.positions import LearnedPositions
from fairseq.plugins.thawed import thawed

# fairseq's names: the settings, which a plugin's own may extend, and the longest row where nothing says how long it is.
TransformerLanguageModelConfig = thawed(TransformerConfig, "TransformerLanguageModelConfig")
DEFAULT_MAX_TARGET_POSITIONS = 1024


class TransformerLanguageModel(FairseqCalls, nn.Module):
    """The model as tasks, criterions and scorers know it; all weights lie under ``decoder.``.

    Any model can stand in its place that has ``forward(source_BT, first)`` → ``DecoderOutput``,
    ``target_log_prob(features_NC, target_N)``, ``max_positions``, ``longest_row``, ``key_dimension`` and
    ``has_adaptive_softmax``; for a weight λ of each token's own, ``certainty(features_NC)`` as well; for generating,
    ``log_prob(features_NC)``, and to be quick at it ``new_cache`` and ``extend``.
    """

    config_class = TransformerConfig

    def __init__(self, config: TransformerConfig, vocabulary_size: int) -> None:
        super().__init__()
        require_bands(config, vocabulary_size)
        self.config = config
        self.decoder = Decoder(config, vocabulary_size)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> Any:
        """Returns a model for a task's dictionary; what a plugin overrides to change it.

        Args:
            args: an object with the settings as attributes, of the task as well.
            task: with its ``dictionary``.
        """
        return cls(resolve(cls.config_class, vars(args)), len(task.dictionary))

    @staticmethod
    def add_args(parser: Any) -> None:
        """Adds nothing: flags of a plugin's class stand behind those of ``config_class``."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        checkpoint_file: str | None = None,
        data_name_or_path: str | Path | None = None,
        **more: Any,
    ) -> Any:
        """Returns a trained model with its dictionary: see ``fairseq.hub.from_pretrained``.

            lm = TransformerLanguageModel.from_pretrained("checkpoints")
            lm.score("a text").perplexity

        The hub is above this module, which therefore loads it by name.
        """
        return load("fairseq.hub:from_pretrained")(name_or_path, checkpoint_file, data_name_or_path, **more)

    @property
    def max_positions(self) -> int:
        """Longest row in tokens."""
        return self.decoder.num_positions

    @property
    def longest_row(self) -> int | None:
        """Longest row that can be computed, in tokens; None for sinusoidal positions, which have no end."""
        return self.max_positions if isinstance(self.decoder.embed_positions, LearnedPositions) else None

    @property
    def key_dimension(self) -> int:
        """Width of the feed-forward input, which is a datastore's key."""
        return self.config.decoder_embed_dim

    @property
    def has_adaptive_softmax(self) -> bool:
        """Whether the output layer is an adaptive softmax."""
        return self.decoder.adaptive_softmax is not None

    def forward(self, src_tokens: Tensor, first: int = 0, src_lengths: Tensor | None = None) -> DecoderOutput:
        """Returns the outputs of the columns from ``first`` on for input ids ``[B, T]``.

        A row that is shorter is filled on the right, with anything; nothing depends on ``src_lengths``. ``<pad>`` is a
        word that no other column sees, and that counts as no position, as in fairseq.
        """
        output: DecoderOutput = self.decoder(src_tokens, first)
        return dataclasses.replace(output, scores=self._scores)

    def _scores(self, features_BSC: Tensor) -> Tensor:
        if self.has_adaptive_softmax:
            return features_BSC
        return self.logits(features_BSC.flatten(0, 1)).view(*features_BSC.shape[:2], -1)

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, float32 ``[N]``, from features of the scored columns."""
        if self.decoder.adaptive_softmax is not None:
            return self.decoder.adaptive_softmax.target_log_prob(features_NC, target_N)
        return -F.cross_entropy(self.logits(features_NC), target_N, reduction="none")

    def log_prob(self, features_NC: Tensor) -> Tensor:
        """Returns log p of every word, natural, float32 ``[N, V]``, from features of N columns; it has a gradient."""
        if self.decoder.adaptive_softmax is not None:
            return self.decoder.adaptive_softmax.log_prob(features_NC)
        return self.logits(features_NC).log_softmax(1)

    @torch.no_grad()
    def certainty(self, features_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns how sure the model is of the next token: the largest log p and the entropy, nats, float32 ``[N]``."""
        if self.decoder.adaptive_softmax is not None:
            return self.decoder.adaptive_softmax.certainty(features_NC)
        largest_N, entropy_N = features_NC.new_empty((2, len(features_NC)), dtype=torch.float32)
        for rows in row_slices(len(features_NC), self.decoder.vocabulary_size):
            logits_NV = self.logits(features_NC[rows])
            log_sum_N, entropy_N[rows] = log_sum_and_entropy(logits_NV)
            largest_N[rows] = logits_NV.amax(1) - log_sum_N
        return largest_N, entropy_N

    def logits(self, features_NC: Tensor) -> Tensor:
        """Returns float32 scores of every word, ``[N, V]``, of a full softmax; an adaptive one has no such scores."""
        weight: Tensor | None = self.decoder.embed_out
        if weight is None:
            assert isinstance(self.decoder.embed_tokens, nn.Embedding)
            weight = self.decoder.embed_tokens.weight
        return F.linear(features_NC, weight).float()

    def new_cache(self, num_rows: int, num_slots: int, dtype: torch.dtype = torch.float32) -> KeyValueCache:
        """Returns an empty cache for rows of at most ``num_slots`` tokens, keys and values of type ``dtype``."""
        heads = self.config.decoder_attention_heads
        device = next(self.parameters()).device
        shape = (self.config.decoder_layers, num_rows, heads, num_slots, self.key_dimension // heads)
        return KeyValueCache(shape, dtype, device)

    def extend(self, new_BS: Tensor, size_B: Tensor, cache: KeyValueCache) -> DecoderOutput:
        """Returns the outputs of new columns ``[B, S]``, right-padded after ``size_B``, behind the cached ones."""
        return self.decoder.extend(new_BS, size_B, cache)


def build_transformer_lm(config: TransformerConfig, vocabulary_size: int) -> TransformerLanguageModel:
    """Returns the model for a vocabulary; raises ConfigError when the cutoffs do not fit it."""
    return TransformerLanguageModel(config, vocabulary_size)


def __getattr__(name: str) -> PresetFunction:
    """Returns the function that fills in a preset, by fairseq's name: ``base_lm_architecture`` and others."""
    function = preset_function(name)
    if function is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    return function


def require_bands(config: TransformerConfig, vocabulary_size: int) -> None:
    """Raises ConfigError when the cutoffs do not fit a vocabulary."""
    c = config
    if c.adaptive_input:
        _check_bands("input", c.input_cutoff, c.input_dim, c.adaptive_input_factor, (PADDING_IDX, vocabulary_size))
    if c.adaptive_softmax_cutoff and not c.tie_adaptive_weights:
        cutoff, factor = c.adaptive_softmax_cutoff, c.adaptive_softmax_factor
        _check_bands("softmax", cutoff, c.output_dim, factor, (0, vocabulary_size))


def fitting_cutoffs(vocabulary_size: int, most: int) -> list[int]:
    """Returns round cutoffs that fit a dictionary, at most so many: each band about four times the one before."""
    cutoffs = [vocabulary_size // 4**band for band in range(1, most + 1)]
    return sorted({round(end, 1 - len(str(end))) for end in cutoffs if end > 1}) or [vocabulary_size // 2]


def _check_bands(name: str, cutoff: tuple[int, ...], width: int, factor: float, ends: tuple[int, int]) -> None:
    """Raises ConfigError if a band would have no words, or vectors of width 0."""
    if any(left >= right for left, right in pairwise([ends[0], *cutoff, ends[1]])):
        fitting = ",".join(map(str, fitting_cutoffs(ends[1], len(cutoff))))
        raise ConfigError(
            f"--adaptive-{name}-cutoff {','.join(map(str, cutoff))} must rise and stay below the {ends[1]} ids of the"
            f" dictionary, and begin above {ends[0]}; such as --adaptive-softmax-cutoff {fitting} and, with an adaptive"
            f" input, --adaptive-input-cutoff {fitting}"
        )
    if width < factor ** len(cutoff):
        raise ConfigError(
            f"--adaptive-{name}-factor {factor} leaves the last of {len(cutoff) + 1} bands no width: {width} /"
            f" {factor}^{len(cutoff)} is below 1; lower the factor, or give fewer cutoffs"
        )
