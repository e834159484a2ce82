"""Flags that every command has, and what several commands ask of a flag."""

from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import File, Place

MODEL_OVERRIDES = "settings that replace the checkpoint's, such as \"{'tokens_per_sample': 128}\""
REMOTE_CODE = "run the code that lies with a Hugging Face model, for families that transformers does not have"
LOG_FORMATS = {"tqdm": "a bar", "simple": "lines", "json": "lines of JSON", "none": "no progress"}


@dataclass(frozen=True)
class CommonConfig:
    """Seed, log and progress, of every command."""

    seed: int = flag(1, "seed of all random numbers", minimum=0)
    user_dir: Place | None = flag(None, "plugin: a package directory or .py file that registers models, optimizers, …")
    log_interval: int = flag(100, "report progress every N batches", minimum=1)
    log_format: str | None = flag(
        None, "how progress is shown [default: tqdm in a terminal, else simple]", choices=LOG_FORMATS
    )
    no_progress_bar: bool = flag(False, "show progress as lines, even in a terminal")
    log_file: File | None = flag(None, "also append the log and the lines of progress to this file")
    traceback: bool = flag(False, "show the Python traceback of an error")


@dataclass(frozen=True)
class DeviceConfig:
    """Device and precision."""

    cpu: bool = flag(False, "compute on the CPU, even if there is a GPU")
    fp16: bool = flag(False, "compute in float16, on a GPU; a CPU computes in float32 instead, with a warning")
    bf16: bool = flag(
        False,
        "compute in bfloat16; a CPU without instructions for it computes in float32 instead, with a warning",
        aliases=("--memory-efficient-bf16",),
    )
    memory_efficient_fp16: bool = flag(False, "an older spelling of --fp16")
    fp16_init_scale: float = flag(128.0, "loss scale at the start of --fp16 training", minimum=1e-8)
    fp16_scale_window: int | None = flag(
        None, "double the loss scale after N updates without overflow [default: 2000]", minimum=1
    )
    min_loss_scale: float = flag(1e-4, "stop training when the loss scale falls below this", minimum=0)
    num_workers: int = flag(
        1,
        "data loading processes",
        minimum=0,
        no_effect="data is memory-mapped and needs no loading processes",
    )


@dataclass(frozen=True)
class LossScaleConfig:
    """Loss scale of training in float16, further flags."""

    amp: bool = flag(False, "another spelling of --fp16: products in float16, weights and sums in float32")
    amp_init_scale: float = flag(128.0, "loss scale at the start of --amp training", minimum=1e-8)
    amp_scale_window: int | None = flag(None, "the same as --fp16-scale-window, with --amp", minimum=1)
    threshold_loss_scale: float | None = flag(None, "never lower the loss scale below this", minimum=1e-8)
