"""What stands around a text that is generated: the tokens before it, and those that end it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.dictionary import BOS, EOS
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class Frame:
    """The tokens before a text, and those that end it.

    Attributes:
        opening: ids before a prompt.
        ends: ids of which any ends a text.
        only_empty: the opening stands before an empty prompt only; others are read as they are.
    """

    opening: tuple[int, ...] = (EOS,)
    ends: frozenset[int] = frozenset({EOS})
    only_empty: bool = False

    @classmethod
    def of(cls, model: Any, *, add_bos: bool = False, ends: Collection[int] | None = None) -> "Frame":
        """Returns the frame of a model's texts.

        A model of Hugging Face's reads a prompt as its tokenizer has it, and puts a token in front only where it was
        trained so.

        Args:
            model: with ``opening_id`` where it is of Hugging Face's kind.
            add_bos: ``<s>`` stands before ``</s>``, as in training.
            ends: ids that end a text; ``</s>`` if left out.
        """
        found = frozenset({EOS} if ends is None else ends)
        if not hasattr(model, "opening_id"):
            return cls((BOS, EOS) if add_bos else (EOS,), found)
        return cls(() if model.opening_id is None else (EOS,), found, only_empty=True)

    def row(self, prompt_T: Int64s, *following: Int64s) -> Int64s:
        """Returns what the model reads of a prompt, int64.

        Raises:
            ConfigError: the prompt is empty, and nothing stands before it.
        """
        row = np.concatenate([self.opening if self.opens(len(prompt_T)) else (), prompt_T, *following])
        if not len(row):
            raise ConfigError(
                "a prompt is empty, but the model's tokenizer has no token that opens a text; give a prompt of at least"
                " one token"
            )
        return row.astype(np.int64)

    def opens(self, prompt_size: int) -> int:
        """Returns how many tokens stand before a prompt of a size."""
        return len(self.opening) if not self.only_empty or not prompt_size else 0
