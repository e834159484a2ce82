"""Naive causal multi-head attention in float64."""

from collections.abc import Container, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def attention(x_TC: Floats, weights: Mapping[str, Floats], num_heads: int, hidden: Container[int] = ()) -> Floats:
    """Every query against every key up to its own column, one head at a time; weights by checkpoint key name.

    Hidden columns are no keys; a query that has no other has its own.
    """
    q, k, v = (x_TC @ weights[f"{name}_proj.weight"].T + weights[f"{name}_proj.bias"] for name in "qkv")
    width = x_TC.shape[1] // num_heads
    out = np.zeros_like(x_TC)
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        for t in range(len(x_TC)):
            seen = [s for s in range(t + 1) if s not in hidden] or [t]
            score = np.array([q[t, part] @ k[s, part] / np.sqrt(width) for s in seen])
            share = np.exp(score - score.max())
            share /= share.sum()
            for i, s in enumerate(seen):
                out[t, part] += share[i] * v[s, part]
    return out @ weights["out_proj.weight"].T + weights["out_proj.bias"]
