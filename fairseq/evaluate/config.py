"""Flags of evaluation: of a split, of lines of text, and of the continuous cache."""

import dataclasses
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

from fairseq.config.common import MODEL_OVERRIDES, REMOTE_CODE
from fairseq.config.flags import flag
from fairseq.config.kinds import Dir, File, Files, Mark, Name, Place, Settings, Split
from fairseq.errors import ConfigError
from fairseq.storage.files import is_stream
from fairseq.text.post_process import check_post_process

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheConfig:
    """Continuous cache: recent tokens of the text; lists are tried in one pass."""

    cache_size: tuple[int, ...] = flag((), "tokens that the cache holds, the most recent ones of the text", minimum=1)
    cache_lmbda: tuple[float, ...] = flag(
        (0.0,), "weight μ of the cache: p = (1 − λ − μ) p_LM + λ p_kNN + μ p_cache", minimum=0, maximum=1
    )
    cache_theta: tuple[float, ...] = flag(
        (1.0,),
        "sharpness θ: a cached token's weight is exp(θ h·h′), h its context vector, h′ the present one",
        minimum=0,
    )

    @property
    def pairs(self) -> list[tuple[int, float]]:
        """Every size with every θ."""
        return list(itertools.product(self.cache_size, self.cache_theta))

    @property
    def is_on(self) -> bool:
        """Whether a cache has any weight."""
        return bool(self.cache_size) and any(self.cache_lmbda)

    @property
    def is_sweep(self) -> bool:
        """Whether there is more than one setting to try."""
        return self.is_on and max(len(self.cache_size), len(self.cache_lmbda), len(self.cache_theta)) > 1

    @property
    def weight(self) -> float:
        """μ where there is one; 0 in a sweep, which mixes by itself, and without a cache."""
        return self.cache_lmbda[0] if self.is_on and not self.is_sweep else 0.0

    def check(self, num_models: int, num_shares: int, lmbda: float | None, *, prints_words: bool, saves: bool) -> None:
        """Refuses what a cache cannot be combined with.

        Args:
            num_models: averaged.
            num_shares: shards of the evaluation, or processes.
            lmbda: the neighbours' weight, if there are any.
            prints_words: words and their probabilities are printed.
            saves: what the caches say of each token is kept; then they need no weight.

        Raises:
            ConfigError: shards, several models, weights above 1, or a sweep of what is no single result.
        """
        if not self.cache_size:
            return
        if num_shares > 1:
            raise ConfigError(
                "--cache-size needs the text in order and cannot be sharded; leave out"
                " --num-shards, --distributed-world-size and torchrun"
            )
        if num_models > 1:
            raise ConfigError("--path names several checkpoints, but a cache holds the vectors of one; give one")
        if not self.is_on and not saves:
            logger.warning("--cache-size has no effect with --cache-lmbda 0; give --cache-lmbda, such as 0.1")
        if self.is_sweep and lmbda is not None and not saves:
            raise ConfigError("--knnlm with lists of cache settings needs --save-retrieval; give that, or one setting")
        if self.is_sweep and prints_words:
            raise ConfigError("words are printed for one cache setting, but there are several; give one")
        if lmbda is not None and lmbda + self.weight > 1 + 1e-9:
            raise ConfigError(
                f"--lmbda {lmbda} and --cache-lmbda {self.weight} must add up to at most 1, but are"
                f" {lmbda + self.weight:g}; lower one"
            )


