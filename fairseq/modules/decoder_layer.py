"""One transformer layer, with its LayerNorms before its two parts (pre-norm) or after them (post-norm).

    pre    x ─ LayerNorm ─ attention ─ + ─ LayerNorm ─ fc1 ─ activation ─ fc2 ─ + ─
            └──────────────────────────┘└───────────────────────────────────────┘
    post   x ─ attention ─ + ─ LayerNorm ─ fc1 ─ activation ─ fc2 ─ + ─ LayerNorm ─
            └──────────────┘            └───────────────────────────┘

What fc1 takes, the *feed-forward input*, is what kNN-LM takes as the key of a context.

Normformer (Shleifer et al., 2021) adds up to four parts, each by a flag: a factor for each head's share of what the
attention gives (``scale_heads``), a LayerNorm behind it (``scale_attn``), a LayerNorm behind the activation
(``scale_fc``), and a factor for each element of the second residual (``scale_resids``).
"""

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq.modules.dropout import dropout
from fairseq.modules.kv_cache import KeyValueCache
from fairseq.modules.self_attention import SelfAttention

# Each may write over its argument, the output of fc1, which nothing else needs: on a CPU that is memory's time saved.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": partial(F.relu, inplace=True),
    "gelu": F.gelu,
    "gelu_accurate": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


SCALES = ("scale_attn", "scale_fc", "scale_heads", "scale_resids")


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each beside a residual and behind or before a LayerNorm.

    Args:
        width: C.
        inner: width inside the feed-forward part.
        num_heads: of the attention.
        normalize_before: whether the LayerNorms stand before the parts.
        dropout: of what each part gives.
        attention_dropout: of attention weights.
        activation_dropout: of what the activation gives.
        activation: a name of ``ACTIVATIONS``.
        scales: parts of normformer: of ``SCALES``.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        num_heads: int,
        *,
        normalize_before: bool,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        activation: str,
        scales: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.normalize_before = normalize_before
        self.dropout = dropout
        self.activation_dropout = activation_dropout
        self.activation = ACTIVATIONS[activation]
        self.self_attn = SelfAttention(width, num_heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)
        assert set(scales) <= set(SCALES), scales
        self.c_attn = nn.Parameter(torch.ones(num_heads)) if "scale_heads" in scales else None
        self.attn_ln = nn.LayerNorm(width) if "scale_attn" in scales else None
        self.ffn_layernorm = nn.LayerNorm(inner) if "scale_fc" in scales else None
        self.w_resid = nn.Parameter(torch.ones(width)) if "scale_resids" in scales else None
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_BTC: Tensor, first: int = 0, seen_BTT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the layer's output and its feed-forward input, both ``[B, T − first, C]``."""
        attended = self.self_attn(self._before(self.self_attn_layer_norm, x_BTC), first, seen_BTT)
        return self._feed_forward(x_BTC[:, first:] + dropout(self._scaled(attended), self.dropout, self.training))

    def extend(self, x_BSC: Tensor, cache: KeyValueCache, layer: int) -> tuple[Tensor, Tensor]:
        """Returns the layer's output and its feed-forward input of S new columns, both ``[B, S, C]``."""
        normed = self._before(self.self_attn_layer_norm, x_BSC)
        return self._feed_forward(x_BSC + self._scaled(self.self_attn.extend(normed, cache, layer)))

    def _scaled(self, attended_BSC: Tensor) -> Tensor:
        """Returns what the attention gives, its heads' slices of C multiplied and normalised where the layer does."""
        if self.c_attn is not None:
            by_head = attended_BSC.view(*attended_BSC.shape[:2], len(self.c_attn), -1) * self.c_attn[:, None]
            attended_BSC = by_head.flatten(2)
        return attended_BSC if self.attn_ln is None else self.attn_ln(attended_BSC)

    def _feed_forward(self, x_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns output and feed-forward input, given the sum of residual and attention."""
        x_BSC = self._after(self.self_attn_layer_norm, x_BSC)
        ffn_input_BSC = self._before(self.final_layer_norm, x_BSC)
        hidden = dropout(self.activation(self.fc1(ffn_input_BSC)), self.activation_dropout, self.training)
        if self.ffn_layernorm is not None:
            hidden = self.ffn_layernorm(hidden)
        residual_BSC = x_BSC if self.w_resid is None else self.w_resid * x_BSC
        out_BSC = residual_BSC + dropout(self.fc2(hidden), self.dropout, self.training)
        return self._after(self.final_layer_norm, out_BSC), ffn_input_BSC

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.normalize_before else x

    def _after(self, norm: nn.Module, x: Tensor) -> Tensor:
        return x if self.normalize_before else norm(x)
