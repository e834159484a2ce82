"""How a run resumes from a checkpoint, or begins from another run's.

What a reset leaves out, as in fairseq 0.12:

    --reset-optimizer      the states of optimizer and criterion, the loss scale, the count of updates, the best and
                           the patience, and what the schedule knows of validations
    --reset-meters         the best, the patience, and the time that counts for --stop-time-hours
    --reset-dataloader     the epoch, and the position in it
    --reset-lr-scheduler   what reduce_lr_on_plateau knows of validations; others are functions of updates and epoch
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from fairseq.checkpoints.checks import check_same_computation
from fairseq.checkpoints.format import Checkpoint, load_checkpoint
from fairseq.criterions.state import load_criterion_state
from fairseq.errors import CheckpointError, ConfigError, refuse_unknown, shown
from fairseq.models.upgrade import load_state
from fairseq.optim.lr_schedules import look_at
from fairseq.train.config import RunConfig
from fairseq.train.fully_sharded import in_shares, layout_of
from fairseq.train.origin import Start
from fairseq.train.position import position_from
from fairseq.train.state import RunState
from fairseq.train.trainer import Trainer

logger = logging.getLogger(__name__)


def restore(start: Start, config: RunConfig, task: Any, trainer: Trainer, state: RunState) -> None:
    """Restores the run from the checkpoint that it starts from, if there is one.

    Raises:
        CheckpointError: the checkpoint does not fit.
    """
    if start.path is None:
        return
    layout, resets = layout_of(trainer), start.resets
    checkpoint = in_shares(load_checkpoint(start.path, layout), layout)
    task.check_dictionary(checkpoint)
    check_same_computation(trainer.model, checkpoint.fields, start.path, len(task.dictionary))
    problems = load_state(trainer.model, checkpoint.state)
    if problems:
        raise CheckpointError(
            f"the weights of {start.path} do not fit the model that the flags describe: {'; '.join(problems[:3])};"
            " give the flags that it was trained with, or another --save-dir"
        )
    extra = checkpoint.extra_state
    kind = extra.get("best_of") or ""
    state.forgotten = kind if state.best.kind not in ("", kind) else ""
    if "reset_optimizer" not in resets:
        _restore_optimizer(checkpoint, trainer.optimizer, config.train.optimizer)
        trainer.num_updates = checkpoint.num_updates
        if extra.get("loss_scaler"):
            restore_loss_scale(checkpoint, trainer.precision.scaler)
        _restore_criterion(checkpoint, trainer.criterion, config.train.criterion)
        if "reset_lr_scheduler" not in resets:
            _restore_history(extra, trainer, state)
        if "reset_meters" not in resets:
            _restore_best(extra, state)
    if "reset_meters" not in resets:
        state.seconds = float(extra.get("previous_training_time") or 0)
    if "reset_dataloader" not in resets:
        iterator = extra.get("train_iterator") or {}
        state.epoch = max(int(iterator.get("epoch", 1)), 1)
        done = int(iterator.get("iterations_in_epoch", 0))
        state.position, state.order = position_from(done, extra.get("epoch_batches"))
        state.pending = bool(extra.get("after_update_pending")) and "reset_optimizer" not in resets
    trainer.group.done = f"after update {trainer.num_updates}"
    logger.info("resumed from %s: epoch %d, %d updates done", start.path, state.epoch, trainer.num_updates)


def restore_loss_scale(checkpoint: Checkpoint, scaler: Any) -> None:
    """Restores the loss scale that a checkpoint has; raises CheckpointError where a part of it is missing."""
    try:
        scaler.load_state_dict(checkpoint.extra_state["loss_scaler"])
    except KeyError as err:
        raise CheckpointError(
            f"the loss scale of {checkpoint.path} is damaged ({err} is missing); --reset-optimizer starts a new one"
        ) from err


def _restore_best(extra: Mapping[str, Any], state: RunState) -> None:
    """Restores the best, unless it is of another metric or of other validation data, which compare with nothing."""
    kind, best, last = extra.get("best_of"), extra.get("best"), extra.get("val_loss")
    if state.forgotten:
        logger.warning("the best so far, the %s, is forgotten: it is now the %s", state.forgotten, state.best.kind)
        return
    state.best.kind = state.best.kind or kind or ""
    state.best.value = None if best is None or math.isnan(best) else best
    state.best.num_since = int(extra.get("validations_since_best", 0))
    state.last_metric = last if isinstance(last, (int, float)) else None


def _restore_history(extra: Mapping[str, Any], trainer: Trainer, state: RunState) -> None:
    """Restores the validations that the schedule looks at, unless they are of another kind than those to come."""
    history = [(int(number), float(metric)) for number, metric in extra.get("validations") or ()]
    if not state.forgotten:
        state.history = history
        return
    look_at(trainer.schedule, history)
    at = trainer.num_updates, state.epoch
    before = trainer.schedule(*at)
    look_at(trainer.schedule, [])
    if trainer.schedule(*at) != before:
        logger.warning(
            "the learning rate is %g again, not %g: the validations by which it fell were of the %s, and are now of"
            " the %s; go on as before, or give --lr %g",
            *(trainer.schedule(*at), before, state.forgotten, state.best.kind, before),
        )


def _restore_criterion(checkpoint: Checkpoint, criterion: Any, name: str) -> None:
    """Restores what the criterion keeps, where it is the one that the checkpoint was trained with."""
    if checkpoint.fields.get("criterion") == name:
        load_criterion_state(criterion, checkpoint.criterion_state, checkpoint.path, "--reset-optimizer begins anew")


def _restore_optimizer(checkpoint: Checkpoint, optimizer: Optimizer, name: str) -> None:
    """Loads the optimizer's state; momentum, weight decay and the like stay as the flags have them."""
    hint = "--reset-optimizer starts a new one (with --reset-dataloader for a new run)"
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
    """Raises ValueError where a moment has not the shape of its parameter, or that of its factors.

    What an optimizer of a plugin keeps may have any shape.
    """
    if type(optimizer).__module__.split(".")[0] not in ("torch", "fairseq"):
        return
    for parameter, moments in optimizer.state.items():
        own = tuple(parameter.shape)
        shapes = {"row_var": (*own[:-1], 1), "col_var": (*own[:-2], 1, *own[-1:])}
        for name, moment in moments.items():
            shape = tuple(getattr(moment, "shape", ()))
            if shape and shape != shapes.get(name, own):
                raise ValueError(f"{name} of shape {shape} for a parameter of shape {own}")


