"""Naive oracle for sweeps with caches: float64, one token at a time."""

import math

import numpy as np

from tests.oracles.cache import mixture
from tests.oracles.knn import knn_probability


def loss_of_mixture(columns, cache, lmbda, cache_lmbda, temperature):
    """Returns bits per token of a saved retrieval's mixture, with all of its neighbours and one of its caches."""
    total = 0.0
    num_tokens = len(columns["lm_log_prob"])
    for n in range(num_tokens):
        values = np.where(columns["hits"][n], 1, 0)  # the target's value is 1
        p_knn = knn_probability(columns["distances"][n], columns["ids"][n], values, 1, temperature)
        p_lm, p_cache = math.exp(columns["lm_log_prob"][n]), math.exp(columns["cache_log_prob"][n, cache])
        # 0.7 + 0.3 is 1, and leaves the model nothing, though 1 − 0.7 − 0.3 is not 0 in binary digits.
        p = mixture(p_lm if lmbda + cache_lmbda < 0.999 else 0.0, p_knn, p_cache, lmbda, cache_lmbda)
        total += math.log2(p) if p > 0 else -math.inf
    return -total / num_tokens
