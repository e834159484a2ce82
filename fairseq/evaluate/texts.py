"""Texts, and what a model makes of each of their tokens; every text is a context of its own.

    a text that fits a row ─── one block ────────────────────────────┐
    a longer one ───────────── blocks, each after a context window ──┴─ batches ─ scorer ─ log p of each token

Blocks and numbers are those of a split that is binarised and evaluated: with ``--sample-break-mode eos`` for texts that
fit, with ``none`` and ``--context-window`` for longer ones, so that each of their tokens is scored once.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from fairseq.arrays import Float64s, Int64s
from fairseq.criterions.perplexity import Perplexity
from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.dictionary import EOS, SPECIALS, UNK
from fairseq.data.encoding import decoded, warn_of_mark
from fairseq.errors import ConfigError, DataError
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.models.protocol import longer_rows


class Reader(Protocol):
    """What reads the words or tokens of a text: a dictionary, or the text of a Hugging Face model."""

    def ids_of(self, line: str, /) -> Int64s:
        """Returns the ids of a text, int64."""
        ...

    def __getitem__(self, idx: int, /) -> str:
        """Returns the symbol of an id."""
        ...


@dataclass(frozen=True)
class ScoredText:
    """The N tokens of a text and their natural log-probabilities, float64.

    Attributes:
        target_N: int64 ids.
        log_p_N: of the mixture.
        model_log_p_N: of the models alone.
        memory_log_p_NM: of each of the M memories alone.
    """

    target_N: Int64s
    log_p_N: Float64s
    model_log_p_N: Float64s
    memory_log_p_NM: Float64s


@dataclass(frozen=True)
class _Blocks:
    """Some of the texts, cut into blocks: the text of each, and which blocks make a batch."""

    text_B: Int64s
    dataset: BlockDataset
    batches: list[Int64s]


class TextScorer:
    """Scores texts, many at a time.

    Args:
        scorer: one model or several, mixed with neighbours or not.
        longest_row: most tokens that the models see at once, ``<s>`` not counted.
        max_tokens: padded tokens in a batch, ``<s>`` not counted; a longer block is a batch of its own.
        add_bos: whether the models were trained with ``<s>`` before every block.
    """

    def __init__(self, scorer: SequenceScorer, longest_row: int, max_tokens: int, *, add_bos: bool) -> None:
        self._scorer, self._longest_row, self._max_tokens, self._add_bos = scorer, longest_row, max_tokens, add_bos

    def score(
        self, texts: Sequence[Int64s], context_window: int = 0, advance: Callable[[int], None] | None = None
    ) -> list[ScoredText]:
        """Returns the texts with their scores, in order; those of like length are computed together.

        Args:
            texts: ids of each text, one at least.
            context_window: tokens before each block of a text that is longer than a row; less than a row.
            advance: is told how many more tokens have been scored.
        """
        if not sum(map(len, texts)):
            return [self._nothing() for _ in texts]
        parts = []
        for blocks in self._cut(texts, context_window):
            for scored in self._scorer.scored(map(blocks.dataset.collate, blocks.batches)):
                text_N = blocks.text_B[scored.block_idx_N]
                parts.append((text_N, scored.target_N, scored.log_p_N, scored.model_log_p_N, scored.memory_log_p_NM))
                if advance is not None:
                    advance(len(text_N))
        text_N, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        order_N = np.argsort(text_N, kind="stable")  # the blocks of one text came in order
        ends = np.cumsum(np.bincount(text_N, minlength=len(texts)))[:-1]
        by_text = [np.split(column_N[order_N], ends) for column_N in columns]
        return [ScoredText(*column) for column in zip(*by_text, strict=True)]

    def score_lines(
        self, lines: Sequence["Line"], reader: "Reader", context_window: int | None = None
    ) -> "list[ScoredLine]":
        """Returns lines with their scores, in order.

        Args:
            lines: of text.
            reader: makes ids of them, a dictionary or the text of a Hugging Face model.
            context_window: as ``score`` has it; None refuses lines that are longer than a row.

        Raises:
            DataError: a line is too long for the model.
            ConfigError: it is too long for a batch.
        """
        if context_window is None:
            texts = self.score([self._ids(line, reader) for line in lines])
        else:
            texts = self.score([reader.ids_of(line.text) for line in lines], context_window)
        return [
            ScoredLine(line, text.target_N, text.log_p_N, text.model_log_p_N)
            for line, text in zip(lines, texts, strict=True)
        ]

    def context_vectors(self, text: Int64s, context_window: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the context vectors of a text's tokens, float32 ``[N, D]``, and the tokens, part by part."""
        for blocks in self._cut([text], context_window):
            for batch in map(blocks.dataset.collate, blocks.batches):
                vectors_ND, target_N = self._scorer.context_vectors(batch)
                yield vectors_ND.float(), target_N

    def _cut(self, texts: Sequence[Int64s], context_window: int) -> Iterator[_Blocks]:
        """Yields the texts in blocks: those that fit a row together, then each longer one."""
        short = [number for number, ids in enumerate(texts) if 0 < len(ids) <= self._longest_row]
        if short:
            sizes = np.array([len(texts[number]) for number in short])
            tokens = np.concatenate([texts[number] for number in short])
            dataset = BlockDataset(tokens, sizes, "eos", self._longest_row, add_bos=self._add_bos)
            yield self._batched(np.array(short), dataset, by_length(dataset.sizes))
        size = self._longest_row - context_window
        for number, ids in enumerate(texts):
            if len(ids) > self._longest_row:
                dataset = BlockDataset(ids, np.array([len(ids)]), "none", size, context_window, self._add_bos)
                yield self._batched(np.full(len(dataset), number), dataset, np.arange(len(dataset)))

    def _batched(self, text_B: Int64s, dataset: BlockDataset, order: Int64s) -> _Blocks:
        sizes = dataset.sizes + dataset.context_lengths()
        return _Blocks(text_B, dataset, batch_by_size(order, sizes, max(self._max_tokens, int(sizes.max()))))

    def _nothing(self) -> ScoredText:
        """Returns a text without tokens: one of no words, where nothing stands behind them."""
        none = np.empty(0)
        return ScoredText(np.empty(0, np.int64), none, none, np.empty((0, len(self._scorer.mixture.memories))))

    def _ids(self, line: "Line", reader: "Reader") -> Int64s:
        ids, where = reader.ids_of(line.text), f"{line.name}:{line.number}"
        if len(ids) > self._longest_row:
            more = longer_rows(self._scorer.models[0])
            raise DataError(
                f"{where}: a line must have at most {self._longest_row} tokens, but has {len(ids)} with its </s>; cut"
                f" it{more and f', or make room: {more}'}"
            )
        if len(ids) > self._max_tokens:
            raise ConfigError(f"--max-tokens {self._max_tokens} is below the {len(ids)} tokens of {where}; give more")
        return ids


