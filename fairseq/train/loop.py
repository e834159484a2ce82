"""The training loop: epochs of updates, with validations and checkpoints between them.

    for each epoch:  batches in the epoch's order ─ updates ─ validate ─ save
                                  └ also after every --save-interval-updates; --validate-interval-updates saves a
                                    new best only

SIGINT and SIGTERM wait for the end of the update; then the run saves where it stands.
"""

import json
import logging
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq.config.flags import parse_literal_dict
from fairseq.criterions.by_sample import SampleCriterion
from fairseq.errors import ConfigError
from fairseq.optim.lr_schedules import look_at, stop_lr
from fairseq.runtime.interrupts import Interrupted, asked_to_stop, check, finish_step_first
from fairseq.runtime.log import log_format, prefixed
from fairseq.runtime.progress import Progress
from fairseq.train.checkpoint_files import delete_old, names_to_write, recover_shards, write_all
from fairseq.train.config import RunConfig
from fairseq.train.data import Epoch, load_epoch
from fairseq.train.length import TimeLimit, is_due, updates_left
from fairseq.train.metrics import Meters, TensorBoard, check_metric
from fairseq.train.origin import choose_start
from fairseq.train.ownership import refuse_foreign
from fairseq.train.position import EpochOrder, position_among
from fairseq.train.restore import override_settings, restore
from fairseq.train.state import Best, RunState, kind_of_best, write_checkpoint
from fairseq.train.trainer import Trainer
from fairseq.validate.splits import ValidationSplit, load_splits
from fairseq.validate.validation import validate_on, validation_seed

logger = logging.getLogger(__name__)


