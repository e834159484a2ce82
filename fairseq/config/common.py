"""Flags that every command has, and what several commands ask of a flag."""

from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class CommonConfig:
    """Every command."""

    seed: int = flag(1, "seed of every random choice", minimum=0)
    user_dir: str | None = flag(None, "a package or .py file that registers further models, tasks, optimizers, …")
    log_interval: int = flag(100, "report progress every N batches", minimum=1)
    log_format: str | None = flag(
        None, "form of progress; a bar in a terminal, else lines", choices=("json", "simple", "tqdm", "none")
    )
    no_progress_bar: bool = flag(False, "report progress in lines even in a terminal")
    log_file: str | None = flag(None, "append the log and the lines of progress to this file as well")
    traceback: bool = flag(False, "show the whole traceback of an error")


@dataclass(frozen=True)
class DeviceConfig:
    """Device and precision."""

    cpu: bool = flag(False, "compute on the CPU even where there is a GPU")
    fp16: bool = flag(False, "compute in half precision (on a GPU; a CPU uses float32 and says so)")
    bf16: bool = flag(False, "compute in bfloat16 (on a CPU without instructions for it in float32, and says so)")
    memory_efficient_fp16: bool = flag(False, "an older spelling of --fp16")
    fp16_init_scale: float = flag(128.0, "first loss scale of --fp16 training", minimum=1e-8)
    fp16_scale_window: int | None = flag(None, "updates without overflow before the loss scale doubles", minimum=1)
    min_loss_scale: float = flag(1e-4, "smallest loss scale; training stops below it", minimum=0)
    num_workers: int = flag(
        1,
        "data loading processes",
        minimum=0,
        no_effect="batches are slices of a memory-mapped file, quicker to cut than to send between processes",
    )


def check_subword_mark(mark: str | None) -> None:
    """Raises ConfigError for a ``--remove-bpe`` that names a scheme of fairseq's instead of a mark."""
    if mark in ("sentencepiece", "letter", "_EOW"):
        raise ConfigError(f"--remove-bpe {mark} is not supported: give the mark that a subword ends in, such as '@@ '")
