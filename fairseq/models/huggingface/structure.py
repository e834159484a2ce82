"""Where a model of transformers has its layers, and in them the vectors that can be keys."""

from typing import Any

from torch import nn

from fairseq.errors import CheckpointError

_LAYERS = ("layers", "h", "blocks")
_FEED_FORWARD = ("mlp", "feed_forward", "ffn", "fc1", "mixer")


def body_of(model: Any) -> nn.Module:
    """Returns the module whose ``last_hidden_state`` the head takes."""
    body: nn.Module = model.base_model
    return body


def layers_of(model: Any) -> list[nn.Module]:
    """Returns the layers, the first one first; raises CheckpointError where none are found."""
    base = model.base_model
    inner = getattr(base, "decoder", base)
    found = next((getattr(inner, name) for name in _LAYERS if hasattr(inner, name)), None)
    if found is None:
        raise CheckpointError(f"{type(model).__name__}: no list of layers is found ({', '.join(_LAYERS)})")
    return list(found)


def feed_forward_of(layer: nn.Module) -> nn.Module:
    """Returns a layer's feed-forward network; raises CheckpointError where none is found."""
    found = next((getattr(layer, name) for name in _FEED_FORWARD if hasattr(layer, name)), None)
    if found is None:
        raise CheckpointError(f"{type(layer).__name__}: no feed-forward network is found ({', '.join(_FEED_FORWARD)})")
    module: nn.Module = found
    return module
