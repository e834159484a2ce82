"""Naive optimizers over a single number, in float64: the formulas of their papers, step by step."""

import math


def adamw(
    p: float, gradients: list[float], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> float:
    """Loshchilov and Hutter, 2019, algorithm 2, with p ← p·(1 − lr·wd)."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        p -= lr * weight_decay * p
        p -= lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


def sgd(p: float, gradients: list[float], lr: float, momentum: float, weight_decay: float) -> float:
    """The buffer begins as the first gradient; weight decay is added to the gradient."""
    buffer = 0.0
    for g in gradients:
        buffer = momentum * buffer + g + weight_decay * p
        p -= lr * buffer
    return p


def adagrad(p: float, gradients: list[float], lr: float, weight_decay: float) -> float:
    """Duchi et al., 2011, with torch's 1e-10 in the denominator."""
    total = 0.0
    for gradient in gradients:
        g = gradient + weight_decay * p
        total += g * g
        p -= lr * g / (math.sqrt(total) + 1e-10)
    return p
