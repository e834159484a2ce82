"""Naive oracle for the continuous cache: float64, one pair of positions at a time."""

import numpy as np


def cache_distribution(vectors_NC, target_N, position, size, theta, vocabulary_size):
    """Returns p_cache over the vocabulary at a position of the stream, or None where nothing came before."""
    weights = []
    for i in range(max(position - size, 0), position):
        product = sum(float(a) * float(b) for a, b in zip(vectors_NC[position], vectors_NC[i], strict=True))
        weights.append((int(target_N[i]), theta * product))
    if not weights:
        return None
    highest = max(score for _, score in weights)
    p_V = np.zeros(vocabulary_size)
    for target, score in weights:
        p_V[target] += np.exp(score - highest)
    return p_V / p_V.sum()


def mixture(p_lm_V, p_knn_V, p_cache_V, lmbda, cache_lmbda):
    """Returns (1 − λ − μ) p_LM + λ p_kNN + μ p_cache; an empty cache leaves its weight to the language model."""
    if p_cache_V is None:
        return (1 - lmbda) * p_lm_V + lmbda * p_knn_V
    return (1 - lmbda - cache_lmbda) * p_lm_V + lmbda * p_knn_V + cache_lmbda * p_cache_V
