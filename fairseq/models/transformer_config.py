"""The transformer language model's fields; presets.py has those that ``--arch`` names."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairseq.config.flags import flag, flag_name, resolve
from fairseq.errors import ConfigError

ACTIVATION_NAMES = ("relu", "gelu", "gelu_accurate", "gelu_fast", "tanh", "linear")


@dataclass(frozen=True)
class TransformerConfig:
    """Size and parts of the model; defaults are those of transformer_lm."""

    decoder_layers: int = flag(6, "number of layers", minimum=1, maximum=10_000)
    decoder_embed_dim: int = flag(512, "width of the model, a multiple of --decoder-attention-heads", minimum=1)
    decoder_input_dim: int | None = flag(None, "width of the word vectors [default: --decoder-embed-dim]", minimum=1)
    decoder_output_dim: int | None = flag(
        None, "width of the vectors before the output layer [default: --decoder-embed-dim]", minimum=1
    )
    decoder_ffn_embed_dim: int = flag(2048, "width inside the feed-forward part of a layer", minimum=1)
    decoder_attention_heads: int = flag(8, "attention heads", minimum=1)
    decoder_normalize_before: bool = flag(True, "LayerNorm before each part of a layer; with --no-…, after it")
    no_decoder_final_norm: bool = flag(False, "no LayerNorm after the last layer")
    decoder_learned_pos: bool = flag(False, "learn the vectors of positions, instead of sinusoids")
    no_token_positional_embeddings: bool = flag(False, "no vectors of positions")
    share_decoder_input_output_embed: bool = flag(False, "use the input's word vectors in the output layer as well")
    no_scale_embedding: bool = flag(False, "do not multiply word vectors by the root of the width")
    layernorm_embedding: bool = flag(False, "LayerNorm before the first layer")
    adaptive_input: bool = flag(False, "adaptive input: narrower vectors for rarer words")
    adaptive_input_cutoff: tuple[int, ...] = flag(
        (),
        "numbers of words at which the vectors get narrower [default: --adaptive-softmax-cutoff]",
        minimum=1,
    )
    adaptive_input_factor: float = flag(
        4.0, "how many times narrower the vectors get at each number of --adaptive-input-cutoff", minimum=1
    )
    adaptive_softmax_cutoff: tuple[int, ...] = flag(
        (),
        "adaptive softmax: numbers of words at which vectors get narrower, such as 4000,10000 [default: plain softmax]",
        minimum=1,
    )
    adaptive_softmax_dropout: float = flag(0.0, "dropout in the adaptive softmax", minimum=0, maximum=1)
    adaptive_softmax_factor: float = flag(
        4.0, "how many times narrower the vectors get at each number of --adaptive-softmax-cutoff", minimum=1
    )
    tie_adaptive_weights: bool = flag(False, "use the adaptive input's word vectors in the adaptive softmax as well")
    tie_adaptive_proj: bool = flag(False, "the same for their projections")
    dropout: float = flag(0.1, "dropout after each part of a layer", minimum=0, maximum=1)
    attention_dropout: float = flag(0.0, "dropout of attention weights", minimum=0, maximum=1)
    activation_dropout: float = flag(
        0.0, "dropout inside the feed-forward part", aliases=("--relu-dropout",), minimum=0, maximum=1
    )
    activation_fn: str = flag("relu", "activation function of the feed-forward part", choices=ACTIVATION_NAMES)
    scale_attn: bool = flag(False, "LayerNorm of what the attention gives (normformer)")
    scale_heads: bool = flag(False, "learn a factor for each attention head (normformer)")
    scale_fc: bool = flag(False, "LayerNorm inside the feed-forward part, behind the activation (normformer)")
    scale_resids: bool = flag(
        False, "learn a factor for each element of the residual of the feed-forward part (normformer)"
    )
    decoder_layerdrop: float = flag(0.0, "probability of leaving out a layer in training", minimum=0, maximum=1)
    checkpoint_activations: bool = flag(
        False, "keep only each layer's input in training, and compute the rest again: less memory, more time"
    )
    offload_activations: bool = flag(
        False,
        "keep activations in the main memory",
        no_effect="they stay on the device; --checkpoint-activations saves most of their memory",
    )
    max_target_positions: int | None = flag(
        None, "most tokens that the model can read at once [default: --tokens-per-sample]", minimum=1
    )

    @property
    def input_dim(self) -> int:
        """Width of the word vectors."""
        return self.decoder_input_dim or self.decoder_embed_dim

    @property
    def output_dim(self) -> int:
        """Width of the features that the output layer takes."""
        return self.decoder_output_dim or self.decoder_embed_dim

    @property
    def has_final_norm(self) -> bool:
        """Whether a LayerNorm follows the last layer: one that ends in a LayerNorm of its own has none."""
        return self.decoder_normalize_before and not self.no_decoder_final_norm

    def __post_init__(self) -> None:
        if self.decoder_embed_dim % self.decoder_attention_heads:
            raise ConfigError(
                f"--decoder-embed-dim {self.decoder_embed_dim} must be a multiple of --decoder-attention-heads"
                f" {self.decoder_attention_heads}"
            )
        if self.decoder_embed_dim < 4:
            raise ConfigError(f"--decoder-embed-dim must be at least 4, but is {self.decoder_embed_dim}")
        if self.adaptive_input and not self.input_cutoff:
            raise ConfigError("--adaptive-input needs --adaptive-softmax-cutoff or --adaptive-input-cutoff")
        if self.tie_adaptive_weights:
            self._check_tied()
        if self.share_decoder_input_output_embed and not self.adaptive_softmax_cutoff:
            self._check_shared()

    @property
    def input_cutoff(self) -> tuple[int, ...]:
        """Ends of the input's bands; the output's when none were given."""
        return self.adaptive_input_cutoff or self.adaptive_softmax_cutoff

    def _check_shared(self) -> None:
        if self.adaptive_input:
            raise ConfigError(
                "--share-decoder-input-output-embed needs vectors of one width, but --adaptive-input makes bands of"
                " several; leave one of the two out, or give --adaptive-softmax-cutoff and --tie-adaptive-weights"
            )
        if self.input_dim != self.output_dim:
            raise ConfigError(
                f"--share-decoder-input-output-embed needs --decoder-input-dim {self.input_dim} to equal"
                f" --decoder-output-dim {self.output_dim}"
            )

    def _check_tied(self) -> None:
        if not self.adaptive_input or not self.adaptive_softmax_cutoff:
            raise ConfigError("--tie-adaptive-weights needs --adaptive-input and --adaptive-softmax-cutoff")
        for name, of_input, of_softmax in (
            ("cutoff", self.input_cutoff, self.adaptive_softmax_cutoff),
            ("factor", self.adaptive_input_factor, self.adaptive_softmax_factor),
        ):
            if of_input != of_softmax:
                raise ConfigError(
                    f"--tie-adaptive-weights needs equal {name}s, but --adaptive-input-{name} is {of_input} and"
                    f" --adaptive-softmax-{name} is {of_softmax}"
                )
        if self.output_dim != self.decoder_embed_dim:
            raise ConfigError(
                f"--tie-adaptive-weights needs --decoder-output-dim {self.output_dim} to equal --decoder-embed-dim"
                f" {self.decoder_embed_dim}"
            )


# Settings that change what the weights mean, and may leave no trace among them.
_COMPUTATION = (
    "decoder_attention_heads",
    "decoder_normalize_before",
    "no_token_positional_embeddings",
    "no_scale_embedding",
    "activation_fn",
)


def other_computations(config: TransformerConfig, fields: Mapping[str, Any]) -> list[str]:
    """Returns one phrase for each setting by which a checkpoint's weights mean another computation than ``config``."""
    stored = resolve(TransformerConfig, dataclasses.asdict(config), {n: fields[n] for n in _COMPUTATION if n in fields})
    pairs = ((flag_name(name), getattr(stored, name), getattr(config, name)) for name in _COMPUTATION)
    return [f"{name} {theirs} instead of {ours}" for name, theirs, ours in pairs if theirs != ours]
