"""State of a training run: how a checkpoint is written, and how a run resumes from it.

A resumed run repeats an uninterrupted one to the bit, because all that an update depends on is restored: the weights,
the optimizer's state, the number of updates, and the position in the epoch.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

import fairseq
from fairseq.checkpoints.checks import check_same_computation
from fairseq.checkpoints.format import Checkpoint, load_checkpoint, save_checkpoint
from fairseq.errors import CheckpointError, ConfigError
from fairseq.models.upgrade import load_state
from fairseq.train.config import CheckpointConfig, RunConfig
from fairseq.train.trainer import Trainer

logger = logging.getLogger(__name__)

# Settings that determine an epoch's batches and their order.
_ORDER = (
    "tokens_per_sample",
    "sample_break_mode",
    "max_tokens",
    "max_sentences",
    "seed",
    "required_batch_size_multiple",
)


@dataclass
class Best:
    """The best validation metric so far, and how many validations have passed without a better one."""

    maximize: bool
    value: float | None = None
    num_since: int = 0

    def add(self, metric: float) -> None:
        """Counts a validation."""
        better = self.value is None or (metric > self.value if self.maximize else metric < self.value)
        if better and not math.isnan(metric):
            self.value, self.num_since = metric, 0
        else:
            self.num_since += 1


@dataclass
class RunState:
    """Position of a run between two updates, and its best validation.

    Attributes:
        best: the best validation so far.
        epoch: from 1.
        position: batches of the epoch that are done.
        pending: whether the validation and the save that may be due after the last update are still to be made.
        last_metric: that of the last validation.
    """

    best: Best
    epoch: int = 1
    position: int = 0
    pending: bool = False
    last_metric: float | None = None

    def next_epoch(self) -> None:
        """Goes to the first batch of the next epoch."""
        self.epoch, self.position, self.pending = self.epoch + 1, 0, False


def write_checkpoint(path: Path, config: RunConfig, trainer: Trainer, state: RunState, dictionary_sha256: str) -> None:
    """Writes a checkpoint from which a run goes on."""
    save_checkpoint(
        path,
        fields=config.fields(),
        model_state=trainer.model.state_dict(),
        optimizer_state=None if config.checkpoint.no_save_optimizer_state else trainer.optimizer.state_dict(),
        optimizer_name=config.train.optimizer,
        num_updates=trainer.num_updates,
        extra_state={
            "train_iterator": {"epoch": state.epoch, "iterations_in_epoch": state.position, "shuffle": True},
            "val_loss": state.last_metric,
            "best": state.best.value,
            "validations_since_best": state.best.num_since,
            "loss_scaler": trainer.precision.scaler.state_dict(),
            "dictionary_sha256": dictionary_sha256,
            "epoch_order": _epoch_order(config, trainer),
            "after_update_pending": state.pending,
            "written_by": f"fairseq-knnlm {fairseq.__version__}",
        },
    )


def restore(config: RunConfig, task: Any, trainer: Trainer, state: RunState) -> None:
    """Restores the run from ``--restore-file``, if it is there.

    Raises:
        CheckpointError: a file that was asked for by name is missing, or does not fit.
    """
    wanted, default = config.checkpoint, CheckpointConfig().restore_file
    path = Path(wanted.restore_file)
    if wanted.restore_file == default:
        path = Path(wanted.save_dir) / default
        if not path.exists():
            return
    checkpoint = load_checkpoint(path)
    task.check_dictionary(checkpoint)
    check_same_computation(trainer.model, checkpoint.fields, path, len(task.dictionary))
    problems = load_state(trainer.model, checkpoint.state)
    if problems:
        raise CheckpointError(
            f"the weights of {path} do not fit the model that the flags describe: {'; '.join(problems[:3])};"
            " give the flags that it was trained with, or another --save-dir"
        )
    if not wanted.reset_optimizer:
        _restore_optimizer(checkpoint, trainer.optimizer, config.train.optimizer)
    if not wanted.reset_lr_scheduler:
        trainer.num_updates = checkpoint.num_updates
    extra = checkpoint.extra_state
    if not wanted.reset_dataloader:
        _restore_position(extra, state, _epoch_order(config, trainer))
    if extra.get("loss_scaler"):
        trainer.precision.scaler.load_state_dict(extra["loss_scaler"])
    if not wanted.reset_meters:
        state.best.value = extra.get("best")
        state.best.num_since = int(extra.get("validations_since_best", 0))
    logger.info("resumed from %s: epoch %d, %d updates done", path, state.epoch, trainer.num_updates)


def _restore_position(extra: Mapping[str, Any], state: RunState, order: Mapping[str, Any]) -> None:
    """Restores the position; raises ConfigError in mid-epoch if the settings would now make other batches."""
    iterator = extra.get("train_iterator") or {}
    state.epoch = max(int(iterator.get("epoch", 1)), 1)
    state.position = int(iterator.get("iterations_in_epoch", 0))
    state.pending = bool(extra.get("after_update_pending"))
    before = extra.get("epoch_order", order)
    changed = [name for name, value in order.items() if before.get(name) != value]
    if state.position and changed:
        raise ConfigError(
            f"the checkpoint stands in the middle of epoch {state.epoch}, whose batches depend on"
            f" {', '.join(changed)}: {[before.get(name) for name in changed]} then,"
            f" {[order[name] for name in changed]} now; give the same, or --reset-dataloader"
        )


def _epoch_order(config: RunConfig, trainer: Trainer) -> dict[str, Any]:
    """Returns the settings that determine an epoch's batches."""
    fields = config.fields()
    return {**{name: fields.get(name) for name in _ORDER}, "world_size": trainer.group.world_size}


def _restore_optimizer(checkpoint: Checkpoint, optimizer: Optimizer, name: str) -> None:
    """Loads the optimizer's state; momentum, weight decay and the like stay as the flags have them."""
    hint = "--reset-optimizer starts a new one (with --reset-lr-scheduler --reset-dataloader for a new run)"
    if checkpoint.optimizer_state is None:
        raise CheckpointError(f"{checkpoint.path} has no optimizer state; {hint}")
    if "written_by" not in checkpoint.extra_state:
        raise CheckpointError(f"{checkpoint.path} has the optimizer state of another program; {hint}")
    if checkpoint.optimizer_name != name:
        raise CheckpointError(
            f"{checkpoint.path} has the state of optimizer {checkpoint.optimizer_name}, but --optimizer is"
            f" {name}; {hint}"
        )
    in_force = [
        {k: v for k, v in group.items() if k not in ("params", "lr", "lr_old")} for group in optimizer.param_groups
    ]
    try:
        optimizer.load_state_dict(dict(checkpoint.optimizer_state))
        _check_moments(optimizer)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
        raise CheckpointError(f"the optimizer state of {checkpoint.path} is damaged ({err}); {hint}") from err
    for group, settings in zip(optimizer.param_groups, in_force, strict=True):
        group.update(settings)


def _check_moments(optimizer: Optimizer) -> None:
    """Raises ValueError where a moment has not the shape of its parameter."""
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            shape = getattr(moment, "shape", ())
            if len(shape) and shape != parameter.shape:
                raise ValueError(f"{name} of shape {tuple(shape)} for a parameter of shape {tuple(parameter.shape)}")
