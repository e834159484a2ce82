"""Naive adaptive input and adaptive softmax in float64, read from a state dict by its key names."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def log_softmax(logits: Floats) -> Floats:
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def embed(state: Mapping[str, Floats], ids: list[int], edges: list[int]) -> Floats:
    """One vector per id; band i holds the ids from edges[i] up to edges[i + 1]."""
    out = []
    for token in ids:
        band = max(i for i, edge in enumerate(edges[:-1]) if edge <= token)
        vector = state[f"embeddings.{band}.0.weight"][token - edges[band]]
        out.append(state[f"embeddings.{band}.1.weight"] @ vector)
    return np.array(out)


def all_log_probs(state: Mapping[str, Floats], x_C: Floats, edges: list[int], *, tied_projections: bool) -> Floats:
    """log p of every word of the vocabulary for one feature vector."""
    if "head.weight" in state:
        logits = state["head.weight"] @ x_C
    elif "head.word_proj.weight" in state:
        logits = np.concatenate([state["head.word_proj.weight"] @ x_C, state["head.class_proj.weight"] @ x_C])
    else:
        words = state["head.word_proj.1.weight"] @ (state["head.word_proj.0.weight"] @ x_C)
        logits = np.concatenate([words, state["head.class_proj.weight"] @ x_C])
    head = log_softmax(logits)
    pieces = [head[: edges[1]]]
    for i in range(len(edges) - 2):
        projection = state[f"tail.{i}.0.weight"]
        narrow = (projection.T if tied_projections else projection) @ x_C
        pieces.append(head[edges[1] + i] + log_softmax(state[f"tail.{i}.2.weight"] @ narrow))
    return np.concatenate(pieces)
