"""Flags of evaluation: of a split, of lines of text, and of the continuous cache."""

import dataclasses
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

from fairseq.config.common import check_subword_mark
from fairseq.config.flags import flag
from fairseq.errors import ConfigError
from fairseq.runtime.files import is_stream

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheConfig:
    """The continuous cache; lists are swept in one pass."""

    cache_size: tuple[int, ...] = flag((), "earlier targets of the text that the cache holds", minimum=1)
    cache_lmbda: tuple[float, ...] = flag(
        (0.0,), "weight μ of the cache: p = (1 − λ − μ) p_LM + λ p_kNN + μ p_cache", minimum=0, maximum=1
    )
    cache_theta: tuple[float, ...] = flag(
        (1.0,),
        "flatness θ: an earlier target's weight is exp(θ h·h′), of its context vector and the present one",
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

    def check(self, num_models: int, num_shards: int, lmbda: float | None, *, prints_words: bool, saves: bool) -> None:
        """Refuses what a cache cannot be combined with.

        Args:
            num_models: averaged.
            num_shards: of the evaluation.
            lmbda: the neighbours' weight, if there are any.
            prints_words: words and their probabilities are printed.
            saves: what the caches say of each token is kept; then they need no weight.

        Raises:
            ConfigError: shards, several models, weights above 1, or a sweep of what is no single result.
        """
        if not self.cache_size:
            return
        if num_shards > 1:
            raise ConfigError("--cache-size needs the text in order and cannot be sharded; leave --num-shards out")
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
    """What is scored."""

    data: str = flag(
        dataclasses.MISSING, "directory of binarised data, for its dict.txt; or the dictionary itself", positional=True
    )
    path: str = flag(
        dataclasses.MISSING,
        r"the checkpoint to score with; A:B averages the probabilities of several (\: is a colon in a name)",
    )
    input: tuple[str, ...] = flag(("-",), "files of text, comma-separated; - is the standard input")
    json: bool = flag(False, "print a JSON object for each line instead")
    buffer_size: int = flag(1000, "lines that are read before they are scored; 1 answers each at once", minimum=1)
    max_tokens: int = flag(36000, "padded tokens in a batch", minimum=1)
    softmax_batch: int | None = flag(None, "most rows that the output layer takes at once", minimum=1)
    model_overrides: str = flag("{}", "a Python literal dict of settings that replace the checkpoint's")
    task: str = flag("language_modeling", "task")


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation."""

    path: str = flag(
        dataclasses.MISSING,
        r"the checkpoint to evaluate; A:B averages the probabilities of several (\: is a colon in a name)",
    )
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
    overwrite: bool = flag(False, "replace what stands in the way, if this program wrote it")
    dataset_impl: str = flag("mmap", "storage of the data set", choices=("mmap",))
    tensorboard_logdir: str | None = flag(None, "TensorBoard logs", no_effect="only training writes them")
    skip_invalid_size_inputs_valid_test: bool = flag(
        False,
        "leave out blocks that are longer than the model's positions",
        no_effect="evaluation always does, with a warning that counts the tokens",
    )

    @property
    def results_file(self) -> Path | None:
        """The file that ``--results-path`` names: itself (.json, or a stream), or one in that directory."""
        if self.results_path is None:
            return None
        path = Path(self.results_path)
        return path if path.suffix == ".json" or is_stream(path) else path / f"eval_{self.gen_subset}.json"

    def __post_init__(self) -> None:
        if self.results_file is not None and self.results_file.is_dir():
            raise ConfigError(f"--results-path: {self.results_file} must be a file, but is a directory; give another")
        check_subword_mark(self.remove_bpe)
        if self.shard_id >= self.num_shards:
            raise ConfigError(f"--shard-id {self.shard_id} must be below --num-shards {self.num_shards}")
