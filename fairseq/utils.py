"""Helpers that plugins written for fairseq call: ``from fairseq import utils``."""

import builtins
import math
from typing import Any

from fairseq.plugins.foreign_names import not_here


def get_perplexity(loss: float | None, round: int | None = 2, base: int = 2) -> float:
    """Returns base ** loss, rounded; 0 of None, infinite where that overflows."""
    if loss is None:
        return 0.0
    try:
        perplexity = float(base**loss)
    except OverflowError:
        return math.inf
    return perplexity if round is None else builtins.round(perplexity, round)


def item(value: Any) -> Any:
    """Returns the number that a tensor of one number holds; a number is returned as it is."""
    return value.item() if hasattr(value, "item") else value


def safe_getattr(obj: Any, k: str, default: Any = None) -> Any:
    """Returns an attribute, also None, or the default where there is none."""
    return getattr(obj, k, default)


def safe_hasattr(obj: Any, k: str) -> bool:
    """Returns whether an object has an attribute that is not None."""
    return getattr(obj, k, None) is not None


def softmax(x: Any, dim: int, onnx_trace: bool = False) -> Any:
    """Returns the softmax of a tensor, in float32."""
    return x.float().softmax(dim)


def log_softmax(x: Any, dim: int, onnx_trace: bool = False) -> Any:
    """Returns the natural logarithm of the softmax of a tensor, in float32."""
    return x.float().log_softmax(dim)


def __getattr__(name: str) -> Any:
    """Says what to use instead of a name of fairseq's."""
    return not_here(__name__, name)
