"""Which checkpoint files a training run writes, and which it keeps.

checkpoint_last.pt            the newest, to resume from
checkpoint_best.pt            the best by the validation metric
checkpoint{N}.pt              after epoch N
checkpoint_{E}_{U}.pt         in epoch E after U updates (--save-interval-updates)
checkpoint.best_loss_{M}.pt   the few best, named by their metric (--keep-best-checkpoints)
"""

import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairseq.runtime.files import atomic_write, fsync_directory
from fairseq.train.config import CheckpointConfig


@dataclass
class Best:
    """The best validation metric so far, and how many validations have passed without a better one."""

    maximize: bool
    value: float | None = None
    num_since: int = 0

    def add(self, metric: float) -> bool:
        """Counts a validation; returns whether it is the best so far."""
        better = self.value is None or (metric > self.value if self.maximize else metric < self.value)
        if better and not math.isnan(metric):
            self.value, self.num_since = metric, 0
            return True
        self.num_since += 1
        return False


def names_to_write(
    config: CheckpointConfig, *, epoch: int, num_updates: int, end_of_epoch: bool, is_best: bool, metric: float | None
) -> list[str]:
    """Returns the names under which the state of this moment is saved; ``checkpoint_last.pt`` comes last."""
    names = []
    if end_of_epoch and not config.no_epoch_checkpoints and epoch % config.save_interval == 0:
        names.append(f"checkpoint{epoch}.pt")
    if not end_of_epoch and config.save_interval_updates and num_updates % config.save_interval_updates == 0:
        names.append(f"checkpoint_{epoch}_{num_updates}.pt")
    if metric is not None and is_best:
        names.append("checkpoint_best.pt")
    if metric is not None and config.keep_best_checkpoints > 0:
        names.append(f"checkpoint.best_{config.best_checkpoint_metric}_{metric:.4f}.pt")
    if not config.no_last_checkpoints:
        names.append("checkpoint_last.pt")
    return names


def write_all(save_dir: Path, names: list[str], write: Callable[[Path], None]) -> None:
    """Writes the first name and hard-links the others to it, each by an atomic rename.

    What a run goes on from comes last, and a checkpoint after its JSON: a run killed in between writes all of it again.
    """
    if not names:
        return
    first = save_dir / names[0]
    write(first)
    for name in names[1:]:
        fsync_directory(save_dir)
        for suffix in (".json", ".pt"):
            _link(first.with_suffix(suffix), (save_dir / name).with_suffix(suffix))
    fsync_directory(save_dir)


def _link(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        with source.open("rb") as whole, atomic_write(target) as copy:
            shutil.copyfileobj(whole, copy)
    else:
        temporary.replace(target)


def delete_old(config: CheckpointConfig) -> None:
    """Deletes what the keep-policies do not keep."""
    save_dir = Path(config.save_dir)
    if not save_dir.is_dir():
        return
    if config.keep_interval_updates >= 0:
        _keep(save_dir, r"checkpoint_\d+_(\d+)\.pt", config.keep_interval_updates, newest_is_largest=True)
    if config.keep_last_epochs >= 0:
        _keep(save_dir, r"checkpoint(\d+)\.pt", config.keep_last_epochs, newest_is_largest=True)
    if config.keep_best_checkpoints > 0:
        pattern = rf"checkpoint\.best_{config.best_checkpoint_metric}_(-?[\d.]+|inf|nan)\.pt"
        _keep(save_dir, pattern, config.keep_best_checkpoints, config.maximize_best_checkpoint_metric)


def _keep(save_dir: Path, pattern: str, count: int, newest_is_largest: bool) -> None:
    found = [(float(match[1]), path) for path in save_dir.iterdir() if (match := re.fullmatch(pattern, path.name))]
    for _, path in sorted(found, reverse=newest_is_largest)[count:]:
        path.with_suffix(".json").unlink(missing_ok=True)  # first: whoever is killed here finds the checkpoint again
        path.unlink()
