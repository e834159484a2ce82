"""The presets that ``--arch`` names: in which fields each differs from the model's defaults.

The numbers are those that fairseq 0.12 resolves from its command line. GPT-2 has fairseq's sizes: its ``gpt2_small`` is
what others call GPT-2 medium.
"""

import re
from collections.abc import Mapping
from typing import Any

_BAEVSKI_WIKI103: Mapping[str, Any] = dict(
    decoder_layers=16,
    decoder_embed_dim=1024,
    decoder_ffn_embed_dim=4096,
    decoder_attention_heads=8,
    no_decoder_final_norm=True,
    adaptive_input=True,
    adaptive_input_cutoff=(20000, 60000),
    adaptive_softmax_cutoff=(20000, 60000),
    adaptive_softmax_dropout=0.2,
    tie_adaptive_weights=True,
    tie_adaptive_proj=True,
    dropout=0.3,
    attention_dropout=0.1,
    activation_dropout=0.1,
)
_BAEVSKI_GBW: Mapping[str, Any] = dict(
    decoder_layers=12,
    decoder_embed_dim=512,
    decoder_ffn_embed_dim=4096,
    decoder_attention_heads=16,
    no_decoder_final_norm=True,
    attention_dropout=0.1,
)


def _gpt(layers: int, width: int, heads: int, inner: int | None = None, **more: Any) -> Mapping[str, Any]:
    """Returns a preset of GPT's kind; the feed-forward part is four times as wide, if nothing else is said."""
    return dict(
        decoder_layers=layers,
        decoder_embed_dim=width,
        decoder_ffn_embed_dim=inner or 4 * width,
        decoder_attention_heads=heads,
        **{"activation_fn": "gelu", **more},
    )


_GPT2: Mapping[str, Any] = dict(attention_dropout=0.1)
GPT3: Mapping[str, Any] = dict(
    activation_fn="gelu", dropout=0.0, decoder_learned_pos=True, share_decoder_input_output_embed=True
)

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "transformer_lm": {},
    "transformer_lm_big": dict(
        decoder_layers=12, decoder_embed_dim=1024, decoder_ffn_embed_dim=4096, decoder_attention_heads=16
    ),
    "transformer_lm_wiki103": _BAEVSKI_WIKI103,
    "transformer_lm_baevski_wiki103": _BAEVSKI_WIKI103,
    "transformer_lm_gbw": _BAEVSKI_GBW,
    "transformer_lm_baevski_gbw": _BAEVSKI_GBW,
    "transformer_lm_gpt": _gpt(12, 768, 12, **_GPT2),
    "transformer_lm_gpt2_tiny": _gpt(2, 64, 1, inner=64, **_GPT2),
    "transformer_lm_gpt2_small": _gpt(24, 1024, 16, **_GPT2),
    "transformer_lm_gpt2_medium": _gpt(36, 1280, 20, **_GPT2),
    "transformer_lm_gpt2_big": _gpt(48, 1600, 25, **_GPT2),
    "transformer_lm_gpt2_big_wide": _gpt(24, 2048, 32, **_GPT2),
    "transformer_lm_gpt2_bigger": _gpt(48, 2048, 32, **_GPT2),
    "transformer_lm_gpt3_small": _gpt(12, 768, 12, **GPT3),
    "transformer_lm_gpt3_medium": _gpt(24, 1024, 16, **GPT3),
    "transformer_lm_gpt3_large": _gpt(24, 1536, 16, **GPT3),
    "transformer_lm_gpt3_xl": _gpt(24, 2048, 32, **GPT3),
    "transformer_lm_gpt3_2_7": _gpt(32, 2560, 32, **GPT3),
    "transformer_lm_gpt3_6_7": _gpt(32, 4096, 32, **GPT3),
    "transformer_lm_gpt3_13": _gpt(40, 5120, 40, **GPT3),
    "transformer_lm_gpt3_175": _gpt(96, 12288, 96, **GPT3),
}
ARCHITECTURE_SUMMARIES: Mapping[str, str] = {
    "transformer_lm": "6 layers of 512, 8 heads",
    "transformer_lm_big": "12 layers of 1024, 16 heads",
    "transformer_lm_wiki103": "16 layers of 1024, adaptive input and softmax, for WikiText-103",
    "transformer_lm_baevski_wiki103": "another name of transformer_lm_wiki103",
    "transformer_lm_gbw": "12 layers of 512, 16 heads, for the Billion Word Benchmark",
    "transformer_lm_baevski_gbw": "another name of transformer_lm_gbw",
    "transformer_lm_gpt": "12 layers of 768, 12 heads, GELU",
    **{
        name: f"{p['decoder_layers']} layers of {p['decoder_embed_dim']}"
        for name, p in ARCHITECTURES.items()
        if re.search("_gpt[23]_", name)
    },
}