class Training:
    """One training run; it resumes from a checkpoint if there is one.

    Args:
        config: every setting.
        task: loads splits.
        trainer: makes updates.
    """

    def __init__(self, config: RunConfig, task: Any, trainer: Trainer) -> None:
        self.config = config
        self.task = task
        self.trainer = trainer
        self.state = RunState(Best(config.checkpoint.maximize_best_checkpoint_metric))
        self._saves = trainer.group.rank == 0 and not config.checkpoint.no_save
        self._writes = self._saves or (trainer.group.is_sharded and not config.checkpoint.no_save)
        self._start = time.monotonic()
        self._tensorboard = TensorBoard(config.train.tensorboard_logdir if trainer.group.rank == 0 else None)
        self._valid = [] if config.checkpoint.disable_validation else self._load_splits()
        if self._valid:
            self.state.best.kind = kind_of_best(config.checkpoint, self._valid[0].identity)
        recover_shards(config, trainer.group)
        start = choose_start(config)
        restore(start, config, task, trainer, self.state)
        look_at(trainer.schedule, self.state.history)
        overrides = parse_literal_dict(config.checkpoint.optimizer_overrides, "--optimizer-overrides")
        override_settings(trainer.optimizer, overrides)
        self._run = start.run
        self._time = TimeLimit(config.optimization.stop_time_hours, self._start, self.state.seconds)
        if self._saves:
            bounds = self.state.epoch, config.optimization.max_epoch
            refuse_foreign(config.checkpoint, self._run, *bounds, config.suffix)

    def _load_splits(self) -> list[ValidationSplit]:
        batching, trainer = self.config.batching, self.trainer
        bounds = batching.max_tokens, batching.max_sentences, trainer.max_positions
        return load_splits(self.task, self.config.validation, *bounds, trainer.group)

    def run(self) -> None:
        """Trains until a bound is reached, then returns."""
        if self._saves:
            delete_old(self.config.checkpoint, self._run, self.config.suffix)  # a run may have been killed just before
        with finish_step_first():
            try:
                while self.state.pending or not self._is_over():
                    self._run_epoch()
            except Interrupted as err:
                if not err.between_steps:
                    raise
                raise Interrupted(err.signum, self._save_where_it_stands()) from err
        self._tensorboard.close()
        if not self._is_bound_reached():
            logger.info("stopping: %s", self._reason_to_stop())
        seconds = time.monotonic() - self._start
        logger.info("done training in %.1f seconds, %d updates", seconds, self.trainer.num_updates)

    def _is_over(self) -> bool:
        return self._is_bound_reached() or self._reason_to_stop() is not None

    def _is_bound_reached(self) -> bool:
        max_epoch = self.config.optimization.max_epoch
        return self._is_last_update() or 0 < max_epoch < self.state.epoch

    def _is_last_update(self) -> bool:
        return 0 < self.config.optimization.max_update <= self.trainer.num_updates

    def _reason_to_stop(self) -> str | None:
        """Returns why the run stops before --max-update and --max-epoch; None while it goes on."""
        if self._time.is_over:
            return f"the {self._time.hours:g} hours of --stop-time-hours are over"
        patience = self.config.checkpoint.patience
        if 0 < patience <= self.state.best.num_since:
            return f"{patience} validations without a better {self._metric_name}"
        lr = self.trainer.schedule(self.trainer.num_updates, self.state.epoch)
        lowest = stop_lr(self.config.schedule, self.config.optimization)
        return f"the learning rate {lr:g} has fallen to the bound {lowest:g}" if lr <= lowest else None

    @property
    def _metric_name(self) -> str:
        return self.config.checkpoint.best_checkpoint_metric

    def _run_epoch(self) -> None:
        state, config = self.state, self.config
        epoch = load_epoch(self.task, self.trainer, config.batching, config.common.seed, state.epoch)
        num_batches = len(epoch.batches)
        self._find_position(epoch.order)
        if state.position >= num_batches and not state.pending:
            state.next_epoch()
            return
        if state.position < num_batches:
            if state.pending and self._after_update():
                return
            meters = self._make_updates(epoch)
            if state.position < num_batches:
                return
            values = {**meters.values(), "num_updates": self.trainer.num_updates}
            more = {**self._rest(meters), "train_wall": round(meters.seconds)}
            self._log_line("train", values, more)
        self._end_epoch()

    def _find_position(self, now: EpochOrder) -> None:
        """Finds the run's position among the batches that there are now."""
        state = self.state
        position = position_among(state.position, state.order, now)
        if position is None:
            logger.warning(
                "epoch %d begins anew: the %d batches that were done of it are not among those of this text, these"
                " settings (--max-tokens, --tokens-per-sample, --seed, …) and this version",
                state.epoch,
                state.position,
            )
        state.position, state.order = position or 0, now

    def _make_updates(self, epoch: Epoch) -> Meters:
        """Makes the remaining updates of the epoch, unless the run ends before; returns their sums."""
        state, bounds, batches, group = self.state, self.config.optimization, epoch.batches, self.trainer.group
        freq, every = bounds.update_freq[min(state.epoch, len(bounds.update_freq)) - 1], self.config.common.log_interval
        meters, window, of_update = Meters(), Meters(), freq * group.world_size
        done, at = -(-state.position // of_update), (state.position, state.epoch, self.trainer.num_updates)
        now, later = updates_left(bounds, len(batches), *at, group.world_size)
        stage = f"epoch {state.epoch:03d}"
        with Progress(stage, done + now, "updates", done=done, every=every, more=later) as progress:
            while state.position < len(batches):
                rows = epoch.of_update(state.position, freq, group)
                start = time.monotonic()
                late = self._time.is_up()
                stats = self.trainer.update(rows, state.epoch, stop=asked_to_stop(), late=late)
                seconds = time.monotonic() - start
                state.position, state.pending = min(state.position + of_update, len(batches)), True
                self._time.is_over |= stats.late
                if self._valid and not meters.num_updates and self.state.best.value is None:
                    by_class = isinstance(self.trainer.criterion, SampleCriterion)
                    check_metric(self._metric_name, stats.readings.values(), may_come=by_class)
                meters.add(stats, seconds)
                window.add(stats, seconds)
                progress.advance(1, **self._shown(window), **self._place(window, len(batches)))
                if window.num_updates >= every:
                    self._tensorboard.add("train", self._shown(window), self.trainer.num_updates)
                    window = Meters()
                if stats.stop:
                    check("")
                    raise Interrupted(signal.SIGTERM, between_steps=True)  # another process was asked
                if state.position < len(batches) and self._after_update():
                    break
        return meters

    def _shown(self, window: Meters) -> dict[str, float]:
        return {**window.values(), "num_updates": self.trainer.num_updates, **self._rest(window)}

    def _rest(self, meters: Meters) -> dict[str, float]:
        scaler = self.trainer.precision.scaler
        scale = {"loss_scale": scaler.get_scale()} if scaler.is_enabled() else {}
        return {"lr": meters.lr, **scale, "wall": round(time.monotonic() - self._start)}

    def _place(self, window: Meters, num_batches: int) -> dict[str, float]:
        """Returns what fairseq's lines of JSON say besides: epoch, epochs done, and seconds in updates."""
        if log_format() != "json":
            return {}
        done = self.state.epoch - 1 + self.state.position / num_batches
        return {"epoch": self.state.epoch, "update": round(done, 3), "train_wall": round(window.seconds)}

    def _after_update(self) -> bool:
        """Validates and saves in mid-epoch, if that is due; returns whether the run is over then."""
        config, number = self.config.checkpoint, self.trainer.num_updates
        saves = self._is_last_update() or self._time.is_over or is_due(number, config.save_interval_updates)
        metric = self._validate() if saves or is_due(number, config.validate_interval_updates) else None
        self.state.pending = False
        is_over = (saves or metric is not None) and self._is_over()
        if saves or metric is not None:
            self._save(self.state.epoch, metric, end_of_epoch=False, best_only=not (saves or is_over))
        return is_over

    def _end_epoch(self) -> None:
        epoch = self.state.epoch
        is_last = epoch == self.config.optimization.max_epoch or self._is_last_update() or self._time.is_over
        config, number = self.config.checkpoint, self.trainer.num_updates
        due = epoch % config.validate_interval == 0 or is_due(number, config.validate_interval_updates)
        metric = self._validate() if due or is_last else None
        if due and metric is not None:  # one that is made only because the run ends here is none of a longer run
            self.state.history.append((number, metric))
            look_at(self.trainer.schedule, self.state.history)
        self.state.next_epoch()
        self._save(epoch, metric, end_of_epoch=True)

    def _validate(self) -> float | None:
        """Validates on all splits, logs the results and returns the metric of the first; None before it is time."""
        first: float | None = None
        trainer, number = self.trainer, self.trainer.num_updates
        if number < self.config.checkpoint.validate_after_updates:
            return None
        seed = validation_seed(self.config.validation, trainer.seed, number)
        how = trainer.model, trainer.criterion, trainer.precision, trainer.group, seed
        results = [validate_on(valid, *how) for valid in self._valid]
        for valid, result in zip(self._valid, results, strict=True):
            values = {**result.values(), "num_updates": number}
            if first is None:
                try:
                    check_metric(self._metric_name, result.values())
                except ConfigError as err:  # a new run is kept; one that has a best by another metric stays as it is
                    where = "" if self.state.forgotten else f" ({self._save_where_it_stands()})"
                    raise ConfigError(f"{err}{where}") from err
                first = values[self._metric_name]
                self.state.best.add(first)
                values[f"best_{self._metric_name}"] = self.state.best.value or 0.0
            self._log_line(valid.split, values, result.speed())
            self._tensorboard.add(valid.split, values, number)
        return first

    def _log_line(self, part: str, values: Mapping[str, float], more: Mapping[str, float]) -> None:
        """Logs what an epoch or a validation came to; lines of JSON have all of it by fairseq's names as well."""
        if self.trainer.group.rank:
            return
        if log_format() == "json":
            record = {"epoch": self.state.epoch, "part": part, **values, **prefixed(part, {**values, **more})}
            logger.info("%s", json.dumps(record))
        else:
            shown = " | ".join(f"{name} {value:.6g}" for name, value in values.items())
            logger.info("epoch %03d | %s | %s", self.state.epoch, part, shown)

    def _save(self, epoch: int, metric: float | None, *, end_of_epoch: bool, best_only: bool = False) -> None:
        if metric is not None:
            self.state.last_metric = metric
        if not self._writes:
            return
        config, number = self.config.checkpoint, None if end_of_epoch else self.trainer.num_updates
        is_best = metric is not None and self.state.best.num_since == 0
        names = names_to_write(config, epoch, number, metric, is_best, self.config.suffix)
        names = [name for name in names if not (best_only and name == self.config.last)]
        start = time.monotonic()
        write_all(Path(config.save_dir), names, self._write_checkpoint, is_first=self._saves)
        if self._saves:
            delete_old(config, self._run, self.config.suffix)
        if names and self._saves:
            logger.info("saved %s in %s (%.1f s)", ", ".join(names), config.save_dir, time.monotonic() - start)

    def _save_where_it_stands(self) -> str:
        """Saves ``checkpoint_last`` between two updates, and returns how to go on."""
        config = self.config.checkpoint
        if config.no_save or config.no_last_checkpoints:
            return "nothing was saved, as the flags say"
        if self._writes:
            write_all(Path(config.save_dir), [self.config.last], self._write_checkpoint)
        self.trainer.group.wait()  # torchrun stops all processes when one of them has ended
        where = f"update {self.trainer.num_updates} is saved in {config.save_dir}/{self.config.last}"
        return f"{where}, and the same command goes on from there"

    def _write_checkpoint(self, path: Path) -> None:
        seconds = self._time.elapsed_s if self._time.hours else None
        write_checkpoint(path, self.config, self.trainer, self.state, self._run, self.task.dictionary.sha256(), seconds)
