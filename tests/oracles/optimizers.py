"""Naive optimizers over a single number, in float64: the formulas of their papers, step by step."""

import math

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


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


def adamax(
    p: float, gradients: list[float], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> float:
    """Kingma and Ba, 2015, algorithm 2, with eps added to the gradient's size, and p ← p·(1 − lr·wd)."""
    m = largest = 0.0
    for t, g in enumerate(gradients, start=1):
        p -= lr * weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        largest = max(betas[1] * largest, abs(g) + eps)
        p -= lr / (1 - betas[0] ** t) * m / largest
    return p


def adadelta(p: float, gradients: list[float], lr: float, rho: float, eps: float, weight_decay: float) -> float:
    """Zeiler, 2012, algorithm 1, with a rate; weight decay is added to the gradient."""
    squares = steps = 0.0
    for gradient in gradients:
        g = gradient + weight_decay * p
        squares = rho * squares + (1 - rho) * g * g
        step = math.sqrt(steps + eps) / math.sqrt(squares + eps) * g
        steps = rho * steps + (1 - rho) * step * step
        p -= lr * step
    return p


def adafactor(
    p: Matrix, gradients: list[Matrix], lr: float, eps: tuple[float, float], d: float, decay: float, weight_decay: float
) -> Matrix:
    """Shazeer and Stern, 2018, algorithm 4, of a matrix: rate min(lr, 1/√t), scaled by the root mean square of p."""
    rows, columns = np.zeros((p.shape[0], 1)), np.zeros((1, p.shape[1]))
    for t, g in enumerate(gradients, start=1):
        beta = 1 - float(t) ** decay
        rows = beta * rows + (1 - beta) * (g * g).mean(1, keepdims=True)
        columns = beta * columns + (1 - beta) * (g * g).mean(0, keepdims=True)
        update = g / np.sqrt(np.maximum(rows @ columns / rows.mean(), eps[0]))
        rate = min(lr, 1 / math.sqrt(t)) * max(eps[1], float(np.sqrt((p * p).mean())))
        p = p * (1 - lr * weight_decay)
        p = p - rate * update / max(1.0, float(np.sqrt((update * update).mean())) / d)
    return p
