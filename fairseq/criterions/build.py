"""What ``--criterion`` names becomes a loss of batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fairseq.criterions.by_sample import SampleCriterion
from fairseq.criterions.cross_entropy import Loss
from fairseq.criterions.fairseq_criterion import FairseqCriterion
from fairseq.errors import ConfigError


def build_criterion(
    factory: Any, config: Any, task: Any, device: torch.device, *, sentence_avg: bool
) -> Callable[..., Loss]:
    """Returns the loss of a batch.

    Args:
        factory: a function ``(model, source_BT, target_BT)``, with its config behind where it has one, or a class
            derived from ``FairseqCriterion``.
        config: of the class that it was registered with; None where there is none.
        task: for a class.
        device: of the model.
        sentence_avg: a function's loss is divided by the number of blocks; a class says itself by what.
    """
    if not isinstance(factory, type):
        return _of_function(factory, config, sentence_avg=sentence_avg)
    if not issubclass(factory, FairseqCriterion):
        raise ConfigError(
            f"{factory.__name__} must derive from fairseq.criterions.FairseqCriterion, or be a function"
            " (model, source_BT, target_BT) → Loss (docs/plugins.md)"
        )
    return SampleCriterion(factory.build_criterion(config, task).to(device))


def _of_function(function: Any, config: Any, *, sentence_avg: bool) -> Callable[..., Loss]:
    more = () if config is None else (config,)

    def loss(model: Any, source_BT: Tensor, target_BT: Tensor) -> Loss:
        found: Loss = function(model, source_BT, target_BT, *more)
        if not sentence_avg:
            return found
        return replace(found, sample_size=len(target_BT), nll=found.nats.detach() if found.nll is None else found.nll)

    return loss if more or sentence_avg else function
