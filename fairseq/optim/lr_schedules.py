"""Learning rate schedules, as pure functions of the number of updates made and the epoch (from 1).

One that looks at validations as well has a method ``look_at(history)`` (``plateau.py``).
"""

import math
from collections.abc import Callable, Sequence

from fairseq.errors import ConfigError
from fairseq.optim.config import (
    CosineConfig,
    FixedConfig,
    InverseSqrtConfig,
    OptimizationConfig,
    PolynomialDecayConfig,
    StepConfig,
    TriangularConfig,
    TriStageConfig,
)

Schedule = Callable[[int, int], float]


def stop_lr(config: object, optimization: OptimizationConfig) -> float:
    """Returns the learning rate at which training stops: ``--stop-min-lr``, or ``--min-lr`` as in 2019.

    Only the cosine schedule in its newer spelling, and the step schedule, have another use for ``--min-lr``.
    """
    if (isinstance(config, CosineConfig) and config.max_lr is None) or isinstance(config, StepConfig):
        return optimization.stop_min_lr
    return max(optimization.min_lr, optimization.stop_min_lr)


def look_at(schedule: Schedule, history: Sequence[tuple[int, float]]) -> None:
    """Shows a schedule the validations at ends of epochs, (updates made, metric) each, if it looks at them."""
    if hasattr(schedule, "look_at"):
        schedule.look_at(history)


def one_rate(name: str, optimization: OptimizationConfig) -> float:
    """Returns ``--lr`` of a schedule that takes one number."""
    if len(optimization.lr) > 1:
        given = ", ".join(map(str, optimization.lr))
        raise ConfigError(
            f"--lr-scheduler {name} takes one --lr, but has {len(optimization.lr)} ({given}); give one, or use"
            " --lr-scheduler fixed, which takes one for each epoch"
        )
    return optimization.lr[0]


def cosine(config: CosineConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns warm restarts: a linear rise to MAX, then periods in each of which the rate falls from MAX to MIN.

    Period i is m^i times as long as the first, its rates are shrink^i times as high; with f, the share of it that is
    past (Loshchilov and Hutter, 2017, equation 5, where ½(1 + cos πf) = cos²(πf/2)):

        lr = shrink^i · (MIN + (MAX − MIN) · cos²(πf/2))
    """
    lr = one_rate("cosine", optimization)
    highest, lowest = (lr, max(optimization.min_lr, 0.0)) if config.max_lr is None else (config.max_lr, lr)
    if highest < lowest:
        raise ConfigError(f"--lr-scheduler cosine needs a highest rate above its lowest, but has {highest} < {lowest}")
    warmup = config.warmup_updates
    first_period = config.lr_period_updates if config.lr_period_updates > 0 else optimization.max_update - warmup
    if first_period <= 0:
        raise ConfigError("--lr-scheduler cosine needs --lr-period-updates, or --max-update above --warmup-updates")

    def annealed(num_updates: int) -> float:
        period, past = _period_at((num_updates - warmup) / first_period, config.t_mult - 1)
        height = math.cos(math.pi / 2 * past) ** 2
        return config.lr_shrink**period * (lowest + (highest - lowest) * height)

    return _after_warm_up(warmup, config.warmup_init_lr if config.warmup_init_lr >= 0 else lowest, highest, annealed)


def _period_at(time: float, growth: float) -> tuple[int, float]:
    """Returns the number of the period at a time, from 0, and the fraction of it that is past.

    The unit of time is the first period. Each period is 1 + g times as long as the one before, so that those before
    period i are a geometric sum, ((1 + g)^i − 1) / g, and what solves it for i is ln(1 + g·time) / ln(1 + g).
    """
    if not growth:
        return math.floor(time), time % 1
    # At the start of a period the quotient is a whole number; the smallest part more keeps it from rounding down.
    number = math.floor(math.log1p(growth * time) / math.log1p(growth) + 1e-9)
    return number, ((1 + growth * time) / (1 + growth) ** number - 1) / growth


def _after_warm_up(warmup: int, first: float, peak: float, decay: Callable[[int], float]) -> Schedule:
    """Returns a linear rise from ``first`` to ``peak``, followed by ``decay`` of the number of updates."""

    def lr_at(num_updates: int, epoch: int) -> float:
        if num_updates < warmup:
            return first + num_updates * (peak - first) / warmup
        return decay(num_updates)

    return lr_at


def inverse_sqrt(config: InverseSqrtConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns warm-up to the learning rate, then decay with 1/√updates (Vaswani et al., 2017, section 5.3)."""
    peak, warmup = one_rate("inverse_sqrt", optimization), config.warmup_updates
    if warmup < 1:
        raise ConfigError("--lr-scheduler inverse_sqrt needs --warmup-updates of 1 or more")
    return _after_warm_up(warmup, max(config.warmup_init_lr, 0.0), peak, lambda n: peak * math.sqrt(warmup / n))


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
    peak, end, warmup = one_rate("polynomial_decay", optimization), config.end_learning_rate, config.warmup_updates
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


def triangular(config: TriangularConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns a rate that rises in a line from LR to MAX and falls back, period by period (Smith, 2017).

    Period i has MAX · shrink^i, and with ``--shrink-min`` LR · shrink^i.
    """
    lowest, highest = one_rate("triangular", optimization), config.max_lr
    if highest is None or highest <= lowest:
        raise ConfigError(f"--lr-scheduler triangular needs a --max-lr above --lr, {lowest}, but has {highest}")
    half = config.lr_period_updates // 2

    def lr_at(num_updates: int, epoch: int) -> float:
        period = math.floor(num_updates / (2 * half))
        shrunk = config.lr_shrink**period
        base = lowest * shrunk if config.shrink_min else lowest
        height = 1 - abs(num_updates / half - 2 * period - 1)
        return base + (highest * shrunk - base) * max(height, 0.0)

    return lr_at


def step(config: StepConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns warm-up, then a fall by one factor after every period, down to --min-lr."""
    peak, warmup = one_rate("step", optimization), config.warmup_updates

    def lr_at(num_updates: int) -> float:
        falls = (num_updates - warmup) // config.lr_deacy_period
        return max(peak * config.lr_decay**falls, optimization.min_lr)

    return _after_warm_up(warmup, max(config.warmup_init_lr, 0.0), peak, lr_at)


def tri_stage(config: TriStageConfig, optimization: OptimizationConfig) -> Schedule:
    """Returns a rise in a line, a level stretch, and an exponential fall to a last rate (Park et al., 2019)."""
    peak = one_rate("tri_stage", optimization)
    stages = (config.warmup_steps, config.hold_steps, config.decay_steps)
    if config.phase_ratio is not None:
        if len(config.phase_ratio) != 3 or abs(sum(config.phase_ratio) - 1) > 1e-9 or optimization.max_update < 1:
            raise ConfigError(
                f"--phase-ratio must be three shares of --max-update that sum to 1, but is {config.phase_ratio} with"
                f" --max-update {optimization.max_update}"
            )
        stages = tuple(int(optimization.max_update * share) for share in config.phase_ratio)  # type: ignore[assignment]
    rise, level, fall = stages
    if rise + level + fall < 1:
        raise ConfigError(
            "--lr-scheduler tri_stage needs --phase-ratio, or --warmup-steps, --hold-steps, --decay-steps"
        )

    def lr_at(num_updates: int) -> float:
        past = num_updates - rise - level
        share = min(max(past / fall, 0.0), 1.0) if fall else float(past >= 0)
        return float(peak * config.final_lr_scale**share)

    return _after_warm_up(rise, peak * config.init_lr_scale, peak, lr_at)
