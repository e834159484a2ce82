"""Golden steps of semantics.md section 7, and random ones against a loop over single numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fairseq.errors import ConfigError
from fairseq.optim import OPTIMIZERS
from fairseq.optim.config import (
    AdadeltaConfig,
    AdafactorConfig,
    AdagradConfig,
    AdamaxConfig,
    AdamConfig,
    NAGConfig,
    SGDConfig,
)
from fairseq.optim.optimizers import NAG
from tests.oracles import optimizers as oracle
from tests.oracles.nag import nag

GOLDEN_ATOL = 1e-6  # float32 of values of order 1
RANDOM_RTOL = 1e-5  # twenty steps in float32


def step(optimizer: NAG, parameter: nn.Parameter, lr: float, gradient: list[float]) -> None:
    parameter.grad = torch.tensor(gradient)
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()


def test_golden_steps() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = NAG([parameter], lr=0.1, momentum=0.99, weight_decay=0.0)
    buffer = optimizer.state[parameter]
    step(optimizer, parameter, 0.1, [0.5, 1.0])
    assert parameter.tolist() == pytest.approx([0.9005, -2.199], abs=GOLDEN_ATOL)
    assert buffer["momentum_buffer"].tolist() == pytest.approx([-0.05, -0.1], abs=GOLDEN_ATOL)
    step(optimizer, parameter, 0.2, [0.1, -0.3])
    assert parameter.tolist() == pytest.approx([0.76269, -2.27562], abs=GOLDEN_ATOL)
    assert buffer["momentum_buffer"].tolist() == pytest.approx([-0.119, -0.138], abs=GOLDEN_ATOL)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_random_steps_equal_the_oracle(momentum: float, weight_decay: float) -> None:
    rng = np.random.default_rng(4)
    start, gradients, rates = rng.normal(size=3), rng.normal(size=(20, 3)), rng.uniform(0.01, 0.3, 20)
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    optimizer = NAG([parameter], lr=float(rates[0]), momentum=momentum, weight_decay=weight_decay)
    for lr, gradient in zip(rates.tolist(), gradients.tolist(), strict=True):
        step(optimizer, parameter, lr, gradient)
    for i in range(3):
        p, buffer = nag(
            start[i], list(zip(rates.tolist(), gradients[:, i].tolist(), strict=True)), momentum, weight_decay
        )
        assert parameter[i].item() == pytest.approx(p, rel=RANDOM_RTOL, abs=RANDOM_RTOL)
        found = optimizer.state[parameter]["momentum_buffer"][i].item()
        assert found == pytest.approx(buffer, rel=RANDOM_RTOL, abs=RANDOM_RTOL)


def test_a_parameter_without_gradient_stays() -> None:
    moving, resting = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = NAG([moving, resting], lr=0.1, momentum=0.9, weight_decay=0.5)
    step(optimizer, moving, 0.1, [1.0, 1.0])
    assert resting.tolist() == [1, 1]
    assert moving.tolist() != [1, 1]


def test_the_state_dict_carries_on_to_the_bit() -> None:
    def run(optimizer: NAG, parameter: nn.Parameter, rates: list[float]) -> None:
        for lr in rates:
            step(optimizer, parameter, lr, [lr, -1.0])

    whole = nn.Parameter(torch.tensor([1.0, 2.0]))
    run(NAG([whole], 0.1, 0.9, 0.01), whole, [0.1, 0.2, 0.15, 0.3])
    halves = nn.Parameter(torch.tensor([1.0, 2.0]))
    first = NAG([halves], 0.1, 0.9, 0.01)
    run(first, halves, [0.1, 0.2])
    second = NAG([halves], 0.7, 0.9, 0.01)
    second.load_state_dict(first.state_dict())
    run(second, halves, [0.15, 0.3])
    assert torch.equal(whole, halves)


# Settings of which each, left out, changes the result by far more than the tolerance.
CONFIGURED = {
    "adam": AdamConfig(adam_betas=(0.7, 0.95), adam_eps=0.05, weight_decay=0.3),
    "adamw": AdamConfig(adam_betas=(0.6, 0.9), adam_eps=0.5, weight_decay=0.2),
    "sgd": SGDConfig(momentum=0.8, weight_decay=0.3),
    "adagrad": AdagradConfig(weight_decay=0.3),
    "nag": NAGConfig(momentum=0.8, weight_decay=0.3),
    "adamax": AdamaxConfig(adamax_betas=(0.6, 0.9), adamax_eps=0.3, weight_decay=0.3),
    "adadelta": AdadeltaConfig(adadelta_rho=0.7, adadelta_eps=0.05, weight_decay=0.3),
}


@pytest.mark.parametrize("name", CONFIGURED)
def test_every_setting_of_an_optimizer_counts(name: str) -> None:
    config, lr, start = CONFIGURED[name], 0.1, [1.5, -0.7]
    gradients = np.random.default_rng(2).normal(size=(6, 2))
    parameter = nn.Parameter(torch.tensor(start))
    optimizer = OPTIMIZERS.get(name)([parameter], lr, config)
    for gradient in gradients.tolist():
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    for i, found in enumerate(parameter.tolist()):
        column = gradients[:, i].tolist()
        if isinstance(config, AdamConfig):
            betas = (config.adam_betas[0], config.adam_betas[1])
            expected = oracle.adamw(start[i], column, lr, betas, config.adam_eps, config.weight_decay)
        elif isinstance(config, SGDConfig):
            expected = oracle.sgd(start[i], column, lr, config.momentum, config.weight_decay)
        elif isinstance(config, AdamaxConfig):
            decays = (config.adamax_betas[0], config.adamax_betas[1])
            expected = oracle.adamax(start[i], column, lr, decays, config.adamax_eps, config.weight_decay)
        elif isinstance(config, AdadeltaConfig):
            rho, eps = config.adadelta_rho, config.adadelta_eps
            expected = oracle.adadelta(start[i], column, lr, rho, eps, config.weight_decay)
        elif isinstance(config, AdagradConfig):
            expected = oracle.adagrad(start[i], column, lr, config.weight_decay)
        else:
            expected, _ = nag(start[i], [(lr, g) for g in column], config.momentum, config.weight_decay)
        assert found == pytest.approx(expected, rel=RANDOM_RTOL, abs=RANDOM_RTOL)


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 0.98, 0.5), (1.0, 0.98), (0.9, 1.0)])
def test_betas_are_two_numbers_below_1(betas: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="--adam-betas must be two numbers below 1"):
        OPTIMIZERS.get("adam")([nn.Parameter(torch.ones(1))], 0.1, AdamConfig(adam_betas=betas))


def test_a_rate_of_0_is_followed_by_another() -> None:
    """With lr_old = 0 the buffer is scaled by lr itself: nothing is divided by 0."""
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimizer = NAG([parameter], lr=0.1, momentum=0.9, weight_decay=0.0)
    step(optimizer, parameter, 0.1, [1.0])  # buffer −0.1, parameter 1 − 1.9 · 0.1
    step(optimizer, parameter, 0.0, [1.0])  # c = 0: the buffer is emptied
    step(optimizer, parameter, 0.2, [1.0])  # buffer −0.2, 1.9 · 0.2 less
    step(optimizer, parameter, 0.2, [0.0])  # 0.9² · 0.2 less
    assert parameter.item() == pytest.approx(1 - 0.19 - 0.38 - 0.162, abs=GOLDEN_ATOL)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"weight_decay": 0.3},
        {"decay_rate": -0.4},
        {"clip_threshold": 1.1},
        {"adafactor_eps": (1e-30, 0.9)},
        {"adafactor_eps": (4.0, 1e-3)},
    ],
    ids=str,
)
def test_adafactor_is_that_of_its_paper(more: dict[str, Any]) -> None:
    config = AdafactorConfig(scale_parameter=True, **more)
    rng = np.random.default_rng(2)
    start = rng.normal(size=(3, 4)) / 4
    gradients = [rng.normal(size=(3, 4)) * scale for scale in (1, 3, 0.2, 2, 1, 5)]
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    optimizer = OPTIMIZERS.get("adafactor")([parameter], 0.6, config)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
    eps = (config.adafactor_eps[0], config.adafactor_eps[1])
    settings = eps, config.clip_threshold, config.decay_rate, config.weight_decay
    expected = oracle.adafactor(start, gradients, 0.6, *settings)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=RANDOM_RTOL, atol=RANDOM_RTOL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--optimizer adafactor needs --scale-parameter: torch's Adafactor always scales the rate"),
        ({"beta1": 0.9}, "--beta1 is not in torch's Adafactor: it has no momentum; leave it out"),
        ({"relative_step": True}, "--relative-step is not in torch's Adafactor: .* give --lr 0.01"),
        ({"warmup_init": True}, "--warmup-init is not in torch's Adafactor: .* give --warmup-updates"),
        ({"scale_parameter": True, "adafactor_eps": (1e-30,)}, "--adafactor-eps must be two numbers"),
        ({"scale_parameter": True, "decay_rate": 0.8}, "--decay-rate must be below 0, such as -0.8, but is 0.8"),
    ],
)
def test_what_torchs_adafactor_has_not_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AdafactorConfig(**settings)


def test_what_torchs_adamax_has_not_is_named() -> None:
    with pytest.raises(ConfigError, match="--no-bias-correction is not in torch's Adamax"):
        AdamaxConfig(no_bias_correction=True)


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 1.0)])
def test_betas_of_adamax_are_two_numbers_below_1(betas: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="--adamax-betas must be two numbers below 1"):
        OPTIMIZERS.get("adamax")([nn.Parameter(torch.ones(1))], 0.1, AdamaxConfig(adamax_betas=betas))
