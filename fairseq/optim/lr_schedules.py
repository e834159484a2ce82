"""Learning rate schedules, as pure functions of the number of updates made and the epoch (from 1)."""

import math
from collections.abc import Callable

from fairseq.errors import ConfigError
from fairseq.optim.config import (
    CosineConfig,
    FixedConfig,
    InverseSqrtConfig,
    OptimizationConfig,
    PolynomialDecayConfig,
)

Schedule = Callable[[int, int], float]


def stop_lr(config: object, optimization: OptimizationConfig) -> float:
    """Returns the learning rate at which training stops: ``--stop-min-lr``, or ``--min-lr`` as in 2019.

    Only the cosine schedule in its newer spelling has another use for ``--min-lr``.
    """
    if isinstance(config, CosineConfig) and config.max_lr is None:
        return optimization.stop_min_lr
    return max(optimization.min_lr, optimization.stop_min_lr)


def cosine(config: CosineConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns warm-up, then cosine periods from MAX down to MIN, each longer by t and lower by the shrink factor.

    With c updates since the warm-up, period P, t = ``t_mult``; in period i, of tⁱ·P updates, of which t_curr are past:

        lr = shrinkⁱ · (MIN + ½ (MAX − MIN) (1 + cos(π · t_curr / (tⁱ P))))

    Source: Loshchilov and Hutter, 2017, equation 5.
    """
    if config.max_lr is not None:
        highest, lowest = config.max_lr, optimization.lr[0]
    else:
        highest, lowest = optimization.lr[0], max(optimization.min_lr, 0.0)
    if highest < lowest:
        raise ConfigError(f"--lr-scheduler cosine needs a highest rate above its lowest, but has {highest} < {lowest}")
    warmup = config.warmup_updates
    first = config.warmup_init_lr if config.warmup_init_lr >= 0 else lowest
    period = config.lr_period_updates if config.lr_period_updates > 0 else optimization.max_update - warmup
    if period <= 0:
        raise ConfigError("--lr-scheduler cosine needs --lr-period-updates, or --max-update above --warmup-updates")
    t = config.t_mult

    def lr_at(num_updates: int, epoch: int) -> float:
        if num_updates < warmup:
            return first + num_updates * (highest - first) / warmup
        since = num_updates - warmup
        if t != 1:
            # The epsilon keeps the end of a period, where the logarithm is a whole number, from rounding down.
            i = math.floor(math.log(1 - since / period * (1 - t), t) + 1e-9)
            length, past = t**i * period, since - (1 - t**i) / (1 - t) * period
        else:
            i = math.floor(since / period)
            length, past = period, since - i * period
        shrink = config.lr_shrink**i
        return shrink * (lowest + 0.5 * (highest - lowest) * (1 + math.cos(math.pi * past / length)))

    return lr_at


def inverse_sqrt(config: InverseSqrtConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns warm-up to the learning rate, then decay with 1/√updates (Vaswani et al., 2017, section 5.3)."""
    peak, warmup = optimization.lr[0], config.warmup_updates
    if warmup < 1:
        raise ConfigError("--lr-scheduler inverse_sqrt needs --warmup-updates of 1 or more")
    first = max(config.warmup_init_lr, 0.0)

    def lr_at(num_updates: int, epoch: int) -> float:
        if num_updates < warmup:
            return first + num_updates * (peak - first) / warmup
        return peak * math.sqrt(warmup / num_updates)

    return lr_at


def fixed(config: FixedConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns one rate per epoch, after a linear warm-up; ``--force-anneal`` shrinks the last one every epoch."""
    rates, warmup = optimization.lr, config.warmup_updates

    def lr_at(num_updates: int, epoch: int) -> float:
        rate = rates[min(epoch, len(rates)) - 1]
        if config.force_anneal is not None and epoch >= config.force_anneal:
            rate = rates[-1] * config.lr_shrink ** (epoch + 1 - config.force_anneal)
        return rate * min((num_updates + 1) / warmup, 1.0) if warmup else rate

    return lr_at


def polynomial_decay(config: PolynomialDecayConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns warm-up, then lr = (LR − END) · (1 − share of the updates past)^power + END."""
    peak, end, warmup = optimization.lr[0], config.end_learning_rate, config.warmup_updates
    total = config.total_num_update or optimization.max_update
    if total <= warmup:
        raise ConfigError(
            "--lr-scheduler polynomial_decay needs --total-num-update, or --max-update, above --warmup-updates"
        )

    def lr_at(num_updates: int, epoch: int) -> float:
        if num_updates <= warmup and warmup:
            return peak * max(num_updates, 1) / warmup
        if num_updates >= total:
            return end
        left = 1 - (num_updates - warmup) / (total - warmup)
        return float((peak - end) * left**config.power + end)

    return lr_at
