"""A naive decoder in float64, from a state dict in checkpoint layout: one row, without dropout."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tests.oracles.adaptive_softmax import embed
from tests.oracles.attention import attention

Floats = npt.NDArray[np.float64]
ACTIVATIONS = {
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
    "linear": lambda x: x,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_accurate": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
ACTIVATIONS["gelu_fast"] = ACTIVATIONS["gelu_accurate"]


def under(state: Mapping[str, Floats], prefix: str) -> dict[str, Floats]:
    """The entries under a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def sinusoid(position: int, width: int) -> Floats:
    """One row of the position table."""
    half = width // 2
    angles = [position * math.exp(-i * math.log(10000) / (half - 1)) for i in range(half)]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles] + [0.0] * (width % 2))


def layer_norm(x: Floats, weights: Mapping[str, Floats]) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weights["weight"] + weights["bias"]


def feed_forward(x: Floats, layer: Mapping[str, Floats], activation: str) -> Floats:
    inner = np.vectorize(ACTIVATIONS[activation])(x @ layer["fc1.weight"].T + layer["fc1.bias"])
    if "ffn_layernorm.weight" in layer:  # normformer's
        inner = layer_norm(inner, under(layer, "ffn_layernorm."))
    return inner @ layer["fc2.weight"].T + layer["fc2.bias"]


def attend(x: Floats, layer: Mapping[str, Floats], num_heads: int, pads: list[int]) -> Floats:
    """Attention and what normformer does to it: C is cut into a slice for each head, each with a factor; LayerNorm."""
    attended = attention(x, under(layer, "self_attn."), num_heads, pads)
    if "c_attn" in layer:
        attended = attended * np.repeat(layer["c_attn"], attended.shape[1] // num_heads)
    return layer_norm(attended, under(layer, "attn_ln.")) if "attn_ln.weight" in layer else attended


def decode(
    state: Mapping[str, Floats],
    ids: list[int],
    edges: list[int],
    num_heads: int,
    activation: str = "relu",
    *,
    post_norm: bool = False,
) -> tuple[Floats, Floats]:
    """Features and the last layer's feed-forward input, each [T, C]; ``state`` is what lies under ``decoder.``."""
    if "embed_tokens.weight" in state:
        x = np.array([state["embed_tokens.weight"][token] for token in ids])
    else:
        x = embed(under(state, "embed_tokens."), ids, edges)
    width = state["layers.0.fc2.weight"].shape[0]
    x = x * math.sqrt(width)
    if "project_in_dim.weight" in state:
        x = x @ state["project_in_dim.weight"].T
    learned = state.get("embed_positions.weight")
    pads = [t for t, token in enumerate(ids) if token == 1]  # no position, and seen by nobody
    places = [1 if t in pads else sum(token != 1 for token in ids[:t]) + 2 for t in range(len(ids))]
    if learned is None:
        learned = {place: sinusoid(place, width) * (place != 1) for place in places}
    x = x + np.array([learned[place] for place in places])
    if "layernorm_embedding.weight" in state:
        x = layer_norm(x, under(state, "layernorm_embedding."))
    for n in range(max(int(name.split(".")[1]) for name in state if name.startswith("layers.")) + 1):
        layer = under(state, f"layers.{n}.")
        norm_1, norm_2 = under(layer, "self_attn_layer_norm."), under(layer, "final_layer_norm.")
        if post_norm:
            x = layer_norm(x + attend(x, layer, num_heads, pads), norm_1)
            ffn_input = x
            x = layer_norm(x * layer.get("w_resid", 1) + feed_forward(ffn_input, layer, activation), norm_2)
        else:
            x = x + attend(layer_norm(x, norm_1), layer, num_heads, pads)
            ffn_input = layer_norm(x, norm_2)
            x = x * layer.get("w_resid", 1) + feed_forward(ffn_input, layer, activation)
    x = layer_norm(x, under(state, "layer_norm.")) if "layer_norm.weight" in state else x
    return (x @ state["project_out_dim.weight"].T if "project_out_dim.weight" in state else x), ffn_input
