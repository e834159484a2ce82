"""A ``FairseqCriterion`` in the place of a function: batches become samples, what it tells becomes the log."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq.criterions.cross_entropy import Loss
from fairseq.criterions.fairseq_criterion import FairseqCriterion, summed
from fairseq.criterions.model_view import ModelView
from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError
from fairseq.logging.metrics import Readings, collecting


def sample_of(source_BT: Tensor, target_BT: Tensor, id_B: Tensor) -> dict[str, Any]:
    """Returns a batch as fairseq's criterions have it; rows are padded on the right in source and target."""
    at_T = torch.arange(1, target_BT.shape[1] + 1, device=target_BT.device)
    length_B = (at_T * (target_BT != PAD)).amax(1)
    return {
        "id": id_B,
        "nsentences": len(target_BT),
        "ntokens": int((target_BT != PAD).sum()),
        "net_input": {"src_tokens": source_BT.masked_fill(at_T > length_B[:, None], PAD), "src_lengths": length_B},
        "target": target_BT,
    }


class SampleCriterion:
    """Calls a ``FairseqCriterion``.

    Args:
        criterion: with no weights to train.
    """

    def __init__(self, criterion: FairseqCriterion) -> None:
        self.criterion = criterion
        self.name = type(criterion).__name__
        trained = [name for name, weight in criterion.named_parameters() if weight.requires_grad]
        if trained:
            raise ConfigError(
                f"{self.name} must have no weights that are trained, but has {trained[0]}; call"
                " requires_grad_(False) on the module that they belong to"
            )
        for name, value in criterion.state_dict().items():
            if not isinstance(value, Tensor):
                raise ConfigError(f"{self.name} must keep its state in tensors, but {name} is {type(value).__name__}")

    def __call__(self, model: Any, source_BT: Tensor, target_BT: Tensor, id_B: Tensor) -> Loss:
        """Returns the loss of a batch, with what the criterion tells of it."""
        sample = sample_of(source_BT, target_BT, id_B)
        self.criterion.train(model.training)
        answer = self.criterion(ModelView(model), sample)
        if not isinstance(answer, tuple) or len(answer) != 3 or not isinstance(answer[2], Mapping):
            raise ConfigError(f"{self.name}.forward must return (loss, sample_size, logging_output)")
        loss, size, told = answer
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"{self.name}.forward must return the sum of the loss, one number, but returns {shape}")
        logged = {name: _number(value) for name, value in told.items()}
        return Loss(loss.reshape(()), sample["ntokens"], sample_size=float(size), logged=logged)

    def readings(self, outputs: Sequence[Mapping[str, Any]], nats: float, sample_size: float) -> Readings:
        """Returns the log's numbers of what was told of some batches, whose losses have a sum."""
        told = [summed(outputs)] if outputs and self._can_be_summed() else outputs
        with collecting() as readings:
            if told:
                reduce: Callable[[Any], None] = self.criterion.reduce_metrics
                reduce(told)
        if "loss" not in readings.means:
            readings.log("loss", nats / (sample_size or 1.0) / math.log(2), sample_size)
        return readings

    def _can_be_summed(self) -> bool:
        return bool(self.criterion.logging_outputs_can_be_summed())


def _number(value: Any) -> Any:
    """Returns the number that a tensor of one holds, for it to leave the device; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
