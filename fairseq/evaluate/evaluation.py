"""One evaluation: checkpoint, data and batches put together, then every target scored once.

    checkpoint ─ settings ─┬─ task ─ dictionary, blocks ─ batches ─┐
                           └─ model ───────────────────────────────┴─ scorer ─ log p per target ─ perplexity

The block size in force is the checkpoint's ``tokens_per_sample`` less the context window; ``--tokens-per-sample`` does
not change it (published commands rely on that), ``--model-overrides "{'tokens_per_sample': N}"`` does.
"""

import importlib.metadata
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import fairseq
from fairseq.arrays import Int64s
from fairseq.criterions.perplexity import Perplexity
from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.source_text import SourceText
from fairseq.errors import ConfigError, MismatchError
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.sequence_scorer import ScoredBatch, SequenceScorer
from fairseq.evaluate.text_size import TextSize
from fairseq.models.protocol import longer_rows
from fairseq.runtime.precision import Precision
from fairseq.runtime.progress import Progress
from fairseq.tasks.opening import OpenedModels, open_models

logger = logging.getLogger(__name__)

LAST_DIGIT = 5e-5  # half of the last digit of a printed loss


@dataclass(frozen=True)
class Evaluation(OpenedModels):
    """The pieces of one evaluation, besides the models.

    Attributes:
        dataset: the blocks that are scored.
        batches: block indices of each batch, this shard's only.
        num_left_out: tokens of blocks that are longer than the model's positions.
        precision: device and number format.
        source: source text of the split, where it has one.
    """

    dataset: BlockDataset
    batches: Sequence[Int64s]
    num_left_out: int
    precision: Precision
    source: SourceText | None = None

    @property
    def size(self) -> TextSize | None:
        """Words and bytes of what is scored, where the source text is known."""
        return TextSize.of(self.source, self.dataset, self.batches) if self.source is not None else None

    @property
    def block_size(self) -> int:
        """Tokens in a block, without context."""
        return int(self.task_config.tokens_per_sample)

    def shard_line(self, config: EvalConfig) -> str:
        """Returns how much of the split this shard covers, for people."""
        size_B = self.dataset.ends - self.dataset.starts
        covered = sum(int(size_B[block_idx].sum()) for block_idx in self.batches)
        return f"Shard {config.shard_id} of {config.num_shards}: {covered:,} of {int(size_B.sum()):,} tokens"

    def inputs(self) -> dict[str, Any]:
        """Returns hashes of what is evaluated: the weights of each model, the dictionary, and the scored text."""
        return {
            "weights_sha256": [model.weights_sha256 for model in self.identities],
            "dictionary_sha256": self.identity.dictionary_sha256,
            "data_sha256": self.dataset.sha256(),
        }


def prepare(
    config: EvalConfig, task_fields: Mapping[str, Any], precision: Precision, *, stream_order: bool = False
) -> Evaluation:
    """Returns the pieces of an evaluation, everything checked before any work starts.

    Args:
        config: what is evaluated.
        task_fields: settings of the task, as ``open_models`` takes them.
        precision: device and number format.
        stream_order: blocks stay in order; else they go by length, where no context window makes all rows alike.
    """
    window = config.context_window
    named = config.path, config.task, config.model_overrides
    trusted = config.trust_remote_code
    opened = open_models(*named, task_fields, precision, context_window=window, trust_remote_code=trusted)
    split = opened.task.load_split(config.gen_subset, context_window=window)
    dataset, num_left_out = split.without_longer_than(opened.max_positions)
    if num_left_out:
        shortest = min(opened.models, key=lambda model: int(model.max_positions))
        logger.warning(
            "%d tokens in blocks of more than the model's %d positions are left out; %s makes room for them",
            num_left_out,
            opened.max_positions,
            longer_rows(shortest) or "--sample-break-mode document",
        )
    sizes = dataset.sizes
    alike = window > 0 and not dataset.by_document
    order = np.arange(len(dataset)) if stream_order or alike else by_length(sizes)
    batches = batch_by_size(
        order,
        sizes,
        config.max_tokens,
        config.max_sentences,
        config.required_batch_size_multiple,
        split=config.gen_subset,
    )
    shard = batches[config.shard_id :: config.num_shards]
    if batches and not shard:
        raise ConfigError(
            f"--shard-id {config.shard_id} has nothing to do: there are only {len(batches)} batches, fewer than"
            f" --num-shards {config.num_shards}; lower it"
        )
    return Evaluation(
        opened.task,
        opened.task_config,
        opened.checkpoints,
        opened.models,
        dataset=dataset,
        batches=shard,
        num_left_out=num_left_out,
        precision=precision,
        source=_source_text(opened, config.gen_subset, dataset),
    )


