"""The transformer language model of Baevski and Auli (2019): adaptive input, layers, adaptive softmax.

    ids ─ embed · √C ─ + positions ─ dropout ─ layer × L ─ [LayerNorm] ─ features ─ output layer ─ log p(target)

B batch, T time, S scored time (the last S of T columns), C width, N scored tokens.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq.config.registry import load
from fairseq.errors import ConfigError
from fairseq.models.protocol import DecoderOutput
from fairseq.models.transformer_config import TransformerConfig
from fairseq.modules.adaptive_input import AdaptiveInput
from fairseq.modules.adaptive_softmax import AdaptiveSoftmax, log_sum_and_entropy, row_slices
from fairseq.modules.decoder_layer import DecoderLayer
from fairseq.modules.dropout import dropout
from fairseq.modules.embedding import PADDING_IDX, projection, word_vectors
from fairseq.modules.kv_cache import KeyValueCache
from fairseq.modules.positions import LearnedPositions, Positions, SinusoidalPositions, columns_of
from fairseq.modules.self_attention import columns_seen

CHECKPOINT_LAYOUT_VERSION = 3.0


class Decoder(nn.Module):
    """Layers and weights; the names of its attributes are the names in checkpoints."""

    def __init__(self, config: TransformerConfig, vocabulary_size: int) -> None:
        super().__init__()
        width = config.decoder_embed_dim
        self.dropout = config.dropout
        self.layerdrop = config.decoder_layerdrop
        self.embed_scale = 1.0 if config.no_scale_embedding else math.sqrt(width)
        self.vocabulary_size = vocabulary_size
        self.num_positions = config.max_target_positions or 1024
        self.register_buffer("version", torch.tensor([CHECKPOINT_LAYOUT_VERSION]))
        self.embed_tokens = _build_embedding(config, vocabulary_size)
        self.project_in_dim = None
        if not config.adaptive_input and config.input_dim != width:
            self.project_in_dim = projection(config.input_dim, width)
        self.embed_positions: Positions | None = None
        if not config.no_token_positional_embeddings:
            kind = LearnedPositions if config.decoder_learned_pos else SinusoidalPositions
            self.embed_positions = kind(width, self.num_positions)
        self.layers = nn.ModuleList(_build_layer(config) for _ in range(config.decoder_layers))
        self.layer_norm = nn.LayerNorm(width) if config.has_final_norm else None
        self.project_out_dim = None
        if width != config.output_dim and not config.tie_adaptive_weights:
            self.project_out_dim = projection(width, config.output_dim)
        self._build_output(config, vocabulary_size)

    def _build_output(self, config: TransformerConfig, vocabulary_size: int) -> None:
        self.adaptive_softmax: AdaptiveSoftmax | None = None
        self.embed_out: nn.Parameter | None = None
        if config.adaptive_softmax_cutoff:
            tied = self.embed_tokens if config.tie_adaptive_weights else None
            assert tied is None or isinstance(tied, AdaptiveInput)
            self.adaptive_softmax = AdaptiveSoftmax(
                vocabulary_size,
                config.output_dim,
                config.adaptive_softmax_cutoff,
                config.adaptive_softmax_dropout,
                config.adaptive_softmax_factor,
                tied,
                config.tie_adaptive_proj,
            )
        elif not config.share_decoder_input_output_embed:
            self.embed_out = nn.Parameter(torch.empty(vocabulary_size, config.output_dim))
            nn.init.normal_(self.embed_out, std=config.output_dim**-0.5)

    def forward(self, source_BT: Tensor, first: int) -> DecoderOutput:
        """Returns the outputs of the columns from ``first`` on; the columns before are context."""
        pad_BT = source_BT == PADDING_IDX
        has_pads = bool(pad_BT.any())
        seen_BTT = columns_seen(pad_BT) if has_pads else None
        positions = None
        if self.embed_positions is not None:
            length = source_BT.shape[1]
            positions = (
                self.embed_positions.at(columns_of(pad_BT), length) if has_pads else self.embed_positions(length)
            )
        x_BTC = dropout(self._embedded(source_BT, positions), self.dropout, self.training)
        for layer in self.layers[:-1]:
            if not self._dropped():
                x_BTC, _ = layer(x_BTC, 0, seen_BTT)
        # Only the last layer may leave columns out: every earlier one feeds the attention of the next.
        x_BSC, ffn_input_BSC = self.layers[-1](x_BTC, first, seen_BTT)
        if self._dropped():
            x_BSC = x_BTC[:, first:]
        return DecoderOutput(self._features(x_BSC), ffn_input_BSC)

    @torch.no_grad()
    def extend(self, new_BS: Tensor, size_B: Tensor, cache: KeyValueCache) -> DecoderOutput:
        """Returns the outputs of S new columns and caches them; row b has ``size_B[b]``, the rest is padding."""
        assert not self.training
        cache.hide((new_BS == PADDING_IDX) & (torch.arange(new_BS.shape[1], device=new_BS.device) < size_B[:, None]))
        positions_BSC = None
        if self.embed_positions is not None:
            positions_BSC = self.embed_positions.at(cache.columns(new_BS.shape[1]), cache.num_slots)
        x_BSC = self._embedded(new_BS, positions_BSC)
        ffn_input_BSC = x_BSC
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            x_BSC, ffn_input_BSC = layer.extend(x_BSC, cache, number)
        cache.advance(size_B)
        return DecoderOutput(self._features(x_BSC), ffn_input_BSC)

    def _embedded(self, ids_BT: Tensor, positions: Tensor | None) -> Tensor:
        x_BTC: Tensor = self.embed_scale * self.embed_tokens(ids_BT)
        if self.project_in_dim is not None:
            x_BTC = self.project_in_dim(x_BTC)
        return x_BTC if positions is None else x_BTC + positions

    def _features(self, x_BSC: Tensor) -> Tensor:
        """Returns the features for the output layer, given the last layer's output."""
        if self.layer_norm is not None:
            x_BSC = self.layer_norm(x_BSC)
        if self.project_out_dim is not None:
            x_BSC = self.project_out_dim(x_BSC)
        return x_BSC

    def _dropped(self) -> bool:
        return self.training and self.layerdrop > 0 and bool(torch.rand(()) < self.layerdrop)


