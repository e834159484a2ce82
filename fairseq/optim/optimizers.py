"""Optimizers: fairseq's NAG, and torch's own under fairseq's names and flags."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fairseq.errors import ConfigError
from fairseq.optim.config import (
    AdadeltaConfig,
    AdafactorConfig,
    AdagradConfig,
    AdamaxConfig,
    AdamConfig,
    NAGConfig,
    SGDConfig,
)


class NAG(Optimizer):
    """Nesterov's accelerated gradient, in the form that fairseq's models were trained with.

    For gradient g, learning rate lr and momentum m; ``c = lr / lr_old`` corrects the buffer for a changing rate:

        p   ← p·(1 − lr·wd)
        p   ← p + m²·c·buf − (1 + m)·lr·g        (buf before its update)
        buf ← m·c·buf − lr·g
        lr_old ← lr

    Source: Sutskever et al., 2013, rewritten so that p is the point at which the gradient is taken.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, dict(lr=lr, lr_old=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Makes one update of all parameters that have a gradient."""
        assert closure is None, "NAG takes no closure"
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            correction = lr / group["lr_old"] if group["lr_old"] > 0 else lr
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            buffers = [self._buffer(p) for p in parameters]
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
            torch._foreach_add_(parameters, buffers, alpha=momentum**2 * correction)
            torch._foreach_add_(parameters, gradients, alpha=-(1 + momentum) * lr)
            torch._foreach_mul_(buffers, momentum * correction)
            torch._foreach_add_(buffers, gradients, alpha=-lr)
            group["lr_old"] = lr

    def _buffer(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


class Adamax(torch.optim.Adamax):
    """torch's Adamax, whose weights decay before the step, as in fairseq: torch's own decay is added to gradients."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Makes one update of all parameters that have a gradient."""
        assert closure is None, "Adamax takes no closure"
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            parameters = [p for p in group["params"] if p.grad is not None]
            if decay:
                torch._foreach_mul_(parameters, 1 - group["lr"] * decay)
            group["weight_decay"] = 0.0
        super().step()
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay


def build_nag(parameters: Iterable[nn.Parameter], lr: float, config: NAGConfig) -> NAG:
    """Returns NAG."""
    return NAG(parameters, lr, config.momentum, config.weight_decay)


def build_adam(parameters: Iterable[nn.Parameter], lr: float, config: AdamConfig) -> Optimizer:
    """Returns AdamW, for both ``adam`` and ``adamw``: fairseq's ``adam`` decouples weight decay as well."""
    betas = _two_betas("--adam-betas", config.adam_betas)
    return torch.optim.AdamW(parameters, lr, betas=betas, eps=config.adam_eps, weight_decay=config.weight_decay)


def build_sgd(parameters: Iterable[nn.Parameter], lr: float, config: SGDConfig) -> Optimizer:
    """Returns SGD with momentum."""
    return torch.optim.SGD(parameters, lr, momentum=config.momentum, weight_decay=config.weight_decay)


def build_adagrad(parameters: Iterable[nn.Parameter], lr: float, config: AdagradConfig) -> Optimizer:
    """Returns Adagrad."""
    return torch.optim.Adagrad(parameters, lr, weight_decay=config.weight_decay)


def build_adamax(parameters: Iterable[nn.Parameter], lr: float, config: AdamaxConfig) -> Adamax:
    """Returns Adamax."""
    betas = _two_betas("--adamax-betas", config.adamax_betas)
    return Adamax(parameters, lr, betas=betas, eps=config.adamax_eps, weight_decay=config.weight_decay)


def build_adadelta(parameters: Iterable[nn.Parameter], lr: float, config: AdadeltaConfig) -> Optimizer:
    """Returns Adadelta."""
    rho, eps = config.adadelta_rho, config.adadelta_eps
    return torch.optim.Adadelta(parameters, lr, rho=rho, eps=eps, weight_decay=config.weight_decay)


def build_adafactor(parameters: Iterable[nn.Parameter], lr: float, config: AdafactorConfig) -> Optimizer:
    """Returns torch's Adafactor; its first epsilon is a bound of roots where fairseq's is one of squares."""
    least_square, least_size = config.adafactor_eps
    return torch.optim.Adafactor(
        parameters,
        lr,
        beta2_decay=config.decay_rate,
        eps=(math.sqrt(least_square), least_size),
        d=config.clip_threshold,
        weight_decay=config.weight_decay,
    )


def _two_betas(name: str, betas: tuple[float, ...]) -> tuple[float, float]:
    """Returns the decay rates of two moments; raises ConfigError unless they are two numbers below 1."""
    if len(betas) != 2 or max(betas) >= 1:
        raise ConfigError(f"{name} must be two numbers below 1, such as (0.9, 0.98), but is {betas}")
    return betas[0], betas[1]
