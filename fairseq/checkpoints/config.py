"""The flags of ``fairseq-knnlm convert`` and of averaging checkpoints, in a module without torch."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import File, Place
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class ConvertConfig:
    """Weights to convert."""

    source: File = flag(
        dataclasses.MISSING,
        "checkpoint (.pt, or a directory .dcp), weights (.safetensors), or a model as .gguf",
        positional=True,
    )
    target: Place = flag(
        dataclasses.MISSING, "file to write: .safetensors or .pt; of a .gguf, a new directory", positional=True
    )
    overwrite: bool = flag(False, "replace an existing file; a directory is never replaced")


@dataclass(frozen=True)
class AverageConfig:
    """Checkpoints to average."""

    inputs: tuple[File, ...] = flag(
        dataclasses.MISSING, "checkpoints; or one directory, with one of the next three flags", several=True
    )
    output: File = flag(dataclasses.MISSING, "checkpoint to write (.pt)")
    num_epoch_checkpoints: int | None = flag(None, "average the last N checkpoints of epochs", minimum=1)
    num_update_checkpoints: int | None = flag(
        None, "average the last N checkpoints of --save-interval-updates", minimum=1
    )
    num_best_checkpoints: int | None = flag(
        None, "average the best N checkpoints of --keep-best-checkpoints", minimum=1
    )
    checkpoint_upper_bound: int | None = flag(None, "none of a later epoch, or update, than N", minimum=1)
    overwrite: bool = flag(False, "replace an existing file")

    def __post_init__(self) -> None:
        names = ("num_epoch_checkpoints", "num_update_checkpoints", "num_best_checkpoints")
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} exclude each other; leave all but one out")
        if self.checkpoint_upper_bound is not None and given not in (
            ["--num-epoch-checkpoints"],
            ["--num-update-checkpoints"],
        ):
            raise ConfigError(
                "--checkpoint-upper-bound needs --num-epoch-checkpoints or --num-update-checkpoints; give one of them"
            )

    def wanted(self, epochs: str, updates: str, best: str) -> tuple[str, int | None, str]:
        """Returns one of three values, how many checkpoints are wanted of which it is, and the flag that says so.

        Without such a flag the number is None.
        """
        for value, name in ((epochs, "epoch"), (updates, "update"), (best, "best")):
            number = getattr(self, f"num_{name}_checkpoints")
            if number is not None:
                return value, number, f"--num-{name}-checkpoints"
        return "", None, ""
