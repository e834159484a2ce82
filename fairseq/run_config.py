"""The configs that every command shares, kept in a module without torch so that ``--help`` stays instant."""

from dataclasses import dataclass
from pathlib import Path

from fairseq.config import flag
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
        1, "data loading processes", minimum=0,
        no_effect="batches are slices of a memory-mapped file, quicker to cut than to send between processes",
    )  # fmt: skip


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation."""

    path: str | None = flag(None, "checkpoint; A:B averages the probabilities of several")
    task: str = flag("language_modeling", "task")
    gen_subset: str = flag("test", "name of the data to evaluate on")
    max_tokens: int = flag(36000, "padded tokens in a batch, context not counted", minimum=1)
    max_sentences: int | None = flag(None, "blocks in a batch", aliases=("--batch-size",), minimum=1)
    required_batch_size_multiple: int = flag(1, "make the number of rows a multiple of N where it can be", minimum=1)
    context_window: int = flag(0, "earlier tokens that each block sees and that are not scored again", minimum=0)
    softmax_batch: int | None = flag(None, "most rows that the output layer takes at once", minimum=1)
    model_overrides: str = flag("{}", "a Python literal dict of settings that replace the checkpoint's")
    remove_bpe: str | None = flag(
        None, "join subwords that end in this mark (@@ when it is empty) and count whole words", optional_value="@@ "
    )
    output_word_probs: bool = flag(False, "print each block's words with their log-probabilities")
    output_word_stats: bool = flag(False, "print a table of words: counts and sums of log-probabilities")
    num_shards: int = flag(1, "cut the batches into N shards", minimum=1)
    shard_id: int = flag(0, "evaluate this shard only", minimum=0)
    results_path: str | None = flag(None, "write the result and every setting in force to this directory or .json file")
    dataset_impl: str = flag("mmap", "storage of the data set", choices=("mmap",))
    tensorboard_logdir: str | None = flag(None, "TensorBoard logs", no_effect="only training writes them")
    skip_invalid_size_inputs_valid_test: bool = flag(
        False, "leave out blocks that are longer than the model's positions",
        no_effect="evaluation always does, with a warning that counts the tokens",
    )  # fmt: skip

    @property
    def results_file(self) -> Path | None:
        """The file that ``--results-path`` names: itself if it ends in .json, else one in that directory."""
        if self.results_path is None:
            return None
        path = Path(self.results_path)
        return path if path.suffix == ".json" else path / f"eval_{self.gen_subset}.json"

    def __post_init__(self) -> None:
        if not (self.path or "").strip(":"):
            raise ConfigError("--path is required: the checkpoint to evaluate")
        if self.results_file is not None and self.results_file.is_dir():
            raise ConfigError(f"--results-path: {self.results_file} must be a file, but is a directory; give another")
        if self.remove_bpe in ("sentencepiece", "letter", "_EOW"):
            raise ConfigError(
                f"--remove-bpe {self.remove_bpe} is not supported: give the mark that a subword ends in, such as '@@ '"
            )
        if self.shard_id >= self.num_shards:
            raise ConfigError(f"--shard-id {self.shard_id} must be below --num-shards {self.num_shards}")
