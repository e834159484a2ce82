"""torch's own optimizers under fairseq's names and flags."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from fairseq.errors import ConfigError
from fairseq.optim.config import AdagradConfig, AdamConfig, SGDConfig


def build_adam(parameters: Iterable[nn.Parameter], lr: float, config: AdamConfig) -> Optimizer:
    """Returns AdamW; fairseq's ``adam`` decouples weight decay as well, so both names mean this."""
    if len(config.adam_betas) != 2 or max(config.adam_betas) >= 1:
        raise ConfigError(f"--adam-betas must be two numbers below 1, such as (0.9, 0.98), but is {config.adam_betas}")
    betas = (config.adam_betas[0], config.adam_betas[1])
    return torch.optim.AdamW(parameters, lr, betas=betas, eps=config.adam_eps, weight_decay=config.weight_decay)


def build_sgd(parameters: Iterable[nn.Parameter], lr: float, config: SGDConfig) -> Optimizer:
    """Returns SGD with momentum."""
    return torch.optim.SGD(parameters, lr, momentum=config.momentum, weight_decay=config.weight_decay)


def build_adagrad(parameters: Iterable[nn.Parameter], lr: float, config: AdagradConfig) -> Optimizer:
    """Returns Adagrad."""
    return torch.optim.Adagrad(parameters, lr, weight_decay=config.weight_decay)
