"""TensorBoard logs, when ``--tensorboard-logdir`` asks for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq.errors import ConfigError


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