def override_settings(optimizer: Optimizer, overrides: Mapping[str, Any]) -> None:
    """Puts settings in the place of those that the optimizer's flags gave it, in a new run as in one that goes on.

    Raises:
        ConfigError: the optimizer has no such setting, or one of another type.
    """
    known = {name: value for name, value in optimizer.param_groups[0].items() if _is_setting(value)}
    for name in ("lr_old", "initial_accumulator_value"):  # not settings: a memory, and what only a new optimizer reads
        known.pop(name, None)
    refuse_unknown(overrides, known, "the optimizer (--optimizer-overrides)")
    for name, value in overrides.items():
        if name == "lr":
            logger.warning(
                "--optimizer-overrides: 'lr' has no effect: every update has the rate of the schedule; give --lr"
            )
            continue
        is_list = isinstance(known[name], tuple)
        new = tuple(value) if is_list and isinstance(value, (list, tuple)) else value
        if not _is_setting(new) or is_list != isinstance(new, tuple) or (is_list and len(new) != len(known[name])):
            raise ConfigError(
                f"--optimizer-overrides: {name!r} must be like {known[name]}, which it replaces, but is {shown(value)}"
            )
        for group in optimizer.param_groups:
            group[name] = new


def _is_setting(value: object) -> bool:
    """Returns whether a value is a number or a list of them."""
    parts = value if isinstance(value, tuple) else (value,)
    return all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in parts)