class TransformerLanguageModel(nn.Module):
    """The model as tasks, criterions and scorers know it; all weights lie under ``decoder.``.

    Any model can stand in its place that has ``forward(source_BT, first)`` → ``DecoderOutput``,
    ``target_log_prob(features_NC, target_N)``, ``max_positions``, ``longest_row``, ``key_dimension`` and
    ``has_adaptive_softmax``; for a weight λ of each token's own, ``certainty(features_NC)`` as well; for generating,
    ``log_prob(features_NC)``, and to be quick at it ``new_cache`` and ``extend``.
    """

    def __init__(self, config: TransformerConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config, vocabulary_size)

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

    def forward(self, source_BT: Tensor, first: int = 0) -> DecoderOutput:
        """Returns the outputs of the columns from ``first`` on for input ids ``source_BT``.

        A row that is shorter is filled on the right, with anything. ``<pad>`` is a word that no other column sees, and
        that counts as no position, as in fairseq.
        """
        return self.decoder(source_BT, first)  # type: ignore[no-any-return]

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
    c = config
    if c.adaptive_input:
        _check_bands("input", c.input_cutoff, c.input_dim, c.adaptive_input_factor, (PADDING_IDX, vocabulary_size))
    if c.adaptive_softmax_cutoff and not c.tie_adaptive_weights:
        cutoff, factor = c.adaptive_softmax_cutoff, c.adaptive_softmax_factor
        _check_bands("softmax", cutoff, c.output_dim, factor, (0, vocabulary_size))
    return TransformerLanguageModel(config, vocabulary_size)


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


def _build_embedding(config: TransformerConfig, vocabulary_size: int) -> nn.Module:
    if not config.adaptive_input:
        return word_vectors(vocabulary_size, config.input_dim, PADDING_IDX)
    factor, width = config.adaptive_input_factor, config.decoder_embed_dim
    return AdaptiveInput(vocabulary_size, config.input_dim, factor, width, config.input_cutoff)


def _build_layer(config: TransformerConfig) -> DecoderLayer:
    return DecoderLayer(
        config.decoder_embed_dim,
        config.decoder_ffn_embed_dim,
        config.decoder_attention_heads,
        normalize_before=config.decoder_normalize_before,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        activation=config.activation_fn,
    )
