"""The run of a training: epochs of updates, with validations and checkpoints between them.

    for each epoch:  batches in the epoch's order ─ updates ─ validate ─ save
                                  └ also after every --save-interval-updates

Where a run stands is (epoch, batches of it that are done, whether what follows the last update is still to be done);
with the trainer's state, that is all a resumed run needs. SIGINT and SIGTERM wait for the end of the update; then the
run saves where it stands.
"""

import json
import logging
import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fairseq
from fairseq.checkpoints.format import save_checkpoint
from fairseq.criterions.perplexity import perplexity_of
from fairseq.data.config import BatchConfig
from fairseq.errors import ConfigError
from fairseq.optim.config import OptimizationConfig
from fairseq.runtime.interrupts import Interrupted, asked_to_stop, check, checked, finish_step_first
from fairseq.runtime.log import log_format
from fairseq.runtime.progress import Progress
from fairseq.train.checkpoint_files import Best, delete_old, names_to_write, write_all
from fairseq.train.config import CheckpointConfig, TrainConfig
from fairseq.train.data import load_epoch, load_validation
from fairseq.train.metrics import Meters, TensorBoard
from fairseq.train.trainer import Trainer, UpdateStats

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """When a run logs, stops and saves."""

    optimization: OptimizationConfig
    checkpoint: CheckpointConfig
    stop_lr: float
    log_interval: int


