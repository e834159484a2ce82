"""Naive learning rate schedules: one update after another instead of closed forms."""

import math


def cosine(
    n: int, *, highest: float, lowest: float, first: float, warmup: int, period: float, t: float, shrink: float
) -> float:
    """Walks through the periods one by one."""
    if n < warmup:
        return first + n * (highest - first) / warmup
    past, scale = float(n - warmup), 1.0
    while past >= period:
        past -= period
        period *= t
        scale *= shrink
    return scale * lowest + 0.5 * scale * (highest - lowest) * (1 + math.cos(math.pi * past / period))


def inverse_sqrt(n: int, *, peak: float, first: float, warmup: int) -> float:
    if n < warmup:
        return first + n * (peak - first) / warmup
    return peak * warmup**0.5 / n**0.5


def polynomial(n: int, *, peak: float, end: float, warmup: int, total: int, power: float) -> float:
    if n <= warmup and warmup:
        return peak * max(n, 1) / warmup
    if n >= total:
        return end
    return end + (peak - end) * ((total - n) / (total - warmup)) ** power
