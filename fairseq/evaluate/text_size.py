"""Perplexity by word and bits by byte, by which models with different tokenizers compare.

    perplexity a word = exp(−Σ ln p / words)        bits a byte = −Σ ln p / (bytes · ln 2)

The sum is over the scored tokens; words and bytes are theirs alone: a token that is not scored takes its own with it.
Words are counted as lm-evaluation-harness counts them, so that whole documents give its ``word_perplexity``,
``byte_perplexity`` and ``bits_per_byte``.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Int64s
from fairseq.criterions.perplexity import Perplexity, perplexity_of
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.source_text import SourceText


@dataclass(frozen=True)
class TextSize:
    """How much source text the scored tokens are.

    Attributes:
        words: that white space separates.
        bytes: of UTF-8.
    """

    words: int
    bytes: int

    @classmethod
    def of(cls, source: SourceText, dataset: BlockDataset, batches: Iterable[Int64s]) -> "TextSize":
        """Returns the size of the blocks of some batches.

        Raises:
            DataError: the offsets of the source text are damaged.
        """
        source.check_order()
        block_idx = np.concatenate([np.empty(0, np.int64), *batches])
        start_B, end_B = dataset.starts[block_idx], dataset.ends[block_idx]
        words, num_bytes = (
            int((before_N[end_B] - before_N[start_B]).sum())
            for before_N in (source.words_before_N, source.bytes_before_N)
        )
        return cls(words, num_bytes)

    def ppl_word(self, p: Perplexity) -> float:
        """Returns the perplexity by word."""
        return perplexity_of(-p.log_p_sum / self.words / math.log(2) if self.words else math.nan)

    def bits_per_byte(self, p: Perplexity) -> float:
        """Returns the loss by byte, in bits."""
        return -p.log_p_sum / self.bytes / math.log(2) if self.bytes else math.nan

    def line(self, p: Perplexity) -> str:
        """Returns both for people."""
        by_word = self.ppl_word(p)
        return (
            f"perplexity a word {by_word:{'.2f' if by_word < 1e6 else '.4g'}}, bits a byte {self.bits_per_byte(p):.4f}"
        )

    def record(self, p: Perplexity) -> dict[str, Any]:
        """Returns both for JSON."""
        return {"ppl_word": self.ppl_word(p), "bits_per_byte": self.bits_per_byte(p)}