class Training:
    """One run.

    Args:
        task: loads splits.
        trainer: makes updates.
        train: names of what is trained, for the checkpoint.
        batching: limits of a batch.
        schedule: when to log, stop and save.
        seed: base of the epochs' orders.
        fields: every setting, as the checkpoint stores them.
    """

    def __init__(
        self,
        task: Any,
        trainer: Trainer,
        train: TrainConfig,
        batching: BatchConfig,
        schedule: Schedule,
        seed: int,
        fields: Mapping[str, Any],
    ) -> None:
        self.task = task
        self.trainer = trainer
        self.train = train
        self.batching = batching
        self.schedule = schedule
        self.seed = seed
        self.fields = fields
        self.epoch = 1
        self.position = 0
        self._pending = False  # validating and saving after the last update
        self.best = Best(schedule.checkpoint.maximize_best_checkpoint_metric)
        self.last_metric: float | None = None
        self._start = time.monotonic()
        self._tensorboard = TensorBoard(train.tensorboard_logdir if trainer.group.rank == 0 else None)
        self._valid = load_validation(task, trainer, batching, schedule.checkpoint)

    def run(self) -> None:
        """Trains until a bound is reached, then returns."""
        if self.trainer.group.rank == 0 and not self.schedule.checkpoint.no_save:
            delete_old(self.schedule.checkpoint)  # a run may have been killed just before
        with finish_step_first():
            try:
                while self._pending or not self._is_over():
                    self._run_epoch()
            except Interrupted as err:
                if not err.between_steps:
                    raise
                raise Interrupted(err.signum, self._save_where_it_stands()) from err
        self._tensorboard.close()
        logger.info(
            "done training in %.1f seconds, %d updates", time.monotonic() - self._start, self.trainer.num_updates
        )

    def restore(self, extra_state: Mapping[str, Any], *, position: bool, meters: bool) -> None:
        """Goes on from where a checkpoint stands; ``position`` and ``meters`` say which of its parts to take."""
        iterator = extra_state.get("train_iterator") or {}
        if position:
            self.epoch = max(int(iterator.get("epoch", 1)), 1)
            self.position = int(iterator.get("iterations_in_epoch", 0))
            self._pending = bool(extra_state.get("after_update_pending"))
            before = extra_state.get("epoch_order", self._epoch_order())
            changed = [name for name, value in self._epoch_order().items() if before.get(name) != value]
            if self.position and changed:
                raise ConfigError(
                    f"the checkpoint stands in the middle of epoch {self.epoch}, whose batches depend on"
                    f" {', '.join(changed)}: {[before.get(name) for name in changed]} then,"
                    f" {[self._epoch_order()[name] for name in changed]} now; give the same, or --reset-dataloader"
                )
        if extra_state.get("loss_scaler"):
            self.trainer.precision.scaler.load_state_dict(extra_state["loss_scaler"])
        if meters:
            self.best.value = extra_state.get("best")
            self.best.num_since = int(extra_state.get("validations_since_best", 0))

    def _epoch_order(self) -> dict[str, Any]:
        """Returns everything that the order and the size of an epoch's batches depend on."""
        names = ("tokens_per_sample", "sample_break_mode", "max_tokens", "max_sentences", "seed")
        order = {name: self.fields.get(name) for name in (*names, "required_batch_size_multiple")}
        return {**order, "world_size": self.trainer.group.world_size}

    def _is_over(self) -> bool:
        optimization, patience = self.schedule.optimization, self.schedule.checkpoint.patience
        num_updates = self.trainer.num_updates
        if optimization.max_update and num_updates >= optimization.max_update:
            return True
        if optimization.max_epoch and self.epoch > optimization.max_epoch:
            return True
        if 0 < patience <= self.best.num_since:
            logger.info("stopping: %d validations without a better %s", patience, self._metric_name)
            return True
        lr = self.trainer.schedule(num_updates, self.epoch)
        if lr <= self.schedule.stop_lr:
            logger.info("stopping: the learning rate %g has fallen to the bound %g", lr, self.schedule.stop_lr)
            return True
        return False

    @property
    def _metric_name(self) -> str:
        return self.schedule.checkpoint.best_checkpoint_metric

    def _run_epoch(self) -> None:
        dataset, batches = load_epoch(self.task, self.trainer, self.batching, self.seed, self.epoch)
        if self._pending:
            if self.position >= len(batches):
                self._end_epoch()
                return
            if self._after_update(end_of_epoch=False):
                return
        if self.position >= len(batches):  # saved at the end of the epoch by another program
            self.epoch, self.position = self.epoch + 1, 0
            return
        freqs = self.schedule.optimization.update_freq
        freq = freqs[min(self.epoch, len(freqs)) - 1]
        meters, window = Meters(), Meters()
        log = self.schedule
        total = math.ceil(len(batches) / freq)
        done = self.position // freq
        with Progress(f"epoch {self.epoch:03d}", total, "updates", done=done, every=log.log_interval) as progress:
            while self.position < len(batches):
                chunk = batches[self.position : self.position + freq]
                rows = [dataset.collate(idx) for idx in chunk if len(idx)]
                stats = self.trainer.update(rows, self.epoch, stop=asked_to_stop())
                self.position, self._pending = self.position + len(chunk), True
                meters.add(stats)
                window.add(stats)
                progress.advance(1, **self._shown(window, stats))
                if window.num_updates >= log.log_interval:
                    self._tensorboard.add("train", self._shown(window, stats), self.trainer.num_updates)
                    window = Meters()
                if stats.stop:
                    check("")
                    raise Interrupted(signal.SIGTERM, between_steps=True)  # another process was asked
                if self._after_update(end_of_epoch=self.position >= len(batches)):
                    return
        self._log_line("train", {**meters.values(), "num_updates": self.trainer.num_updates})
        self._end_epoch()

    def _shown(self, window: Meters, stats: UpdateStats) -> dict[str, float]:
        shown = {**window.values(), "num_updates": self.trainer.num_updates, "lr": stats.lr}
        if self.trainer.precision.scaler.is_enabled():
            shown["loss_scale"] = self.trainer.precision.scaler.get_scale()
        return {**shown, "wall": round(time.monotonic() - self._start)}

    def _after_update(self, *, end_of_epoch: bool) -> bool:
        """Validates and saves in mid-epoch where that is due; returns whether the run is over."""
        every = self.schedule.checkpoint.save_interval_updates
        num_updates, bound = self.trainer.num_updates, self.schedule.optimization.max_update
        is_last = bool(bound) and num_updates >= bound
        if end_of_epoch:
            return False  # what is due then is due after the epoch's log line
        due = is_last or bool(every and num_updates % every == 0)
        metric = self._validate() if due else None
        self._pending = False
        if not due:
            return False
        self._save(end_of_epoch=False, metric=metric)
        return is_last or self._is_over()

    def _end_epoch(self) -> None:
        config = self.schedule.checkpoint
        bounds = self.schedule.optimization
        is_last = self.epoch == bounds.max_epoch or 0 < bounds.max_update <= self.trainer.num_updates
        due = is_last or self.epoch % config.validate_interval == 0
        metric = self._validate() if due else None
        epoch, self.epoch, self.position, self._pending = self.epoch, self.epoch + 1, 0, False
        self._save(end_of_epoch=True, metric=metric, epoch=epoch)

    def _validate(self) -> float | None:
        """Returns the metric of the first validation split, and logs all of them."""
        first: float | None = None
        alone = self.trainer.group.world_size == 1  # one process among several validates to the end
        batches = [checked(valid.collated()) if alone else valid.collated() for valid in self._valid]
        sums = [self.trainer.validate(part) for part in batches]
        for valid, (nats, num_targets) in zip(self._valid, sums, strict=True):
            loss = nats / max(num_targets, 1) / math.log(2)
            values = {"loss": loss, "ppl": perplexity_of(loss), "num_updates": self.trainer.num_updates}
            if first is None:
                first = values[self._metric_name]
                self.best.add(first)
                values[f"best_{self._metric_name}"] = self.best.value or 0.0
            self._log_line(valid.split, values)
            self._tensorboard.add(valid.split, values, self.trainer.num_updates)
        return first

    def _log_line(self, part: str, values: Mapping[str, float]) -> None:
        if self.trainer.group.rank:
            return
        if log_format() == "json":
            logger.info("%s", json.dumps({"epoch": self.epoch, "part": part, **values}))
        else:
            shown = " | ".join(f"{name} {value:.6g}" for name, value in values.items())
            logger.info("epoch %03d | %s | %s", self.epoch, part, shown)

    def _save(self, *, end_of_epoch: bool, metric: float | None, epoch: int | None = None) -> None:
        config = self.schedule.checkpoint
        self.last_metric = metric if metric is not None else self.last_metric
        if config.no_save or self.trainer.group.rank:
            return
        names = names_to_write(
            config,
            epoch=epoch or self.epoch,
            num_updates=self.trainer.num_updates,
            end_of_epoch=end_of_epoch,
            is_best=metric is not None and self.best.num_since == 0,
            metric=metric,
        )
        start = time.monotonic()
        write_all(Path(config.save_dir), names, self._write_checkpoint)
        delete_old(config)
        logger.info("saved %s in %s (%.1f s)", ", ".join(names), config.save_dir, time.monotonic() - start)

    def _save_where_it_stands(self) -> str:
        """Saves ``checkpoint_last.pt`` between two updates, and returns how to go on."""
        config = self.schedule.checkpoint
        if config.no_save or config.no_last_checkpoints:
            return "nothing was saved, as the flags say"
        if self.trainer.group.rank == 0:
            write_all(Path(config.save_dir), ["checkpoint_last.pt"], self._write_checkpoint)
        return (
            f"update {self.trainer.num_updates} is saved in {config.save_dir}/checkpoint_last.pt, and the same command"
            " goes on from there"
        )

    def _write_checkpoint(self, path: Path) -> None:
        trainer, with_optimizer = self.trainer, not self.schedule.checkpoint.no_save_optimizer_state
        save_checkpoint(
            path,
            fields=self.fields,
            model_state=trainer.model.state_dict(),
            optimizer_state=trainer.optimizer.state_dict() if with_optimizer else None,
            optimizer_name=self.train.optimizer,
            criterion_name=self.train.criterion,
            num_updates=trainer.num_updates,
            extra_state={
                "train_iterator": {"epoch": self.epoch, "iterations_in_epoch": self.position, "shuffle": True},
                "val_loss": self.last_metric,
                "best": self.best.value,
                "validations_since_best": self.best.num_since,
                "loss_scaler": trainer.precision.scaler.state_dict(),
                "dictionary_sha256": self.task.dictionary.sha256(),
                "epoch_order": self._epoch_order(),
                "after_update_pending": self._pending,
                "written_by": f"fairseq-knnlm {fairseq.__version__}",
            },
        )
