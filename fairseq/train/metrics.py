"""Metrics of training: running sums for the progress line, fairseq's names for them, and TensorBoard."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq.errors import ConfigError, did_you_mean, shown
from fairseq.logging.metrics import Readings
from fairseq.train.trainer import UpdateStats

logger = logging.getLogger(__name__)


@dataclass
class Meters:
    """Sums over the updates since they were last reset."""

    readings: Readings = field(default_factory=Readings)
    num_targets: int = 0
    num_rows: int = 0
    num_updates: int = 0
    num_clipped: int = 0
    gradient_norm_sum: float = 0.0
    seconds: float = 0.0
    lr: float = 0.0
    start: float = field(default_factory=time.monotonic)

    def add(self, stats: UpdateStats, seconds: float = 0.0) -> None:
        """Counts one update, and the seconds that it took."""
        self.readings.add(stats.readings)
        self.num_targets += stats.num_targets
        self.num_rows += stats.num_rows
        self.num_updates += 1
        self.seconds += seconds
        self.lr = stats.lr
        self.num_clipped += stats.clipped
        self.gradient_norm_sum += stats.gradient_norm if math.isfinite(stats.gradient_norm) else 0.0

    def values(self) -> dict[str, float]:
        """Returns loss (in bits), ppl, tokens and updates per second, and the like, by fairseq's names."""
        n, elapsed_s = max(self.num_updates, 1), max(time.monotonic() - self.start, 1e-9)
        return {
            **self.readings.values(),
            "wps": self.num_targets / elapsed_s,
            "ups": self.num_updates / elapsed_s,
            "wpb": self.num_targets / n,
            "bsz": self.num_rows / n,
            "gnorm": self.gradient_norm_sum / n,
            "clip": 100 * self.num_clipped / n,
        }


def check_metric(name: str, known: Mapping[str, float], *, may_come: bool = False) -> None:
    """Raises ConfigError if the metric by which the best is chosen is not among those that were told.

    ``may_come`` only warns: these were told in training, and validation may tell others.
    """
    if name in known:
        return
    must = f"--best-checkpoint-metric must be one of {', '.join(known)}, which --criterion tells"
    found = f"but is {shown(name)}{did_you_mean(name, known)}"
    if not may_come:
        raise ConfigError(f"{must}, {found}")
    logger.warning("%s, or one that it tells in validation alone, %s", must, found)


class TensorBoard:
    """Writes scalars under ``LOGDIR/train`` and ``LOGDIR/valid``; without a directory it does nothing."""

    def __init__(self, logdir: str | None) -> None:
        self._logdir = Path(logdir) if logdir else None
        self._writers: dict[str, Any] = {}
        if logdir:
            try:
                import tensorboard  # noqa: F401
            except ImportError as err:
                raise ConfigError(
                    "--tensorboard-logdir needs the tensorboard package: pip install 'fairseq-knnlm[tensorboard]'"
                ) from err

    def add(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Logs scalars of ``part`` (train or valid) at update ``step``."""
        if self._logdir is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        if part not in self._writers:
            self._writers[part] = SummaryWriter(str(self._logdir / part))
        for name, value in values.items():
            self._writers[part].add_scalar(name, value, step)
        self._writers[part].flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()
