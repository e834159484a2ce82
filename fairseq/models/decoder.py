"""The layers of the transformer language model, without its output layer's sums.

    ids ─ embed · √C ─ + positions ─ [LayerNorm] ─ dropout ─ layer × L ─ [LayerNorm] ─ features

B batch, T time, S scored time (the last S of T columns), C width.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fairseq.models.protocol import DecoderOutput
from fairseq.models.transformer_config import TransformerConfig
from fairseq.modules.adaptive_input import AdaptiveInput
from fairseq.modules.adaptive_softmax import AdaptiveSoftmax
from fairseq.modules.decoder_layer import SCALES, DecoderLayer
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
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else None
        self.recompute = config.checkpoint_activations
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
                x_BTC, _ = self._run(layer, x_BTC, 0, seen_BTT)
        # Only the last layer may leave columns out: every earlier one feeds the attention of the next.
        x_BSC, ffn_input_BSC = self._run(self.layers[-1], x_BTC, first, seen_BTT)
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
        if positions is not None:
            x_BTC = x_BTC + positions
        return x_BTC if self.layernorm_embedding is None else self.layernorm_embedding(x_BTC)

    def _run(self, layer: nn.Module, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Returns what a layer gives; in training it it may keep its input only, and ``backward`` computes it again."""
        if self.recompute and self.training and torch.is_grad_enabled():
            found: tuple[Tensor, Tensor] = checkpoint(layer, *inputs, use_reentrant=False)
            return found
        return layer(*inputs)  # type: ignore[no-any-return]

    def _features(self, x_BSC: Tensor) -> Tensor:
        """Returns the features for the output layer, given the last layer's output."""
        if self.layer_norm is not None:
            x_BSC = self.layer_norm(x_BSC)
        if self.project_out_dim is not None:
            x_BSC = self.project_out_dim(x_BSC)
        return x_BSC

    def _dropped(self) -> bool:
        return self.training and self.layerdrop > 0 and bool(torch.rand(()) < self.layerdrop)


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
        scales=[name for name in SCALES if getattr(config, name)],
    )
