"""Where a model of transformers has its layers, and in them what reads the vectors that can be keys.

They are found by the shape of the tree of modules, not by a list of families.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairseq.errors import CheckpointError

_LAYERS = ("layers", "h", "blocks")
_FEED_FORWARD = ("mlp", "feed_forward", "ffn", "mlp_block", "block_sparse_moe", "moe", "fc1", "mixer")
# What mixes the tokens of a row, attention or what a hybrid model has in its place.
_ATTENTION = (
    "self_attn",
    "attn",
    "attention",
    "self_attention",
    "multi_head_attention",
    "linear_attn",
    "temporal_block",
    "mamba",
    "conv",
    "mlstm_layer",
)


def family_of(model: Any) -> str:
    """Returns the name of a model's family, for messages."""
    return str(getattr(model.config, "model_type", None) or type(model).__name__)


def body_of(model: Any) -> nn.Module:
    """Returns the module whose ``last_hidden_state`` the head takes.

    Raises:
        CheckpointError: the model has no such part.
    """
    body: nn.Module = model.base_model
    if body is model:
        raise CheckpointError(
            f"a {family_of(model)} model ({type(model).__name__}) has no part that is its layers without the head"
            " (base_model), and cannot be used"
        )
    return body


def layers_of(model: Any) -> list[nn.Module]:
    """Returns the layers, the first one first.

    Raises:
        CheckpointError: none are found.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    root = decoder if isinstance(decoder, nn.Module) and decoder is not model else body_of(model)
    lists = [(name, part) for name, part in root.named_modules() if isinstance(part, nn.ModuleList) and len(part)]
    if not lists:
        raise CheckpointError(f"a {family_of(model)} model ({type(model).__name__}) has no list of layers")
    depth = min(name.count(".") for name, _ in lists)
    outer = [(name.rpartition(".")[2], part) for name, part in lists if name.count(".") == depth]
    named = [part for name, part in outer if name in _LAYERS]
    longest = sorted((part for _, part in outer), key=lambda part: -len(part))
    return list((named or longest)[0])


def feed_forward_of(layer: nn.Module) -> nn.Module:
    """Returns a layer's feed-forward network; raises CheckpointError where none is found."""
    return _part(layer, _FEED_FORWARD, ("mlp", "feedforward", "moe"), "feed-forward network")


def attention_of(layer: nn.Module) -> nn.Module:
    """Returns a layer's attention; raises CheckpointError where none is found."""
    return _part(layer, _ATTENTION, ("attention",), "attention")


def _part(layer: nn.Module, names: Sequence[str], in_class: Sequence[str], what: str) -> nn.Module:
    """Returns the part of a layer with one of the usual names, or else of a class that is named so."""
    children = {name: child for name, child in layer.named_children() if not isinstance(child, nn.Identity)}
    for name in names:
        if name in children:
            return children[name]
    for child in children.values():
        if any(word in type(child).__name__.lower() for word in in_class):
            return child
    raise CheckpointError(
        f"a layer of this model ({type(layer).__name__}: {', '.join(children)}) has no {what} that is known by its"
        " name; give another --knn-keytype"
    )


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Returns the hidden state that a module was called with; None where it was called without one."""
    given = [*args, kwargs.get("hidden_states"), *kwargs.values()]
    return next((value for value in given if isinstance(value, Tensor) and value.is_floating_point()), None)


def residual_reader(model: Any, layer: nn.Module, probe_BT: Tensor) -> nn.Module:
    """Returns the module that reads the residual stream for the feed-forward network: the norm in front of it.

    That is the module whose output is the feed-forward network's input, in a run on the ids ``probe_BT``. Where the
    network reads the stream itself, as in a model that norms afterwards, it is the network.

    Raises:
        CheckpointError: what stands in front of the network is no norm.
    """
    network, calls = feed_forward_of(layer), list[tuple[nn.Module, Tensor, Tensor]]()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        read, made = first_tensor(args, kwargs), output[0] if isinstance(output, (tuple, list)) else output
        if read is not None and isinstance(made, Tensor):
            calls.append((module, read, made))

    handles = [part.register_forward_hook(note, with_kwargs=True) for part in layer.modules() if part is not layer]
    try:
        with torch.no_grad():
            body_of(model)(probe_BT, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    # All these tensors are still there, so that an address is one tensor's. Dropout and such hand theirs on.
    address = next((read.data_ptr() for module, read, _ in calls if module is network), None)
    makers = [
        module
        for module, read, made in calls
        if made.data_ptr() == address != read.data_ptr() and module is not network
    ]
    if not makers:
        return network
    if "norm" not in type(makers[-1]).__name__.lower():
        raise CheckpointError(
            f"what stands in front of the feed-forward network of {type(layer).__name__} is a"
            f" {type(makers[-1]).__name__}, not a norm, so that the residual stream is not known; give another"
            " --knn-keytype"
        )
    return makers[-1]
