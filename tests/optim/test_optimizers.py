"""Golden steps of semantics.md section 7, and random ones against a loop over single numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from fairseq.optim.optimizers import NAG
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