@dataclass(frozen=True)
class Line:
    """A line of a file.

    Attributes:
        name: of the file.
        number: from 1.
        text: without the line's end.
    """

    name: str
    number: int
    text: str


@dataclass(frozen=True)
class ScoredLine:
    """A line with the log-probabilities of its tokens.

    Attributes:
        line: what was read.
        target_N: int64 ids, ``</s>`` last.
        log_p_N: float64, natural.
        model_log_p_N: the same of the models alone.
    """

    line: Line
    target_N: Int64s
    log_p_N: Float64s
    model_log_p_N: Float64s

    def log2_p(self) -> list[float]:
        """Returns the log-probabilities in base 2."""
        found: list[float] = (self.log_p_N / math.log(2)).tolist()
        return found

    @property
    def alone(self) -> "ScoredLine":
        """The line as the models alone score it."""
        return dataclasses.replace(self, log_p_N=self.model_log_p_N)

    def tokens(self, reader: "Reader") -> Iterator[tuple[str, str | None]]:
        """Yields each token's symbol, and the word that stands in the text where it is not in the dictionary."""
        if UNK not in self.target_N:
            yield from ((reader[idx], None) for idx in self.target_N.tolist())
            return
        for idx, word in zip(self.target_N.tolist(), [*self.line.text.split(), SPECIALS[EOS]], strict=True):
            yield reader[idx], word if idx == UNK and word != SPECIALS[UNK] else None

    def perplexity(self) -> Perplexity:
        """Returns the loss and the perplexity of the line."""
        found = Perplexity()
        found.add(self.log_p_N, self.target_N)
        return found


def split_lines(text: str) -> list[str]:
    r"""Returns the lines of a text, at least one; they end at ``\n``, ``\r\n`` or ``\r``."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def read_lines(name: str, raw_lines: Iterable[bytes]) -> Iterator[Line]:
    """Yields the lines of a file that was opened in binary mode, as fairseq-preprocess reads them; ``-`` is stdin.

    Raises:
        DataError: a line is not UTF-8.
    """
    name, number, position = "stdin" if name == "-" else name, 0, 0
    for raw in raw_lines:
        text = decoded(raw, name, number + 1, start=position)
        if not position:
            warn_of_mark(raw, name)
        position += len(raw)
        for line in split_lines(text) if text else ():  # empty: a byte-order mark was all
            number += 1
            yield Line(name, number, line)
