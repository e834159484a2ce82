"""Learning rates of all schedules but the cosine: fairseq's own, and small oracles."""

from typing import Any

import pytest

from fairseq.errors import ConfigError
from fairseq.optim import lr_schedules
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
from tests.oracles import schedules


def test_other_schedules_stop_at_stop_min_lr() -> None:
    assert lr_schedules.stop_lr(FixedConfig(), OptimizationConfig(stop_min_lr=0.01)) == 0.01


@pytest.mark.parametrize("num_updates", [0, 1, 99, 100, 101, 400, 10000])
def test_inverse_sqrt(num_updates: int) -> None:
    config = InverseSqrtConfig(warmup_updates=100, warmup_init_lr=0.001)
    lr_at = lr_schedules.inverse_sqrt(config, OptimizationConfig(lr=(0.5,)))
    assert lr_at(num_updates, 1) == pytest.approx(
        schedules.inverse_sqrt(num_updates, peak=0.5, first=0.001, warmup=100)
    )


def test_inverse_sqrt_needs_a_warm_up() -> None:
    with pytest.raises(ConfigError, match="needs --warmup-updates of 1 or more"):
        lr_schedules.inverse_sqrt(InverseSqrtConfig(warmup_updates=0), OptimizationConfig())


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("num_updates", [0, 1, 5, 10, 11, 60, 99, 100, 200])
def test_polynomial_decay(num_updates: int, power: float, warmup: int) -> None:
    config = PolynomialDecayConfig(warmup_updates=warmup, end_learning_rate=0.05, power=power, total_num_update=100)
    lr_at = lr_schedules.polynomial_decay(config, OptimizationConfig(lr=(0.5,)))
    expected = schedules.polynomial(num_updates, peak=0.5, end=0.05, warmup=warmup, total=100, power=power)
    assert lr_at(num_updates, 1) == pytest.approx(expected)


def test_polynomial_decay_needs_an_end() -> None:
    with pytest.raises(ConfigError, match="needs --total-num-update, or --max-update"):
        lr_schedules.polynomial_decay(PolynomialDecayConfig(), OptimizationConfig())


def test_fixed_takes_one_rate_per_epoch_and_then_the_last() -> None:
    lr_at = lr_schedules.fixed(FixedConfig(), OptimizationConfig(lr=(0.4, 0.2)))
    assert [lr_at(7, epoch) for epoch in (1, 2, 3)] == [0.4, 0.2, 0.2]


