"""One evaluation: checkpoint, data and batches put together, then every target scored once.

    checkpoint ─ settings ─┬─ task ─ dictionary, blocks ─ batches ─┐
                           └─ model ───────────────────────────────┴─ scorer ─ log p per target ─ perplexity

The block size in force is the checkpoint's ``tokens_per_sample`` less the context window; ``--tokens-per-sample`` does
not change it (published commands rely on that), ``--model-overrides "{'tokens_per_sample': N}"`` does.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Int64s
from fairseq.criterions.perplexity import Perplexity
from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.source_text import SourceText
from fairseq.errors import MismatchError
from fairseq.evaluate.cells import cells_of
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.sequence_scorer import ScoredBatch, SequenceScorer
from fairseq.evaluate.text_size import TextSize
from fairseq.models.protocol import longer_rows
from fairseq.runtime.precision import Precision
from fairseq.runtime.progress import Progress
from fairseq.runtime.shares import Share, shares
from fairseq.tasks.opening import OpenedModels, open_models

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation(OpenedModels):
    """The pieces of one evaluation, besides the models.

    Attributes:
        dataset: the blocks that are scored.
        cells: the batches that are scored together, of this share; of each batch the block indices.
        share: which part of the split that is.
        num_left_out: tokens of blocks that are longer than the model's positions.
        precision: device and number format.
        source: source text of the split, where it has one.
    """

    dataset: BlockDataset
    cells: Sequence[Sequence[Int64s]]
    share: Share
    num_left_out: int
    precision: Precision
    source: SourceText | None = None

    @property
    def batches(self) -> list[Int64s]:
        """Block indices of each batch of this share."""
        return list(itertools.chain.from_iterable(self.cells))

    @property
    def size(self) -> TextSize | None:
        """Words and bytes of what is scored, where the source text is known."""
        return TextSize.of(self.source, self.dataset, self.batches) if self.source is not None else None

    @property
    def block_size(self) -> int:
        """Tokens in a block, without context."""
        return int(self.task_config.tokens_per_sample)

    @property
    def shard_line(self) -> str:
        """How much of the split this share covers, for people."""
        size_B = self.dataset.ends - self.dataset.starts
        covered = sum(int(size_B[block_idx].sum()) for block_idx in self.batches)
        return f"Shard {self.share.number} of {self.share.count}: {covered:,} of {int(size_B.sum()):,} tokens"

    def inputs(self) -> dict[str, Any]:
        """Returns hashes of what is evaluated: the weights of each model, the dictionary, and the scored text."""
        return {
            "weights_sha256": [model.weights_sha256 for model in self.identities],
            "dictionary_sha256": self.identity.dictionary_sha256,
            "data_sha256": self.dataset.sha256(),
        }


def prepare(
    config: EvalConfig,
    task_fields: Mapping[str, Any],
    precision: Precision,
    share: Share | None = None,
    *,
    stream_order: bool = False,
    searches: bool = False,
) -> Evaluation:
    """Returns the pieces of an evaluation, everything checked before any work starts.

    Args:
        config: what is evaluated.
        task_fields: settings of the task, as ``open_models`` takes them.
        precision: device and number format.
        share: the part of the split that is scored here; all of it if left out.
        stream_order: blocks stay in order; else they go by length, where no context window makes all rows alike.
        searches: neighbours are searched for, those of several batches at once.
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
    cells = list(cells_of(batches, dataset.lengths)) if searches else [[batch] for batch in batches]
    share = share or Share()
    return Evaluation(
        opened.task,
        opened.task_config,
        opened.checkpoints,
        opened.models,
        dataset=dataset,
        cells=_own_cells(cells, sizes, share),
        share=share,
        num_left_out=num_left_out,
        precision=precision,
        source=_source_text(opened, config.gen_subset, dataset),
    )


def _own_cells(cells: Sequence[list[Int64s]], sizes: Int64s, share: Share) -> Sequence[list[Int64s]]:
    """Returns a share of the cells, by the tokens in them; warns where some shares are empty."""
    all_shares = shares([int(sizes[np.concatenate(cell)].sum()) for cell in cells], share.count)
    with_work = sum(bool(one) for one in all_shares)
    if with_work < share.count:
        logger.warning(
            "only %d of %d processes or jobs %s work to do, since the text is short; give fewer of them, or a smaller"
            " --max-tokens",
            with_work,
            share.count,
            "has" if with_work == 1 else "have",
        )
    own = all_shares[share.number]
    return cells[own.start : own.stop]


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
        cells = (map(evaluation.dataset.collate, cell) for cell in evaluation.cells)
        for scored in scorer.scored_in_groups(cells):
            yield scored
            progress.advance(len(scored.target_N), loss=perplexity.loss)
