"""Words and their scores: ``--remove-bpe``, ``--output-word-probs``, ``--output-word-stats``."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fairseq.arrays import Float64s, Int64s

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Word:
    """One word of a block: its text, natural-log probability, and whether it was joined from subwords."""

    text: str
    log_p: float
    is_joined: bool


class WordJoiner:
    """Joins subwords that end in a mark with what follows them.

    Args:
        symbols: the dictionary's symbols by id.
        mark: what a subword ends in when the word goes on; None joins nothing.
    """

    def __init__(self, symbols: Sequence[str], mark: str | None) -> None:
        self.symbols = symbols
        self.mark = mark.rstrip() if mark else ""
        self._continues = np.array([bool(self.mark) and symbol.endswith(self.mark) for symbol in symbols])
        if self.mark and not self._continues.any():
            logger.warning("--remove-bpe %s has no effect: no word of the dictionary ends in it", self.mark)

    def num_joined(self, target_N: Int64s, block_idx_N: Int64s) -> int:
        """Returns how many targets are subwords whose word goes on in the same block."""
        if not self.mark or len(target_N) < 2:
            return 0
        return int((self._continues[target_N[:-1]] & (block_idx_N[1:] == block_idx_N[:-1])).sum())

    def words(self, target_N: Int64s, log_p_N: Float64s) -> Iterator[Word]:
        """Yields the words of one block; a word's log-probability is the sum of its parts'."""
        text, log_p, is_joined = "", 0.0, False
        for i, (token, score) in enumerate(zip(target_N.tolist(), log_p_N.tolist(), strict=True)):
            symbol = self.symbols[token]
            log_p += score
            if self._continues[token] and i + 1 < len(target_N):
                text, is_joined = text + symbol[: -len(self.mark)], True
                continue
            yield Word(text + symbol, log_p, is_joined)
            text, log_p, is_joined = "", 0.0, False


@dataclass
class WordStat:
    """Sums over the occurrences of one word."""

    is_joined: bool
    count: int = 0
    log_p_sum: float = 0.0
    next_log_p_sum: float = 0.0
    num_with_next: int = 0


class WordStats:
    """The table of ``--output-word-stats``."""

    def __init__(self) -> None:
        self._stats: dict[str, WordStat] = {}

    def add(self, words: Sequence[Word]) -> None:
        """Counts the words of one block."""
        for i, word in enumerate(words):
            stat = self._stats.setdefault(word.text, WordStat(word.is_joined))
            stat.count += 1
            stat.log_p_sum += word.log_p
            if i + 1 < len(words):
                stat.next_log_p_sum += words[i + 1].log_p
                stat.num_with_next += 1

    def lines(self) -> Iterator[str]:
        """Yields tab-separated lines, the most frequent word first.

        Columns: word, count, Σ log p, whether joined, Σ log p of the next word, count with a next word.
        """
        for text, s in sorted(self._stats.items(), key=lambda item: -item[1].count):
            yield (f"{text}\t{s.count}\t{s.log_p_sum:.4f}\t{s.is_joined}\t{s.next_log_p_sum:.4f}\t{s.num_with_next}")
