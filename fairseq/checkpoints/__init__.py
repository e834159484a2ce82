"""Checkpoints: their format, what they must hold, and safetensors."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Returns ``load_checkpoint``, whose module imports torch, once somebody asks for it."""
    if name != "load_checkpoint":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fairseq.checkpoints.format import load_checkpoint

    return load_checkpoint
