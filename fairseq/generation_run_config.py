"""The flags of the commands that generate text, in a module that does not import torch."""

from dataclasses import dataclass

from fairseq.config import flag
from fairseq.errors import ConfigError

MAX_TOKENS = 12_000  # in a batch, where nothing is said; the default of fairseq-generate


@dataclass(frozen=True)
class GenerationRunConfig:
    """Model and output."""

    path: str | None = flag(None, "checkpoint")
    task: str = flag("language_modeling", "task")
    model_overrides: str = flag("{}", "a Python literal dict of settings that replace the checkpoint's")
    max_tokens: int | None = flag(
        None, "tokens in a batch, a prompt and its longest text counted --beam times; 12000 without --batch-size",
        minimum=1,
    )  # fmt: skip
    max_sentences: int | None = flag(None, "prompts in a batch", aliases=("--batch-size",), minimum=1)
    remove_bpe: str | None = flag(
        None, "join subwords that end in this mark (@@ when it is empty) in what is printed", optional_value="@@ "
    )

    def __post_init__(self) -> None:
        if not (self.path or "").strip(":"):
            raise ConfigError("--path is required: the checkpoint to generate with")
        if ":" in str(self.path):
            raise ConfigError("--path names several checkpoints, but text is generated with one; give one")
        if self.remove_bpe in ("sentencepiece", "letter", "_EOW"):
            raise ConfigError(
                f"--remove-bpe {self.remove_bpe} is not supported: give the mark that a subword ends in, such as '@@ '"
            )

    @property
    def most_batch_tokens(self) -> int | None:
        """Most tokens of a batch; None where only prompts are counted."""
        return MAX_TOKENS if self.max_tokens is None and self.max_sentences is None else self.max_tokens


@dataclass(frozen=True)
class SplitPromptsConfig:
    """Prompts: the beginnings of a split's blocks."""

    gen_subset: str = flag("test", "name of the data whose blocks begin with the prompts")
    prefix_size: int = flag(0, "tokens at the front of each block that are its prompt", minimum=0)
    num_shards: int = flag(1, "cut the prompts into N shards", minimum=1)
    shard_id: int = flag(0, "continue this shard's prompts only", minimum=0)
    dataset_impl: str = flag("mmap", "storage of the data set", choices=("mmap",))

    def __post_init__(self) -> None:
        if self.shard_id >= self.num_shards:
            raise ConfigError(f"--shard-id {self.shard_id} must be below --num-shards {self.num_shards}")


@dataclass(frozen=True)
class LinePromptsConfig:
    """Prompts: lines of text."""

    input: str = flag("-", "file of prompts, a line each; - is the standard input")
    buffer_size: int = flag(
        0, "lines that are read before they are continued together; 0, like 1: each at once", minimum=0
    )