def test_fixed_warms_up_linearly() -> None:
    lr_at = lr_schedules.fixed(FixedConfig(warmup_updates=4), OptimizationConfig(lr=(0.4,)))
    assert [lr_at(n, 1) for n in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_fixed_anneals_once_an_epoch() -> None:
    lr_at = lr_schedules.fixed(FixedConfig(force_anneal=2, lr_shrink=0.5), OptimizationConfig(lr=(0.4,)))
    assert [lr_at(0, epoch) for epoch in (1, 2, 3)] == pytest.approx([0.4, 0.2, 0.1])


@pytest.mark.parametrize(
    ("config", "first"),
    [
        (CosineConfig(warmup_updates=10, lr_period_updates=5, warmup_init_lr=0.0), 0.0),
        (CosineConfig(warmup_updates=10, lr_period_updates=5, warmup_init_lr=0.1), 0.1),
        (CosineConfig(warmup_updates=10, lr_period_updates=5), 0.2),
        (InverseSqrtConfig(warmup_updates=10, warmup_init_lr=0.0), 0.0),
        (InverseSqrtConfig(warmup_updates=10, warmup_init_lr=0.1), 0.1),
        (InverseSqrtConfig(warmup_updates=10), 0.0),
    ],
)
def test_the_first_rate_of_a_warm_up_is_the_one_that_was_given(
    config: CosineConfig | InverseSqrtConfig, first: float
) -> None:
    """A rate of 0 is one, too. fairseq's default is the lowest rate, which is 0 where there is none."""
    schedule = lr_schedules.cosine if isinstance(config, CosineConfig) else lr_schedules.inverse_sqrt
    lr_at = schedule(config, OptimizationConfig(lr=(1.0,), min_lr=0.2))  # type: ignore[arg-type]
    assert [lr_at(n, 1) for n in (0, 5, 10)] == pytest.approx([first, (1 + first) / 2, 1.0])


@pytest.mark.parametrize(
    ("schedule", "config"),
    [
        (lr_schedules.cosine, CosineConfig(lr_period_updates=5)),
        (lr_schedules.cosine, CosineConfig(lr_period_updates=5, max_lr=2.0)),
        (lr_schedules.inverse_sqrt, InverseSqrtConfig()),
        (lr_schedules.polynomial_decay, PolynomialDecayConfig(total_num_update=5)),
    ],
)
def test_a_list_of_rates_is_for_the_fixed_schedule(schedule: Any, config: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"takes one --lr, but has 3 \(0.5, 0.25, 0.1\); give one, or use --lr-scheduler fixed"
    ):
        schedule(config, OptimizationConfig(lr=(0.5, 0.25, 0.1)))


def test_the_fixed_schedule_anneals_the_last_rate_of_a_list_and_warms_up_into_it() -> None:
    config = FixedConfig(force_anneal=3, lr_shrink=0.5, warmup_updates=2)
    lr_at = lr_schedules.fixed(config, OptimizationConfig(lr=(0.4, 0.2)))
    assert [lr_at(9, epoch) for epoch in (1, 2, 3, 4)] == pytest.approx([0.4, 0.2, 0.1, 0.05])
    assert lr_at(0, 2) == pytest.approx(0.1)


def test_polynomial_decay_ends_with_the_run_unless_given() -> None:
    lr_at = lr_schedules.polynomial_decay(PolynomialDecayConfig(), OptimizationConfig(lr=(1.0,), max_update=10))
    assert [lr_at(n, 1) for n in (0, 5, 9, 10)] == pytest.approx([1.0, 0.5, 0.1, 0.0])


@pytest.mark.parametrize(
    ("config", "expected"), [(CosineConfig(max_lr=1.0), 0.3), (FixedConfig(), 0.3), (None, 0.3), (CosineConfig(), 0.1)]
)
def test_the_greater_bound_stops_a_run(config: Any, expected: float) -> None:
    assert lr_schedules.stop_lr(config, OptimizationConfig(min_lr=0.3, stop_min_lr=0.1)) == expected


# What fairseq 0.12 logs after each update, the first one first: --lr 0.001 --max-lr 0.1 --lr-shrink 0.5.
TRIANGLES = {
    10: [0.0208, 0.0406, 0.0604, 0.0802, 0.1, 0.0802, 0.0604, 0.0406, 0.0208, 0.001, 0.0108, 0.0206, 0.0304, 0.0402,
         0.05, 0.0402, 0.0304, 0.0206, 0.0108, 0.001, 0.0058, 0.0106, 0.0154, 0.0202, 0.025, 0.0202, 0.0154],
    7: [0.034, 0.067, 0.1, 0.067, 0.034, 0.001, 0.0173333, 0.0336667, 0.05, 0.0336667, 0.0173333, 0.001, 0.009, 0.017],
}  # fmt: skip
SHRUNK = [0.0208, 0.0406, 0.0604, 0.0802, 0.1, 0.0802, 0.0604, 0.0406, 0.0208, 0.0005, 0.0104, 0.0203, 0.0302, 0.0401,
          0.05, 0.0401, 0.0302, 0.0203, 0.0104, 0.00025, 0.0052]  # fmt: skip


@pytest.mark.parametrize("period", TRIANGLES)
def test_triangular_equals_fairseqs(period: float) -> None:
    config = TriangularConfig(max_lr=0.1, lr_period_updates=period, lr_shrink=0.5)
    lr_at = lr_schedules.triangular(config, OptimizationConfig(lr=(0.001,)))
    expected = TRIANGLES[int(period)]
    assert [lr_at(n, 1) for n in range(len(expected) + 1)] == pytest.approx([0.001, *expected], rel=1e-5)


def test_triangular_shrinks_its_lowest_rate_if_asked() -> None:
    config = TriangularConfig(max_lr=0.1, lr_period_updates=10, lr_shrink=0.5, shrink_min=True)
    lr_at = lr_schedules.triangular(config, OptimizationConfig(lr=(0.001,)))
    assert [lr_at(n, 1) for n in range(1, len(SHRUNK) + 1)] == pytest.approx(SHRUNK, rel=1e-5)


@pytest.mark.parametrize("highest", [None, 0.1, 0.2])
def test_triangular_needs_a_highest_rate(highest: float | None) -> None:
    with pytest.raises(ConfigError, match=r"--lr-scheduler triangular needs a --max-lr above --lr, 0.2, but has"):
        lr_schedules.triangular(TriangularConfig(max_lr=highest), OptimizationConfig(lr=(0.2,)))


# What fairseq 0.12 logs with --lr 0.1 --lr-deacy-period 10 --lr-decay 0.5 --warmup-updates 5: (updates, rate).
STEPS = [(1, 0.02), (4, 0.08), (5, 0.1), (14, 0.1), (15, 0.05), (24, 0.05), (25, 0.025), (35, 0.0125), (40, 0.0125)]
# … and with --lr 0.1 --warmup-steps 10 --hold-steps 10 --decay-steps 20.
STAGES = [(1, 0.0109), (2, 0.0208), (9, 0.0901), (10, 0.1), (20, 0.1), (21, 0.0794328), (22, 0.0630957), (30, 0.01),
          (39, 0.00125893), (40, 0.001), (60, 0.001)]  # fmt: skip


@pytest.mark.parametrize(("num_updates", "rate"), STEPS)
def test_step_equals_fairseqs(num_updates: int, rate: float) -> None:
    config = StepConfig(lr_deacy_period=10, warmup_updates=5)
    assert lr_schedules.step(config, OptimizationConfig(lr=(0.1,)))(num_updates, 1) == pytest.approx(rate, rel=1e-5)


def test_step_ends_at_the_lowest_rate_and_does_not_stop_there() -> None:
    optimization = OptimizationConfig(lr=(0.1,), min_lr=0.03)
    lr_at = lr_schedules.step(StepConfig(lr_deacy_period=10), optimization)
    assert [lr_at(n, 1) for n in (0, 10, 20, 90)] == pytest.approx([0.1, 0.05, 0.03, 0.03])
    assert lr_schedules.stop_lr(StepConfig(), optimization) == -1


@pytest.mark.parametrize("by_ratio", [False, True])
@pytest.mark.parametrize(("num_updates", "rate"), STAGES)
def test_tri_stage_equals_fairseqs(num_updates: int, rate: float, by_ratio: bool) -> None:
    config = TriStageConfig(phase_ratio=(0.25, 0.25, 0.5)) if by_ratio else TriStageConfig(10, 10, 20)
    lr_at = lr_schedules.tri_stage(config, OptimizationConfig(lr=(0.1,), max_update=40 if by_ratio else 0))
    assert lr_at(num_updates, 1) == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("ratio", [(0.5, 0.5), (0.1, 0.1, 0.1), None])
def test_tri_stage_needs_its_stages(ratio: tuple[float, ...] | None) -> None:
    with pytest.raises(ConfigError, match="--phase-ratio"):
        lr_schedules.tri_stage(TriStageConfig(phase_ratio=ratio), OptimizationConfig(lr=(0.1,), max_update=40))
