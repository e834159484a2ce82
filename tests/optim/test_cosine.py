"""The cosine schedule: golden values of semantics.md section 7 in both spellings, and a walk through its periods."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.errors import ConfigError
from fairseq.optim import lr_schedules
from fairseq.optim.config import (
    CosineConfig,
    OptimizationConfig,
)
from tests.oracles import schedules

RECIPE: dict[str, Any] = dict(
    warmup_updates=16000, warmup_init_lr=1e-7, t_mult=2, lr_period_updates=270000, lr_shrink=0.75
)
SPELLINGS = {
    "--max-lr 1 --lr .0001 --min-lr 1e-9": (
        CosineConfig(max_lr=1.0, **RECIPE),
        OptimizationConfig(lr=(0.0001,), min_lr=1e-9, max_update=286000),
    ),
    "--lr 1 --min-lr .0001 --stop-min-lr 1e-9": (
        CosineConfig(**RECIPE),
        OptimizationConfig(lr=(1.0,), min_lr=0.0001, stop_min_lr=1e-9, max_update=286000),
    ),
}
GOLDEN = {
    0: 1e-7,
    8000: 0.50000005,
    16000: 1.0,
    100000: 0.7796185,
    151000: 0.50005,
    285999: 0.000100000034,
    286000: 0.75,
}
PRINTED_DIGITS = 1e-7  # golden values were printed with seven digits or more


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("num_updates", GOLDEN)
def test_golden_cosine(spelling: str, num_updates: int) -> None:
    lr_at = lr_schedules.cosine(*SPELLINGS[spelling])
    assert lr_at(num_updates, 1) == pytest.approx(GOLDEN[num_updates], rel=PRINTED_DIGITS)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_stop_rate_in_both_spellings(spelling: str) -> None:
    assert lr_schedules.stop_lr(*SPELLINGS[spelling]) == 1e-9


def test_min_lr_stops_nothing_in_the_newer_spelling() -> None:
    assert lr_schedules.stop_lr(CosineConfig(), OptimizationConfig(lr=(1.0,), min_lr=0.1)) == -1


@given(
    num_updates=st.integers(0, 5000),
    warmup=st.integers(0, 40),
    period=st.integers(2, 300),
    t=st.sampled_from([1, 2]),
    shrink=st.sampled_from([0.5, 1.0]),
)
def test_cosine_equals_a_walk_through_its_periods(
    num_updates: int, warmup: int, period: int, t: int, shrink: float
) -> None:
    config = CosineConfig(
        warmup_updates=warmup, warmup_init_lr=0.01, t_mult=t, lr_period_updates=period, lr_shrink=shrink
    )
    expected = schedules.cosine(
        num_updates, highest=1.0, lowest=0.1, first=0.01, warmup=warmup, period=period, t=t, shrink=shrink
    )
    lr_at = lr_schedules.cosine(config, OptimizationConfig(lr=(1.0,), min_lr=0.1))
    assert lr_at(num_updates, 1) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_updates", [0, 99, 100, 399, 400, 1299, 1300, 4000])
def test_cosine_with_periods_of_triple_length(num_updates: int) -> None:
    config = CosineConfig(t_mult=3, lr_period_updates=100, lr_shrink=0.5)
    expected = schedules.cosine(num_updates, highest=1.0, lowest=0.1, first=0.1, warmup=0, period=100, t=3, shrink=0.5)
    lr_at = lr_schedules.cosine(config, OptimizationConfig(lr=(1.0,), min_lr=0.1))
    assert lr_at(num_updates, 1) == pytest.approx(expected, rel=1e-9)


@given(num_updates=st.integers(0, 20_000), t=st.sampled_from([1.25, 1.5, 3.0, 4.0]))
def test_cosine_with_periods_that_grow_by_a_fraction(num_updates: int, t: float) -> None:
    """Powers of these factors are exact in float64, so that the walk ends each period where the formula does."""
    lr_at = lr_schedules.cosine(
        CosineConfig(t_mult=t, lr_period_updates=256, lr_shrink=0.5), OptimizationConfig(lr=(1.0,), min_lr=0.1)
    )
    expected = schedules.cosine(num_updates, highest=1.0, lowest=0.1, first=0.1, warmup=0, period=256, t=t, shrink=0.5)
    assert lr_at(num_updates, 1) == pytest.approx(expected, rel=1e-9)


def test_the_period_is_max_update_less_the_warm_up_unless_given() -> None:
    lr_at = lr_schedules.cosine(CosineConfig(warmup_updates=20), OptimizationConfig(lr=(1.0,), max_update=120))
    assert lr_at(70, 1) == pytest.approx(0.5)


def test_warm_up_starts_from_the_lowest_rate_unless_given() -> None:
    config = CosineConfig(max_lr=1.0, warmup_updates=10, lr_period_updates=5)
    assert lr_schedules.cosine(config, OptimizationConfig(lr=(0.2,)))(0, 1) == 0.2


@pytest.mark.parametrize(
    ("config", "optimization", "message"),
    [
        (CosineConfig(max_lr=0.1, lr_period_updates=5), OptimizationConfig(lr=(0.2,)), "0.1 < 0.2"),
        (CosineConfig(), OptimizationConfig(), "needs --lr-period-updates, or --max-update"),
        (CosineConfig(warmup_updates=10), OptimizationConfig(max_update=10), "above --warmup-updates"),
    ],
)
def test_cosine_that_cannot_be(config: CosineConfig, optimization: OptimizationConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lr_schedules.cosine(config, optimization)


def test_cosine_is_continuous_at_the_end_of_the_warm_up() -> None:
    lr_at = lr_schedules.cosine(*SPELLINGS["--lr 1 --min-lr .0001 --stop-min-lr 1e-9"])
    assert math.isclose(lr_at(15999, 1), lr_at(16000, 1), rel_tol=1e-4)


def test_a_cosine_falls_to_0_where_no_lowest_rate_is_given() -> None:
    lr_at = lr_schedules.cosine(CosineConfig(lr_period_updates=4), OptimizationConfig(lr=(1.0,)))
    assert [lr_at(n, 1) for n in range(4)] == pytest.approx(
        [1.0, math.cos(math.pi / 8) ** 2, 0.5, math.sin(math.pi / 8) ** 2]
    )


def test_a_constant_cosine_may_be() -> None:
    lr_at = lr_schedules.cosine(CosineConfig(lr_period_updates=4), OptimizationConfig(lr=(1.0,), min_lr=1.0))
    assert lr_at(2, 1) == 1.0
