"""Lines of text and what a model makes of each word of them; every line is a context of its own.

    "the cat sat"  ─ ids ─  the cat sat </s>  ─ one block a line ─ scorer ─  log p of each

As in a split that is binarised with one sentence a line and evaluated with --sample-break-mode eos, and with the same
numbers. Lines are read as fairseq-preprocess reads them, an empty one is </s> alone.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.arrays import Float64s, Int64s
from fairseq.criterions.perplexity import Perplexity
from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.blocks import joined_ranges
from fairseq.data.dictionary import EOS, PAD, SPECIALS, UNK, Dictionary
from fairseq.errors import ConfigError, DataError
from fairseq.evaluate.sequence_scorer import SequenceScorer


@dataclass(frozen=True)
class Line:
    """A line of a file.

    Attributes:
        name: of the file.
        number: from 1.
        words: without the line's end.
    """

    name: str
    number: int
    words: list[str]


@dataclass(frozen=True)
class ScoredLine:
    """A line with the log-probabilities of its tokens.

    Attributes:
        line: what was read.
        target_N: int64 ids, ``</s>`` last.
        log_p_N: float64, natural.
    """

    line: Line
    target_N: Int64s
    log_p_N: Float64s

    def log2_p(self) -> list[float]:
        """Returns the log-probabilities in base 2."""
        found: list[float] = (self.log_p_N / math.log(2)).tolist()
        return found

    def tokens(self, dictionary: Dictionary) -> Iterator[tuple[str, str | None]]:
        """Yields each token's symbol, and the word that stands in the text where it is not in the dictionary."""
        for idx, word in zip(self.target_N.tolist(), [*self.line.words, SPECIALS[EOS]], strict=True):
            yield dictionary[idx], word if idx == UNK and word != SPECIALS[UNK] else None

    def perplexity(self) -> Perplexity:
        """Returns the loss and the perplexity of the line."""
        found = Perplexity()
        found.add(self.log_p_N, self.target_N)
        return found


def read_lines(name: str, raw_lines: Iterable[bytes]) -> Iterator[Line]:
    r"""Yields the lines of a file that was opened in binary mode; they end at ``\n``, ``\r\n`` or ``\r``.

    Raises:
        DataError: a line is not UTF-8.
    """
    number = 0
    for raw in raw_lines:
        try:
            text = raw.decode()
        except UnicodeDecodeError as err:
            raise DataError(
                f"{name}:{number + 1}: the text must be UTF-8, but holds byte 0x{raw[err.start]:02x}; convert it, for"
                " example with iconv -t UTF-8"
            ) from err
        for line in text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n"):
            number += 1
            yield Line(name, number, line.split())


def open_lines(path: str) -> Iterator[Line]:
    """Yields the lines of a file; raises DataError where there is none."""
    if not Path(path).is_file():
        problem = "is not a regular file" if Path(path).exists() else "does not exist"
        raise DataError(f"--input must name text files, but {path} {problem}; give the path of one, or - to read stdin")
    with Path(path).open("rb") as file:
        yield from read_lines(path, file)


class LineScorer:
    """Scores lines, many at a time.

    Args:
        scorer: one model or several, mixed with neighbours or not.
        dictionary: of the model.
        max_positions: most tokens in a line, ``</s>`` included.
        max_tokens: padded tokens in a batch.
        add_bos: whether the model was trained with ``<s>`` before every block.
    """

    def __init__(
        self, scorer: SequenceScorer, dictionary: Dictionary, max_positions: int, max_tokens: int, *, add_bos: bool
    ) -> None:
        self._scorer, self._dictionary, self._add_bos = scorer, dictionary, add_bos
        self._max_positions, self._max_tokens = max_positions - add_bos, max_tokens - add_bos

    def encode(self, line: Line) -> Int64s:
        """Returns the ids of a line, ``</s>`` last.

        Raises:
            DataError: the line is too long for the model, or holds ``<pad>``, which is never scored.
            ConfigError: it is too long for a batch.
        """
        ids = np.array([*map(self._dictionary.index, line.words), EOS], np.int64)
        where = f"{line.name}:{line.number}"
        if len(ids) > self._max_positions:
            raise DataError(
                f"{where}: a line must have at most {self._max_positions} tokens, but has {len(ids)} with its </s>; cut"
                " it, or make room: --model-overrides \"{'max_target_positions': N}\""
            )
        if len(ids) > self._max_tokens:
            raise ConfigError(f"--max-tokens {self._max_tokens} is below the {len(ids)} tokens of {where}; raise it")
        if (ids == PAD).any():
            raise DataError(f"{where}: the line holds the word <pad>, which is never scored; take it out of the text")
        return ids

    def score(self, lines: Sequence[Line]) -> list[ScoredLine]:
        """Returns the lines with their scores, in order; those of like length are computed together."""
        ids = [self.encode(line) for line in lines]
        sizes = np.array([len(line_ids) for line_ids in ids])
        dataset = BlockDataset(np.concatenate(ids), sizes, "eos", int(sizes.max()), add_bos=self._add_bos)
        lengths = dataset.lengths
        batches = batch_by_size(by_length(lengths), lengths, self._max_tokens + self._add_bos)
        log_p_T = np.full(len(dataset.tokens), np.nan)
        for batch, scored in zip(batches, self._scorer.scored(map(dataset.collate, batches)), strict=True):
            log_p_T[joined_ranges(dataset.starts[batch], sizes[batch])] = scored.log_p_N
        log_ps = np.split(log_p_T, np.cumsum(sizes)[:-1])
        return [ScoredLine(*parts) for parts in zip(lines, ids, log_ps, strict=True)]
