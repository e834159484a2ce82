"""What the lines of training say, by hand."""

import math

import pytest

from fairseq.criterions.perplexity import loss_and_ppl
from fairseq.train import metrics
from fairseq.train.metrics import Meters
from fairseq.train.trainer import UpdateStats


def test_two_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    meters = Meters(start=100.0)
    meters.add(UpdateStats(nats=10.0, num_targets=10, num_rows=2, gradient_norm=3.0, lr=0.1, clipped=True))
    meters.add(UpdateStats(nats=50.0, num_targets=20, num_rows=4, gradient_norm=math.inf, lr=0.1, clipped=False))
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
    assert math.isnan(values.pop("loss"))
    assert math.isnan(values.pop("ppl"))
    assert set(values.values()) == {0.0}


def test_the_loss_is_in_bits_per_target() -> None:
    assert loss_and_ppl(8 * math.log(4), 8) == pytest.approx({"loss": 2.0, "ppl": 4.0})
