"""Tokens whose weight λ follows from one feature."""

import numpy as np

from fairseq.knn.weight.features import FEATURES
from fairseq.knn.weight.fit import Tokens

NEAREST = FEATURES.index("nearest")


def make_tokens(seed: int = 0, n: int = 3000, *, informative: bool = True) -> Tokens:
    """Tokens of which the near ones (feature ``nearest`` < 0), if ``informative``, are better known to neighbours."""
    rng = np.random.default_rng(seed)
    features_NF = rng.standard_normal((n, len(FEATURES)))
    near_N = features_NF[:, NEAREST] < 0 if informative else rng.random(n) < 0.5
    p_knn = np.where(near_N, 0.5, 0.01) * rng.random(n) * (rng.random(n) < 0.9)
    with np.errstate(divide="ignore"):
        log_p_knn_N = np.log(p_knn)
    there_N = rng.random(n) < 0.98
    return Tokens(features_NF, there_N, np.log(0.1 * rng.random(n) + 1e-4), log_p_knn_N, np.arange(n) // 17)
