"""Schedule reduce_lr_on_plateau: rates that fairseq 0.12 had after the validations that it made."""

import math

import pytest

from fairseq.errors import ConfigError
from fairseq.optim.config import OptimizationConfig, PlateauConfig
from fairseq.optim.lr_schedules import look_at
from fairseq.optim.plateau import reduce_lr_on_plateau

# fairseq's runs of 17 updates an epoch, --lr 0.001 --lr-threshold 0.9 --lr-shrink 0.5: flags, the metric at the end of
# each epoch (None: not validated), and the rate of the last update of each.
RUNS = {
    "patience 0": (PlateauConfig(), [7.957, 7.839, 7.78, 7.75], [1, 1, 0.5, 0.25]),
    "warm-up over before": (PlateauConfig(warmup_updates=16), [8.016, 7.898, 7.839, 7.81], [1, 1, 0.5, 0.25]),
    "warm-up over just then": (PlateauConfig(warmup_updates=17), [8.019, 7.901, 7.784, 7.724], [1, 1, 1, 0.5]),
    "patience 1": (
        PlateauConfig(warmup_updates=20, warmup_init_lr=0.0001, lr_patience=1),
        [8.02, 7.904, 7.787, 7.668, 7.608, 7.548],
        [0.865, 1, 1, 1, 0.5, 0.5],
    ),
    "every second epoch": (
        PlateauConfig(),
        [None, 7.839, None, 7.601, None, 7.48, None],
        [1, 1, 1, 1, 0.5, 0.5, 0.25],
    ),
    "the largest is the best": (
        PlateauConfig(maximize_best_checkpoint_metric=True),
        [7.957, 7.839, 7.78, 7.75],
        [1, 1, 0.5, 0.25],
    ),
}


def made(config: PlateauConfig, maximize: bool = False, **more: float) -> PlateauConfig:
    values = {**vars(config), "lr_threshold": 0.9, "lr_shrink": 0.5, **more}
    values["maximize_best_checkpoint_metric"] = config.maximize_best_checkpoint_metric is True or maximize
    return PlateauConfig(**values)


@pytest.mark.parametrize("run", RUNS)
def test_rates_equal_fairseqs(run: str) -> None:
    config, metrics, expected = RUNS[run]
    schedule, history, found = reduce_lr_on_plateau(made(config), OptimizationConfig(lr=(0.001,))), [], []
    for epoch, metric in enumerate(metrics, 1):
        found.append(schedule(17 * epoch, epoch))  # fairseq logs the rate after the update
        if metric is not None:
            history.append((17 * epoch, metric))
            look_at(schedule, history)
    assert found == pytest.approx([0.001 * rate for rate in expected])


def test_the_warm_up_rises_in_a_line_from_0_unless_told() -> None:
    optimization = OptimizationConfig(lr=(0.4,))
    lr_at = reduce_lr_on_plateau(made(PlateauConfig(warmup_updates=4)), optimization)
    assert [lr_at(n, 1) for n in range(6)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])
    lr_at = reduce_lr_on_plateau(made(PlateauConfig(warmup_updates=4, warmup_init_lr=0.2)), optimization)
    assert [lr_at(n, 1) for n in range(6)] == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4, 0.4])


def test_the_history_is_all_that_counts() -> None:
    """However often it is looked at."""
    history = [(10 * n, 5.0) for n in range(1, 6)]
    once, often = (reduce_lr_on_plateau(made(PlateauConfig()), OptimizationConfig(lr=(1.0,))) for _ in range(2))
    look_at(once, history)
    for n in range(len(history) + 1):
        look_at(often, history[:n])
        look_at(often, history[:n])
    assert once(60, 7) == often(60, 7) == 0.5**4


@pytest.mark.parametrize(("metric", "rate"), [(4.9, 0.1), (4.94, 0.01), (math.nan, 0.01)])
def test_the_threshold_is_a_share_of_the_best(metric: float, rate: float) -> None:
    """Of 5.0 and 2 %: better is below 4.9, so that 4.9 itself is not."""
    config = made(PlateauConfig(), lr_threshold=0.02, lr_shrink=0.1)
    schedule = reduce_lr_on_plateau(config, OptimizationConfig(lr=(0.1,)))
    look_at(schedule, [(1, 5.0), (2, metric - 1e-6 if metric == 4.9 else metric)])
    assert schedule(3, 3) == pytest.approx(rate)


def test_it_takes_one_rate() -> None:
    with pytest.raises(ConfigError, match="--lr-scheduler reduce_lr_on_plateau takes one --lr"):
        reduce_lr_on_plateau(made(PlateauConfig()), OptimizationConfig(lr=(0.5, 0.1)))
