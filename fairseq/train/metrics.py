"""Metrics of training: running sums for the progress line, and TensorBoard."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq.criterions.perplexity import loss_and_ppl
from fairseq.errors import ConfigError
from fairseq.train.trainer import UpdateStats


@dataclass
class Meters:
    """Sums over the updates since they were last reset."""

    nats: float = 0.0
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
        self.nats += stats.nats
        self.num_targets += stats.num_targets
        self.num_rows += stats.num_rows
        self.num_updates += 1
        self.seconds += seconds
        self.lr = stats.lr
        self.num_clipped += stats.clipped
        self.gradient_norm_sum += stats.gradient_norm if math.isfinite(stats.gradient_norm) else 0.0

    def values(self) -> dict[str, float]:
        """Returns loss (bits per token), ppl, tokens and updates per second, and the like, by fairseq's names."""
        n, elapsed_s = max(self.num_updates, 1), max(time.monotonic() - self.start, 1e-9)
        return {
            **loss_and_ppl(self.nats, self.num_targets),
            "wps": self.num_targets / elapsed_s,
            "ups": self.num_updates / elapsed_s,
            "wpb": self.num_targets / n,
            "bsz": self.num_rows / n,
            "gnorm": self.gradient_norm_sum / n,
            "clip": 100 * self.num_clipped / n,
        }


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
