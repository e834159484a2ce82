"""Words and their scores: ``--post-process``, ``--output-word-probs``, ``--output-word-stats``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fairseq.arrays import Array, Float64s, Int64s
from fairseq.data.dictionary import SPECIALS, UNK
from fairseq.data.passages.split_text import one_line
from fairseq.data.source_text import SourceText
from fairseq.text.post_process import BEGIN_MARKS, end_mark, rule_for


@dataclass(frozen=True)
class Word:
    """One word of a block: its text, natural-log probability, and whether it was joined from subwords."""

    text: str
    log_p: float
    is_joined: bool


class WordJoiner:
    """Joins subwords into words: by a mark at the end of a subword whose word goes on, or at the beginning of a word.

    Where the mark begins words, ``<unk>`` goes on with the word before it, and the other specials are words.

    Args:
        symbols: the dictionary's symbols by id.
        post_process: the value of the flag, which names the mark; None joins nothing, as does a mark that no symbol
            has.
    """

    def __init__(self, symbols: Sequence[str], post_process: str | None) -> None:
        self.symbols = symbols
        post_process = rule_for(symbols, post_process)
        self._end, self._begin = end_mark(post_process), BEGIN_MARKS.get(post_process or "", "")
        self._goes_on, self._follows = np.zeros((2, len(symbols)), np.bool_)
        if self._end:
            self._goes_on[:] = [symbol.endswith(self._end) for symbol in symbols]
            self._follows[:] = True
        if self._begin:
            self._goes_on[:] = True
            self._follows[:] = [not symbol.startswith(self._begin) for symbol in symbols]
            words = [idx for idx in range(min(len(SPECIALS), len(symbols))) if idx != UNK]
            self._goes_on[words] = self._follows[words] = False

    def num_joined(self, target_N: Int64s, block_idx_N: Int64s) -> int:
        """Returns how many targets go on with the word of the target before, in the same block."""
        return int((self._joins(target_N) & (block_idx_N[1:] == block_idx_N[:-1])).sum())

    def words(self, target_N: Int64s, log_p_N: Float64s, block_idx: int = 0) -> Iterator[Word]:
        """Yields the words of one block; a word's log-probability is the sum of its parts'."""
        joins = [*self._joins(target_N).tolist(), False]
        text, log_p, is_joined = "", 0.0, False
        for token, score, goes_on in zip(target_N.tolist(), log_p_N.tolist(), joins, strict=True):
            symbol = self.symbols[token].removeprefix(self._begin)
            log_p += score
            if goes_on:
                text, is_joined = text + symbol.removesuffix(self._end), True
                continue
            yield Word(text + symbol, log_p, is_joined)
            text, log_p, is_joined = "", 0.0, False

    def _joins(self, target_N: Int64s) -> Array:
        """Returns of each target but the last whether the next one goes on with its word, bool ``[N − 1]``."""
        return self._goes_on[target_N[:-1]] & self._follows[target_N[1:]]


class SourceTokens:
    """Tokens as they stand in the source text, each in one line; none is joined to another.

    Args:
        source: the text.
        start_B: the first token of each block.
    """

    def __init__(self, source: SourceText, start_B: Int64s) -> None:
        self._source, self._start_B = source, start_B

    def num_joined(self, target_N: Int64s, block_idx_N: Int64s) -> int:
        """Returns 0."""
        return 0

    def words(self, target_N: Int64s, log_p_N: Float64s, block_idx: int = 0) -> Iterator[Word]:
        """Yields the tokens of one block."""
        for at, score in enumerate(log_p_N.tolist(), int(self._start_B[block_idx])):
            yield Word(one_line(self._source.text(at, at + 1)), score, False)


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
