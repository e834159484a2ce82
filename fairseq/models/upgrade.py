"""Converts state dicts and configs of older programs to today's layout (docs/formats.md, checkpoints)."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fairseq.errors import CheckpointError

_LAYER_NORMS = {"0": "self_attn_layer_norm", "1": "encoder_attn_layer_norm", "2": "final_layer_norm"}
# Parts that fairseq 0.12's language models leave out, whatever its settings say: the weights show whether they are
# there.
_SHOWN_BY = {
    "scale_attn": "attn_ln.weight",
    "scale_fc": "ffn_layernorm.weight",
    "scale_heads": "c_attn",
    "scale_resids": "w_resid",
}
_CONSTANTS = ("version", "_float_tensor")
# Written among the settings since they say where the LayerNorms are; before, this program wrote a default there.
SETTINGS_VERSION = {"settings_version": 2}


def upgrade_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict with today's names: q, k and v apart, LayerNorms by name, weights in float32.

    The constants that layouts differ in (versions, placeholders) are left out; ``load_state`` fills them in.
    """
    upgraded: dict[str, Tensor] = {}
    for old_name, old_tensor in state.items():
        tensor = old_tensor.float() if old_tensor.is_floating_point() else old_tensor
        name = re.sub(r"layer_norms\.([012])\.", lambda m: _LAYER_NORMS[m[1]] + ".", old_name)
        name = name.replace("decoder.output_projection.weight", "decoder.embed_out")
        if name.rsplit(".", 1)[-1] in _CONSTANTS or name == "decoder.embed_positions.weights":
            continue
        merged = re.fullmatch(r"(.*self_attn\.)in_proj_(weight|bias)", name)
        if merged:
            if not tensor.dim() or len(tensor) % 3:
                raise CheckpointError(
                    f"the weights {old_name} must be three equal parts, but are {tuple(tensor.shape)}"
                )
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                upgraded[f"{merged[1]}{part}_proj.{merged[2]}"] = piece
        else:
            upgraded[name] = tensor
    words, output = upgraded.get("decoder.embed_tokens.weight"), upgraded.get("decoder.embed_out")
    if words is not None and output is not None and words.dtype == output.dtype and torch.equal(words, output):
        del upgraded["decoder.embed_out"]  # shared words, which fairseq 0.12 stores twice
    if layout_version(state) <= 2:
        for name in ("decoder.layer_norm.weight", "decoder.layer_norm.bias"):
            upgraded.pop(name, None)
    return upgraded


def layout_version(state: Mapping[str, Tensor]) -> float:
    """Returns ``decoder.version``; a state dict without one is version 1."""
    version = state.get("decoder.version")
    return float(version.reshape(-1)[0]) if isinstance(version, Tensor) and version.numel() else 1.0


def upgrade_fields(fields: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns config fields with today's names, corrected by what the weights show."""
    upgraded = dict(fields)
    if "no_tie_adaptive_proj" in upgraded:
        upgraded["tie_adaptive_proj"] = upgraded.pop("no_tie_adaptive_proj") is False
        upgraded["no_decoder_final_norm"] = True
    if "relu_dropout" in upgraded and not upgraded.get("activation_dropout"):
        upgraded["activation_dropout"] = upgraded["relu_dropout"]
    if layout_version(state) <= 2:
        upgraded["no_decoder_final_norm"] = True
    for name, suffix in _SHOWN_BY.items():
        if upgraded.get(name) or f"decoder.layers.0.{suffix}" in state:
            upgraded[name] = f"decoder.layers.0.{suffix}" in state
    for name in ("adaptive_input_cutoff", "adaptive_softmax_cutoff"):
        if upgraded.get(name, ...) is None:
            upgraded[name] = ()
    return upgraded


def upgrade_own_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config fields of this program, which once wrote some that had no effect: LayerNorms stood before."""
    if set(SETTINGS_VERSION) & set(fields):
        return dict(fields)
    return {**fields, "decoder_normalize_before": True, "output_dictionary_size": -1}


def load_state(model: torch.nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copies upgraded weights into ``model``; if some do not fit, returns one line for each and copies nothing."""
    problems = misfits(model, state)
    if not problems:
        model.load_state_dict({**constants(model.state_dict()), **state}, strict=True)
    return problems


def misfits(model: torch.nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Returns one line for each of the upgraded weights that does not fit ``model``."""
    own = model.state_dict()
    fixed = constants(own)
    problems = [f"{name} is missing" for name in own if name not in state and name not in fixed]
    for name, value in state.items():
        if name not in own:
            problems.append(f"{name} is not part of the model")
        elif value.shape != own[name].shape:
            problems.append(f"{name} is {tuple(value.shape)} instead of {tuple(own[name].shape)}")
        elif value.is_floating_point() != own[name].is_floating_point():
            problems.append(f"{name} is of {value.dtype} instead of {own[name].dtype}")
    return problems


def constants(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the entries of a state dict that are no weights: versions and placeholders."""
    return {name: value for name, value in own.items() if name.rsplit(".", 1)[-1] in _CONSTANTS}
