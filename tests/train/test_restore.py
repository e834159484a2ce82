"""Settings of an optimizer that are replaced, and which moments fit a parameter."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from fairseq.errors import ConfigError
from fairseq.optim import OPTIMIZERS
from fairseq.train.restore import _check_moments, override_settings

MORE: dict[str, dict[str, Any]] = {"adafactor": {"scale_parameter": True}, "sgd": {"momentum": 0.9}}
# What torch names a setting, and another value of it.
SETTINGS: dict[str, dict[str, Any]] = {
    "nag": {"momentum": 0.5, "weight_decay": 0.5},
    "adam": {"betas": (0.5, 0.6), "eps": 0.5, "weight_decay": 0.5},
    "adamw": {"betas": (0.5, 0.6), "eps": 0.5, "weight_decay": 0.5},
    "sgd": {"momentum": 0.5, "weight_decay": 0.5, "dampening": 0.5},
    "adagrad": {"weight_decay": 0.5, "lr_decay": 0.5, "eps": 0.5},
    "adamax": {"betas": (0.5, 0.6), "eps": 0.5, "weight_decay": 0.5},
    "adadelta": {"rho": 0.5, "eps": 0.5, "weight_decay": 0.5},
    "adafactor": {"beta2_decay": -0.3, "d": 1.5, "eps": (math.sqrt(1e-30), 2.0), "weight_decay": 0.5},
}
# The flags' names of those that are not torch's.
FLAGS = {
    "adam": {"betas": "adam_betas", "eps": "adam_eps"},
    "adamw": {"betas": "adam_betas", "eps": "adam_eps"},
    "adamax": {"betas": "adamax_betas", "eps": "adamax_eps"},
    "adadelta": {"rho": "adadelta_rho", "eps": "adadelta_eps"},
    "adafactor": {"beta2_decay": "decay_rate", "d": "clip_threshold"},
}
CASES = [(name, setting) for name, settings in SETTINGS.items() for setting in settings]


def made(name: str, parameter: nn.Parameter, **settings: Any) -> Optimizer:
    config = OPTIMIZERS.config(name)
    assert config is not None
    return OPTIMIZERS.get(name)([parameter], 0.1, config(**{**MORE.get(name, {}), **settings}))  # type: ignore[no-any-return]


def trained(name: str, overrides: dict[str, Any], **settings: Any) -> torch.Tensor:
    """Returns a parameter after three steps."""
    rng = np.random.default_rng(3)
    parameter = nn.Parameter(torch.tensor(rng.normal(size=(2, 3)), dtype=torch.float32))
    optimizer = made(name, parameter, **settings)
    override_settings(optimizer, overrides)
    for scale in (1, 5, 2):
        parameter.grad = torch.tensor(scale * rng.normal(size=(2, 3)), dtype=torch.float32)
        optimizer.step()
    return parameter.detach()


def test_settings_are_tried_of_every_optimizer() -> None:
    assert set(SETTINGS) == set(OPTIMIZERS.names())
    for name in SETTINGS:
        known = {"lr", "lr_old", "initial_accumulator_value", *SETTINGS[name]}
        group = made(name, nn.Parameter(torch.ones(2))).param_groups[0]
        numbers = {k for k, v in group.items() if isinstance(v, (int, float, tuple)) and not isinstance(v, bool)}
        assert numbers - known == set()


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_an_override_acts_as_its_flag_does(name: str, setting: str) -> None:
    value = SETTINGS[name][setting]
    found = trained(name, {setting: value})
    assert not torch.allclose(found, trained(name, {}), rtol=1e-3)
    flag = FLAGS.get(name, {}).get(setting, setting)
    if flag in OPTIMIZERS.config(name).__dataclass_fields__:  # type: ignore[union-attr]
        assert torch.equal(found, trained(name, {}, **{flag: value}))


@pytest.mark.parametrize("name", SETTINGS)
def test_decay_is_switched_off(name: str) -> None:
    assert torch.equal(trained(name, {"weight_decay": 0.0}, weight_decay=0.5), trained(name, {}))


def test_what_only_a_new_optimizer_reads_is_no_setting() -> None:
    with pytest.raises(ConfigError, match="'initial_accumulator_value'"):
        trained("adagrad", {"initial_accumulator_value": 1.0})


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("name", SETTINGS)
def test_moments_fit_and_damaged_ones_do_not(name: str, shape: tuple[int, ...]) -> None:
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = made(name, parameter)
    parameter.grad = torch.ones(shape)
    optimizer.step()
    _check_moments(optimizer)
    moments = [key for key, moment in optimizer.state[parameter].items() if torch.is_tensor(moment) and moment.dim()]
    assert moments
    for key in moments:
        whole = optimizer.state[parameter][key]
        optimizer.state[parameter][key] = torch.ones((*whole.shape[:-1], whole.shape[-1] + 1))
        with pytest.raises(ValueError, match=f"{key} of shape"):
            _check_moments(optimizer)
        optimizer.state[parameter][key] = whole


def test_a_plugins_optimizer_keeps_what_it_likes() -> None:
    class Rows(torch.optim.SGD):
        """Keeps a number for each row."""

    parameter = nn.Parameter(torch.ones(2, 3))
    optimizer = Rows([parameter], 0.1)
    optimizer.state[parameter]["of_row"] = torch.ones(2)
    _check_moments(optimizer)