@dataclass(frozen=True)
class ScoreConfig:
    """Model and text."""

    path: Files = flag(
        dataclasses.MISSING,
        r"checkpoint to score with, or directory of a Hugging Face model; A:B averages the probabilities of several (a"
        r" colon in a name: \:)",
    )
    data: Dir | None = flag(
        None,
        "dictionary (dict.txt), or the directory of binarised data that has it; a Hugging Face model needs none",
        positional=True,
    )
    input: tuple[File, ...] = flag(("-",), "files of text; - is the standard input")
    json: bool = flag(False, "print a JSON object for each line instead")
    buffer_size: int = flag(1000, "lines to read before scoring them; 1 answers each line at once", minimum=1)
    max_tokens: int = flag(36000, "most tokens in a batch, padding counted", minimum=1)
    softmax_batch: int | None = flag(None, "most tokens that the output layer takes at once, to save memory", minimum=1)
    model_overrides: Settings = flag("{}", MODEL_OVERRIDES)
    trust_remote_code: bool = flag(False, REMOTE_CODE)
    task: Name = flag("language_modeling", "task; others come from plugins")


@dataclass(frozen=True)
class EvalConfig:
    """Model, and the text to evaluate it on."""

    path: Files = flag(
        dataclasses.MISSING,
        r"checkpoint to evaluate, or directory of a Hugging Face model; A:B averages the probabilities of several (a"
        r" colon in a name: \:)",
    )
    task: Name = flag("language_modeling", "task; others come from plugins")
    gen_subset: Split = flag("test", "split to evaluate on, such as valid")
    max_tokens: int = flag(36000, "most tokens in a batch, padding counted, context not", minimum=1)
    max_sentences: int | None = flag(None, "most blocks in a batch", aliases=("--batch-size",), minimum=1)
    required_batch_size_multiple: int = flag(
        1, "make the number of blocks in a batch a multiple of N where possible", minimum=1
    )
    context_window: int = flag(
        0, "earlier tokens that each block sees as context, without scoring them again", minimum=0
    )
    softmax_batch: int | None = flag(None, "most tokens that the output layer takes at once, to save memory", minimum=1)
    model_overrides: Settings = flag("{}", MODEL_OVERRIDES)
    trust_remote_code: bool = flag(False, REMOTE_CODE)
    post_process: Mark | None = flag(
        None,
        "join subwords that end in MARK ('@@ ' if left out), or of sentencepiece, and count whole words",
        aliases=("--remove-bpe",),
        optional_value="@@ ",
    )
    output_word_probs: bool = flag(
        False, "print a line for each block: its number, then each word with its log-probability (natural)"
    )
    output_word_stats: bool = flag(
        False, "print a line for each word: how often it occurs, and the sum of its log-probabilities (natural)"
    )
    num_shards: int = flag(
        1, "split the work into N shards, for the N jobs of an array; fairseq-knnlm join puts them together", minimum=1
    )
    shard_id: int = flag(0, "which shard is this job's, from 0", minimum=0)
    results_path: Place | None = flag(None, "write the result and all settings to this directory or .json file")
    overwrite: bool = flag(False, "replace existing files, if this program wrote them")
    dataset_impl: str = flag("mmap", "storage of the data", choices=("mmap",))
    tensorboard_logdir: Dir | None = flag(None, "directory of TensorBoard logs", no_effect="only training writes them")
    skip_invalid_size_inputs_valid_test: bool = flag(
        False,
        "leave out blocks that are longer than the model can read",
        no_effect="evaluation always does, and counts the tokens in a warning",
    )

    @property
    def results_file(self) -> Path | None:
        """The file that ``--results-path`` names: itself (.json, or a stream), or one in that directory."""
        if self.results_path is None:
            return None
        path = Path(self.results_path)
        shard = f".shard-{self.shard_id}-of-{self.num_shards}" if self.num_shards > 1 else ""
        return path if path.suffix == ".json" or is_stream(path) else path / f"eval_{self.gen_subset}{shard}.json"

    def __post_init__(self) -> None:
        if self.results_file is not None and self.results_file.is_dir():
            raise ConfigError(f"--results-path: {self.results_file} must be a file, but is a directory; give another")
        check_post_process(self.post_process)
        if self.shard_id >= self.num_shards:
            raise ConfigError(f"--shard-id {self.shard_id} must be below --num-shards {self.num_shards}")


def times_path(results: Path) -> Path:
    """Returns where the times of an evaluation go: beside its results."""
    return results.with_suffix(".time.json")
