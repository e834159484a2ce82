"""The flags of generating text, in a module that does not import torch."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.common import MODEL_OVERRIDES, REMOTE_CODE
from fairseq.config.flags import at_least, flag
from fairseq.config.kinds import File, Mark, Name, Settings, Split
from fairseq.config.path_lists import split_paths
from fairseq.errors import ConfigError
from fairseq.text.post_process import check_post_process

LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class GenerationConfig:
    """How texts are generated: beam search, or random draws with --sampling."""

    beam: int = flag(5, "texts to follow at once for each prompt; 1: greedy search", minimum=1, maximum=10_000)
    nbest: int = flag(1, "texts to print for each prompt, the best first", minimum=1)
    max_len_a: float = flag(0.0, "a: at most a·x + b tokens follow a prompt of x tokens", minimum=0)
    max_len_b: int = flag(200, "b: at most a·x + b tokens follow a prompt of x tokens", minimum=0)
    min_len: int = flag(1, "a text has at least N tokens before </s>", minimum=0)
    lenpen: float = flag(
        1.0, "length penalty: a text's score is its log-probability divided by length**X", minimum=-10, maximum=10
    )
    unnormalized: bool = flag(False, "a text's score is its log-probability, whatever its length")
    unkpen: float = flag(0.0, "subtract this from the score for each <unk>, in nats")
    no_repeat_ngram_size: int = flag(
        0, "repeat no sequence of N tokens in prompt and text (0: allow repeats)", minimum=0
    )
    sampling: bool = flag(False, "draw tokens at random by their probabilities; --beam texts for each prompt")
    sampling_topk: int = flag(-1, "draw among the N most probable tokens (-1: all)")
    sampling_topp: float = flag(
        -1.0, "draw among the most probable tokens that together reach probability X (-1: all)", maximum=1
    )
    temperature: float = flag(1.0, "draw tokens by p^(1/T): below 1 sharper, above 1 flatter")

    def __post_init__(self) -> None:
        if self.nbest > self.beam:
            raise ConfigError(f"--nbest {self.nbest} must be at most --beam {self.beam}; raise --beam")
        if self.temperature != 1 and not self.sampling:
            raise ConfigError("--temperature has an effect only with --sampling; give that as well")
        if self.temperature < LEAST_TEMPERATURE:
            raise ConfigError(
                f"--temperature must be {at_least(LEAST_TEMPERATURE, self.temperature)}, but is {self.temperature};"
                " --beam 1 without --sampling gives the most probable tokens"
            )
        for name, value in (("--sampling-topk", self.sampling_topk), ("--sampling-topp", self.sampling_topp)):
            if value != -1 and value <= 0:
                raise ConfigError(f"{name} must be greater than 0, or -1 for all, but is {value}")
            if value != -1 and not self.sampling:
                raise ConfigError(f"{name} has an effect only with --sampling; give that as well")
        if self.sampling_topk != -1 and self.sampling_topp != -1:
            raise ConfigError("--sampling-topk and --sampling-topp exclude each other; leave one out")
        if self.max_len_a == 0 and self.min_len > self.max_len_b:
            raise ConfigError(f"--min-len {self.min_len} must be at most --max-len-b {self.max_len_b}; lower it")

    def most_tokens(self, prompt_size: int) -> int:
        """Returns how many tokens may follow a prompt: a·x + b."""
        return int(self.max_len_a * prompt_size + self.max_len_b)

    def score(self, log_p: float, size: int) -> float:
        """Returns the score of a text of ``size`` tokens, ``</s>`` among them: ln p / size^lenpen."""
        return log_p if self.unnormalized or size == 0 else float(log_p / size**self.lenpen)


MAX_TOKENS = 12_000  # in a batch, where nothing is said; the default of fairseq-generate


@dataclass(frozen=True)
class GenerationRunConfig:
    """Model and output."""

    path: File = flag(dataclasses.MISSING, "checkpoint to generate with, or directory of a Hugging Face model")
    task: Name = flag("language_modeling", "task; others come from plugins")
    model_overrides: Settings = flag("{}", MODEL_OVERRIDES)
    trust_remote_code: bool = flag(False, REMOTE_CODE)
    max_tokens: int | None = flag(
        None,
        "most tokens in a batch: prompt and longest text, --beam times [default: 12000 without --batch-size]",
        minimum=1,
    )
    max_sentences: int | None = flag(None, "most prompts in a batch", aliases=("--batch-size",), minimum=1)
    post_process: Mark | None = flag(
        None,
        "join subwords that end in MARK ('@@ ' if left out), or of sentencepiece, in what is printed",
        aliases=("--remove-bpe",),
        optional_value="@@ ",
    )

    def __post_init__(self) -> None:
        if len(split_paths(self.path)) > 1:
            raise ConfigError("--path names several checkpoints, but text is generated with one; give one")
        check_post_process(self.post_process)

    @property
    def most_batch_tokens(self) -> int | None:
        """Most tokens of a batch; None where only prompts are counted."""
        return MAX_TOKENS if self.max_tokens is None and self.max_sentences is None else self.max_tokens


@dataclass(frozen=True)
class SplitPromptsConfig:
    """Prompts: the beginnings of a split's blocks."""

    gen_subset: Split = flag("test", "split whose blocks begin with the prompts")
    prefix_size: int = flag(0, "tokens of each block that are its prompt, from its beginning", minimum=0)
    num_shards: int = flag(1, "split the prompts into N shards, for N processes", minimum=1)
    shard_id: int = flag(0, "which shard to continue, from 0", minimum=0)
    dataset_impl: str = flag("mmap", "storage of the data", choices=("mmap",))

    def __post_init__(self) -> None:
        if self.shard_id >= self.num_shards:
            raise ConfigError(f"--shard-id {self.shard_id} must be below --num-shards {self.num_shards}")


@dataclass(frozen=True)
class LinePromptsConfig:
    """Prompts: lines of text."""

    input: File = flag("-", "file of prompts, one a line; - is the standard input")
    buffer_size: int = flag(
        0, "lines to read before continuing them together; 0 or 1 answers each line at once", minimum=0
    )
