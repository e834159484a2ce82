"""The training loop: epochs of updates, with validations and checkpoints between them.

    for each epoch:  batches in the epoch's order ─ updates ─ validate ─ save
                                  └ also after every --save-interval-updates

SIGINT and SIGTERM wait for the end of the update; then the run saves where it stands.
"""

import json
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairseq.data.block_dataset import Batch
from fairseq.optim.lr_schedules import stop_lr
from fairseq.runtime.interrupts import Interrupted, asked_to_stop, check, checked, finish_step_first
from fairseq.runtime.log import log_format
from fairseq.runtime.progress import Progress
from fairseq.train.checkpoint_files import delete_old, names_to_write, write_all
from fairseq.train.config import LAST, CheckpointConfig, RunConfig
from fairseq.train.data import Epoch, ValidationSplit, load_epoch, load_validation
from fairseq.train.length import updates_left
from fairseq.train.metrics import Meters, TensorBoard, loss_and_ppl
from fairseq.train.origin import choose_start
from fairseq.train.ownership import refuse_foreign
from fairseq.train.position import EpochOrder, position_among
from fairseq.train.restore import restore
from fairseq.train.state import Best, RunState, write_checkpoint
from fairseq.train.trainer import Trainer, UpdateStats

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
        self._start = time.monotonic()
        self._tensorboard = TensorBoard(config.train.tensorboard_logdir if trainer.group.rank == 0 else None)
        self._valid = load_validation(task, trainer, config.batching, config.checkpoint)
        if self._valid:
            self.state.best.kind = _kind_of_best(config.checkpoint, self._valid[0])
        start = choose_start(config)
        restore(start, config, task, trainer, self.state)
        self._run = start.run
        if self._saves:
            refuse_foreign(config.checkpoint, self._run, self.state.epoch, config.optimization.max_epoch)

    def run(self) -> None:
        """Trains until a bound is reached, then returns."""
        if self._saves:
            delete_old(self.config.checkpoint, self._run)  # a run may have been killed just before
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
            self._log_line("train", {**meters.values(), "num_updates": self.trainer.num_updates})
        self._end_epoch()

    def _find_position(self, now: EpochOrder) -> None:
        """Finds the run's position among the batches that there are now."""
        state = self.state
        position = position_among(state.position, state.order, now)
        if position is None:
            logger.warning(
                "epoch %d begins anew: the %d batches that were done of it are not among those of this text and"
                " these settings (--max-tokens, --tokens-per-sample, --seed, …)",
                state.epoch,
                state.position,
            )
        state.position, state.order = position or 0, now

    def _make_updates(self, epoch: Epoch) -> Meters:
        """Makes the remaining updates of the epoch, unless the run ends before; returns their sums."""
        state, freqs, batches = self.state, self.config.optimization.update_freq, epoch.batches
        freq, every = freqs[min(state.epoch, len(freqs)) - 1], self.config.common.log_interval
        meters, window = Meters(), Meters()
        bounds, num_updates, done = self.config.optimization, self.trainer.num_updates, state.position // freq
        now, later = updates_left(bounds, len(batches), state.position, state.epoch, num_updates)
        stage = f"epoch {state.epoch:03d}"
        with Progress(stage, done + now, "updates", done=done, every=every, more=later) as progress:
            while state.position < len(batches):
                chunk = batches[state.position : state.position + freq]
                rows = [epoch.dataset.collate(idx) for idx in chunk if len(idx)]
                stats = self.trainer.update(rows, state.epoch, stop=asked_to_stop())
                state.position, state.pending = state.position + len(chunk), True
                meters.add(stats)
                window.add(stats)
                progress.advance(1, **self._shown(window, stats))
                if window.num_updates >= every:
                    self._tensorboard.add("train", self._shown(window, stats), self.trainer.num_updates)
                    window = Meters()
                if stats.stop:
                    check("")
                    raise Interrupted(signal.SIGTERM, between_steps=True)  # another process was asked
                if state.position < len(batches) and self._after_update():
                    break
        return meters

    def _shown(self, window: Meters, stats: UpdateStats) -> dict[str, float]:
        shown = {**window.values(), "num_updates": self.trainer.num_updates, "lr": stats.lr}
        if self.trainer.precision.scaler.is_enabled():
            shown["loss_scale"] = self.trainer.precision.scaler.get_scale()
        return {**shown, "wall": round(time.monotonic() - self._start)}

    def _after_update(self) -> bool:
        """Validates and saves in mid-epoch, if that is due; returns whether the run is over then."""
        every = self.config.checkpoint.save_interval_updates
        due = self._is_last_update() or (every > 0 and self.trainer.num_updates % every == 0)
        metric = self._validate() if due else None
        self.state.pending = False
        if not due:
            return False
        self._save(self.state.epoch, metric, end_of_epoch=False)
        return self._is_over()

    def _end_epoch(self) -> None:
        epoch = self.state.epoch
        is_last = epoch == self.config.optimization.max_epoch or self._is_last_update()
        due = is_last or epoch % self.config.checkpoint.validate_interval == 0
        metric = self._validate() if due else None
        self.state.next_epoch()
        self._save(epoch, metric, end_of_epoch=True)

    def _validate(self) -> float | None:
        """Validates on all splits, logs the results and returns the metric of the first."""
        first: float | None = None
        sums = [self.trainer.validate(self._batches_of(valid)) for valid in self._valid]
        for valid, (nats, num_targets) in zip(self._valid, sums, strict=True):
            values = {**loss_and_ppl(nats, num_targets), "num_updates": self.trainer.num_updates}
            if first is None:
                first = values[self._metric_name]
                self.state.best.add(first)
                values[f"best_{self._metric_name}"] = self.state.best.value or 0.0
            self._log_line(valid.split, values)
            self._tensorboard.add(valid.split, values, self.trainer.num_updates)
        return first

    def _batches_of(self, valid: ValidationSplit) -> Iterator[Batch]:
        """Yields the batches of a split, and shows how far it is."""
        alone = self.trainer.group.world_size == 1  # one process among several validates to the end
        with Progress(f"validate on {valid.split}", len(valid.batches), "batches") as progress:
            for idx in checked(valid.batches) if alone else valid.batches:
                yield valid.dataset.collate(idx)
                progress.advance(1)

    def _log_line(self, part: str, values: Mapping[str, float]) -> None:
        if self.trainer.group.rank:
            return
        if log_format() == "json":
            logger.info("%s", json.dumps({"epoch": self.state.epoch, "part": part, **values}))
        else:
            shown = " | ".join(f"{name} {value:.6g}" for name, value in values.items())
            logger.info("epoch %03d | %s | %s", self.state.epoch, part, shown)

    def _save(self, epoch: int, metric: float | None, *, end_of_epoch: bool) -> None:
        if metric is not None:
            self.state.last_metric = metric
        if not self._saves:
            return
        config, num_updates = self.config.checkpoint, self.trainer.num_updates
        is_best = metric is not None and self.state.best.num_since == 0
        names = names_to_write(config, epoch, None if end_of_epoch else num_updates, metric, is_best)
        start = time.monotonic()
        write_all(Path(config.save_dir), names, self._write_checkpoint)
        delete_old(config, self._run)
        logger.info("saved %s in %s (%.1f s)", ", ".join(names), config.save_dir, time.monotonic() - start)

    def _save_where_it_stands(self) -> str:
        """Saves ``checkpoint_last.pt`` between two updates, and returns how to go on."""
        config = self.config.checkpoint
        if config.no_save or config.no_last_checkpoints:
            return "nothing was saved, as the flags say"
        if self._saves:
            write_all(Path(config.save_dir), [LAST], self._write_checkpoint)
        return (
            f"update {self.trainer.num_updates} is saved in {config.save_dir}/{LAST}, and the same command goes on from"
            " there"
        )

    def _write_checkpoint(self, path: Path) -> None:
        write_checkpoint(path, self.config, self.trainer, self.state, self._run, self.task.dictionary.sha256())


def _kind_of_best(config: CheckpointConfig, valid: ValidationSplit) -> str:
    """Returns what a best validation is the best of."""
    which = "largest" if config.maximize_best_checkpoint_metric else "lowest"
    return f"{which} {config.best_checkpoint_metric} of '{valid.split}' ({valid.dataset.sha256()[:16]})"
