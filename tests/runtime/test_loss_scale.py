"""The loss scale of float16 training: where it begins, and how it falls. The scaler is torch's, here on a CPU."""

import math

import pytest
import torch

from fairseq.config.common import DeviceConfig, LossScaleConfig
from fairseq.errors import ConfigError
from fairseq.runtime.precision import Precision


def precision_of(scale: float, threshold: float | None = None, **flags: float) -> Precision:
    """Returns a precision whose scaler is in force; a CPU would compute in float32."""
    scaling = LossScaleConfig(threshold_loss_scale=threshold)
    precision = Precision(DeviceConfig(fp16=True, **flags), torch.device("cpu"), scaling)
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return precision


def step(precision: Precision, gradient: float) -> tuple[bool, float]:
    """Makes a step of one weight; returns what was said of it, and the scale after it."""
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision.scaler.scale(weight * 1.0).backward()
    assert weight.grad is not None
    weight.grad *= gradient
    precision.scaler.step(optimizer)
    stepped = precision.adapt_loss_scale()
    assert (weight.item() != 0) == stepped
    return stepped, precision.scaler.get_scale()


def test_an_overflow_halves_the_scale_and_makes_no_step() -> None:
    precision = precision_of(16)
    assert step(precision, math.inf) == (False, 8)
    assert step(precision, 1.0) == (True, 8)


def test_the_scale_does_not_fall_below_the_threshold_and_an_overflow_there_is_one_still() -> None:
    precision = precision_of(16, 6.0)
    assert [step(precision, math.inf) for _ in range(3)] == [(False, 8), (False, 6), (False, 6)]
    assert step(precision, 1.0) == (True, 6)


def test_a_scale_that_begins_below_the_threshold_is_left_alone_until_it_falls() -> None:
    precision = precision_of(4, 6.0)
    assert step(precision, 1.0) == (True, 4)
    assert step(precision, math.inf) == (False, 6)


def test_a_scale_below_the_least_stops_the_run() -> None:
    precision = precision_of(1, min_loss_scale=0.75)
    with pytest.raises(ConfigError, match=r"the loss scale fell below --min-loss-scale 0\.75"):
        step(precision, math.inf)


@pytest.mark.parametrize(
    ("flags", "scaling", "scale", "window"),
    [
        ({"fp16": True}, {}, 128, 2000),
        ({"fp16": True, "fp16_init_scale": 4, "fp16_scale_window": 7}, {"amp_init_scale": 2}, 4, 7),
        ({"fp16_init_scale": 4, "fp16_scale_window": 7}, {"amp": True}, 128, 7),
        ({"fp16_init_scale": 4}, {"amp": True, "amp_init_scale": 2, "amp_scale_window": 3}, 2, 3),
    ],
)
def test_where_the_scale_begins(
    flags: dict[str, float], scaling: dict[str, float], scale: float, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, object]] = []
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, **named: made.append(named))
    precision = Precision(DeviceConfig(**flags), torch.device("cuda"), LossScaleConfig(**scaling))
    assert precision.name == "float16"
    assert made == [{"init_scale": scale, "growth_interval": window, "enabled": True}]


def test_two_formats_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--amp and --bf16 exclude each other"):
        Precision(DeviceConfig(bf16=True), torch.device("cpu"), LossScaleConfig(amp=True))
