"""Schedule reduce_lr_on_plateau: the rate falls after validations that found nothing better.

The rate is a function of updates, epoch and the history of validations, which checkpoints hold, so that a resumed run
repeats an uninterrupted one. torch's ``ReduceLROnPlateau`` goes over the history from its beginning.
"""

from collections.abc import Sequence

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fairseq.optim.config import OptimizationConfig, PlateauConfig
from fairseq.optim.lr_schedules import one_rate

Validation = tuple[int, float]  # the updates that were made when an epoch ended, and the metric of its validation


class PlateauSchedule:
    """A linear warm-up, then ``--lr`` as often shrunk as the history says; validations of the warm-up do not count.

    Args:
        config: its flags.
        optimization: has the rate.
    """

    def __init__(self, config: PlateauConfig, optimization: OptimizationConfig) -> None:
        self._config = config
        self._peak = self._rate = one_rate("reduce_lr_on_plateau", optimization)
        warmup = config.warmup_updates
        self._first = config.warmup_init_lr if config.warmup_init_lr >= 0 else 0.0 if warmup else self._peak

    def __call__(self, num_updates: int, epoch: int) -> float:
        """Returns the learning rate."""
        warmup = self._config.warmup_updates
        if num_updates < warmup:
            return self._first + num_updates * (self._peak - self._first) / warmup
        return self._rate

    def look_at(self, history: Sequence[Validation]) -> None:
        """Sets the rate that the history of the run asks for."""
        config, weight = self._config, torch.zeros(1, requires_grad=True)
        holder = torch.optim.SGD([weight], lr=self._peak)
        plateau = ReduceLROnPlateau(
            holder,
            mode="max" if config.maximize_best_checkpoint_metric else "min",
            factor=config.lr_shrink,
            patience=config.lr_patience,
            threshold=config.lr_threshold,
        )
        for num_updates, metric in history:
            if num_updates > config.warmup_updates or not config.warmup_updates:
                plateau.step(metric)
        self._rate = float(holder.param_groups[0]["lr"])


def reduce_lr_on_plateau(config: PlateauConfig, optimization: OptimizationConfig) -> PlateauSchedule:
    """Returns the schedule."""
    return PlateauSchedule(config, optimization)