def _source_text(opened: OpenedModels, split: str, dataset: BlockDataset) -> SourceText | None:
    """Returns the source text of a split, None where it has none, or a task of a plugin makes its own tokens."""
    prefix = opened.task.split_prefix(split)
    source = SourceText.open(prefix)
    if source is not None and source.num_tokens != len(dataset.tokens):
        raise MismatchError(
            f"{prefix} has {len(dataset.tokens)} tokens, but the source text beside it is of {source.num_tokens};"
            " tokenize it again with fairseq-preprocess --overwrite"
        )
    if source is not None:
        source.check_order()  # before the work, not when its words are counted
    return source


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found, as it is reported; of a sweep, the best and every row; ``lm`` is the model alone.

    ``size`` is that of the source text, where it is known.
    """

    perplexity: Perplexity
    num_left_out: int
    elapsed_s: float
    sweep: list[dict[str, Any]] | None = None
    lm: Perplexity | None = None
    size: TextSize | None = None

    @property
    def tokens_per_s(self) -> float:
        """Targets in a second."""
        return self.perplexity.count / max(self.elapsed_s, 1e-9)

    @property
    def summary(self) -> str:
        """The two lines that people search for, and one by word and byte where the source text is known."""
        p, size = self.perplexity, self.size
        by_size = f"\nOf {size.words} words, {size.bytes} bytes: {size.line(p)}" if size is not None else ""
        return (
            f"Evaluated {p.count} tokens in {self.elapsed_s:.1f}s ({self.tokens_per_s:.2f} tokens/s)\n"
            f"Loss (base 2): {p.loss:.4f}, Perplexity: {p.ppl:.2f}{by_size}"
        )

    @property
    def lm_line(self) -> str:
        """The model alone, in words that no search for the two lines of ``summary`` finds."""
        assert self.lm is not None
        by_size = f"; {self.size.line(self.lm)}" if self.size is not None else ""
        return f"The model alone: {self.lm.loss:.4f} bits a token, perplexity {self.lm.ppl:.2f}{by_size}"

    @property
    def is_worse_than_lm(self) -> bool:
        """Whether the mixture has a larger loss than the model alone, by more than the last digit that is printed."""
        return self.lm is not None and self.perplexity.loss - self.lm.loss > LAST_DIGIT

    def record(self, symbols: Sequence[str]) -> dict[str, Any]:
        """Returns what was found as plain values for JSON, the same for every repetition; loss in bits, in full."""
        p, size = self.perplexity, self.size
        by_size = {"words": size.words, "bytes": size.bytes, **size.record(p)} if size is not None else {}
        return {
            "loss_base2": p.loss,
            "ppl": p.ppl,
            "log_p_sum_nats": p.log_p_sum,
            "targets": p.count,
            "targets_joined_to_the_next": p.num_joined,
            "tokens_left_out": self.num_left_out,
            "targets_of_probability_0": {symbols[token]: n for token, n in p.zero_ids.items()},
            "targets_not_a_number": {symbols[token]: n for token, n in p.nan_ids.items()},
            **by_size,
            **({"lm": self._lm_record(self.lm)} if self.lm is not None else {}),
            **({"sweep": self.sweep} if self.sweep is not None else {}),
        }

    def _lm_record(self, lm: Perplexity) -> dict[str, Any]:
        by_size = self.size.record(lm) if self.size is not None else {}
        return {"loss_base2": lm.loss, "ppl": lm.ppl, **by_size}

    def speed(self) -> dict[str, float]:
        """Returns how long it took, which no repetition gives again."""
        return {"seconds": round(self.elapsed_s, 3), "tokens_per_s": round(self.tokens_per_s, 2)}


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    return {
        "fairseq-knnlm": fairseq.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "faiss": _installed("faiss-cpu") or _installed("faiss-gpu") or "another build",
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def score_all(
    evaluation: Evaluation,
    scorer: SequenceScorer,
    perplexity: Perplexity,
    every: int | None = None,
) -> Iterator[ScoredBatch]:
    """Yields the scored targets of every batch, which the caller adds to ``perplexity``, shown as it goes.

    A line of progress comes every few seconds, or every so many batches.
    """
    total = sum(int(evaluation.dataset.lengths[block_idx].sum()) for block_idx in evaluation.batches)
    with Progress("evaluate", total, "tokens", every=every) as progress:
        for scored in scorer.scored(map(evaluation.dataset.collate, evaluation.batches)):
            yield scored
            progress.advance(len(scored.target_N), loss=perplexity.loss)
