"""A small datastore with clusters, as contexts have, and values that do not fit int16."""

import numpy as np

ROWS, WIDTH, VOCABULARY = 1500, 16, 50000


def clustered_keys(rows: int = ROWS, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, width)) * 3
    return (centres[rng.integers(0, 20, rows)] + rng.standard_normal((rows, width))).astype(np.float32)


def values_of(rows: int = ROWS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(39990, 40010, rows)  # above int16
