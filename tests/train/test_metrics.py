"""What the lines of training say, by hand."""

import math
from typing import Any

import pytest

from fairseq.criterions.totals import Sums, Totals
from fairseq.errors import ConfigError
from fairseq.train import metrics
from fairseq.train.metrics import Meters, check_metric
from fairseq.train.trainer import UpdateStats


def update(nats: float, num_targets: int, **more: Any) -> UpdateStats:
    sums = Sums(nats=nats, sample_size=num_targets, num_targets=num_targets)
    return UpdateStats(nats, num_targets, readings=Totals(sums).readings(None), **more)


def test_two_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    meters = Meters(start=100.0)
    meters.add(update(nats=10.0, num_targets=10, num_rows=2, gradient_norm=3.0, lr=0.1, clipped=True))
    meters.add(update(nats=50.0, num_targets=20, num_rows=4, gradient_norm=math.inf, lr=0.1, clipped=False))
    monkeypatch.setattr(metrics.time, "monotonic", lambda: 104.0)
    assert meters.values() == pytest.approx(
        {
            "loss": 2 / math.log(2),
            "ppl": math.e**2,
            "wps": 30 / 4,
            "ups": 2 / 4,
            "wpb": 15,
            "bsz": 3,
            "gnorm": 3 / 2,
            "clip": 50,
        }
    )


def test_no_updates() -> None:
    values = Meters().values()
    assert set(values.values()) == {0.0}


def test_the_loss_is_in_bits_per_target() -> None:
    totals = Totals(Sums(nats=8 * math.log(4), sample_size=8, nll=8 * math.log(4), num_targets=8))
    assert totals.readings(None).values() == pytest.approx({"loss": 2.0, "ppl": 4.0})


def test_the_perplexity_is_that_of_the_likelihood() -> None:
    sums = Sums(nats=30.0, sample_size=3, nll=8 * math.log(4), num_with_nll=1, num_targets=8)
    values = Totals(sums).readings(None).values()
    assert values == pytest.approx({"loss": 10 / math.log(2), "nll_loss": 2.0, "ppl": 4.0})


def test_a_metric_that_is_not_told_is_named() -> None:
    readings = Totals(Sums(nats=1.0, sample_size=1, num_targets=1)).readings(None).values()
    check_metric("ppl", readings)
    check_metric("pll", readings, may_come=True)
    with pytest.raises(ConfigError, match=r"--best-checkpoint-metric must be one of loss, ppl, which .* but is 'pll'"):
        check_metric("pll", readings)
