"""State of a training run, and how a checkpoint of it is written.

A resumed run repeats an uninterrupted one to the bit, because all that an update depends on is in the checkpoint: the
weights, the states of optimizer and criterion, the number of updates, and the position in the epoch.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import fairseq
from fairseq.checkpoints import sharded
from fairseq.checkpoints.format import write_file
from fairseq.checkpoints.record import record_of
from fairseq.criterions.state import state_of
from fairseq.models.upgrade import SETTINGS_VERSION
from fairseq.train.config import CheckpointConfig, RunConfig
from fairseq.train.origin import Run
from fairseq.train.position import EpochOrder, position_record
from fairseq.train.trainer import Trainer


@dataclass
class Best:
    """The best validation metric so far, and how many validations have passed without a better one.

    ``kind`` says what it is the best of: bests of two kinds do not compare. It is empty while nothing is validated.
    """

    maximize: bool
    value: float | None = None
    num_since: int = 0
    kind: str = ""

    def add(self, metric: float) -> None:
        """Counts a validation."""
        better = self.value is None or (metric > self.value if self.maximize else metric < self.value)
        if better and not math.isnan(metric):
            self.value, self.num_since = metric, 0
        else:
            self.num_since += 1


def kind_of_best(config: CheckpointConfig, identity: str) -> str:
    """Returns what a best validation is the best of; ``identity`` is the split's."""
    which = "largest" if config.maximize_best_checkpoint_metric else "lowest"
    return f"{which} {config.best_checkpoint_metric} of {identity}"


@dataclass
class RunState:
    """Position of a run between two updates, and its best validation.

    Attributes:
        best: the best validation so far.
        epoch: from 1.
        position: batches of the epoch that are done, by all processes.
        order: the batches that ``position`` counts; None between two epochs, or where a checkpoint does not say.
        pending: whether the validation and the save that may be due after the last update are still to be made.
        last_metric: that of the last validation.
        seconds: that the run had taken before it was resumed, with ``--stop-time-hours``.
        forgotten: what the best so far was the best of, where it compares with nothing that is validated now.
        history: the updates and the metric of the validation of each epoch, for schedules that look at it.
    """

    best: Best
    epoch: int = 1
    position: int = 0
    order: EpochOrder | None = None
    pending: bool = False
    last_metric: float | None = None
    seconds: float = 0.0
    history: list[tuple[int, float]] = field(default_factory=list)
    forgotten: str = ""

    def next_epoch(self) -> None:
        """Goes to the first batch of the next epoch."""
        self.epoch, self.position, self.order, self.pending = self.epoch + 1, 0, None, False


def write_checkpoint(
    path: Path,
    config: RunConfig,
    trainer: Trainer,
    state: RunState,
    run: Run,
    dictionary_sha256: str,
    seconds: float | None = None,
) -> None:
    """Writes a checkpoint from which a run goes on, with the seconds that it has taken where they are counted.

    One in shards is written by all processes together.
    """
    done, epoch_batches = position_record(state.position, state.order, trainer.group.world_size)
    fields = {**config.fields(), **SETTINGS_VERSION}
    raw = record_of(
        fields,
        trainer.model.state_dict(),
        None if config.checkpoint.no_save_optimizer_state else trainer.optimizer.state_dict(),
        state_of(trainer.criterion),
        config.train.optimizer,
        trainer.num_updates,
        {
            **({} if seconds is None else {"previous_training_time": seconds}),
            "train_iterator": {
                "epoch": state.epoch,
                "iterations_in_epoch": done,
                "shuffle": True,
            },
            "val_loss": state.last_metric,
            "best": state.best.value,
            "best_of": state.best.kind,
            "validations_since_best": state.best.num_since,
            "validations": [list(validation) for validation in state.history],
            "loss_scaler": trainer.precision.scaler.state_dict(),
            "dictionary_sha256": dictionary_sha256,
            "epoch_batches": epoch_batches,
            "after_update_pending": state.pending,
            "run": run.record(),
            "written_by": f"fairseq-knnlm {fairseq.__version__}",
        },
    )
    if config.train.is_sharded:
        sharded.write(path, raw, sharded.stored_names(trainer.model), trainer.group)
    else:
        write_file(path, raw, fields)
