"""Protocols of a memory, such as neighbours, for a model that was loaded from Python.

The hub knows no implementation. What is given as ``knn=`` can open itself *for a model*, whose identity it is told so
that it can refuse another's files. What it opens scores targets, and can show its rows.

Legend: N queries · K rows · D width · V words.
"""

from typing import Protocol

from torch import Tensor

from fairseq.data.passages.split_text import Passage
from fairseq.evaluate.mixture import Memory
from fairseq.models.protocol import ModelIdentity


class RowMemory(Memory, Protocol):
    """A memory that votes by rows which can be shown; ``KNN_Dstore`` is one."""

    def next_log_prob(self, queries_ND: Tensor, vocabulary_size: int) -> Tensor:
        """Returns log p of every word, natural, ``[N, V]``; −inf where it is 0."""
        ...

    def search(self, queries_ND: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns distances and row numbers ``[N, K]``, nearest first; −1 is none."""
        ...

    def values(self, ids_NK: Tensor) -> Tensor:
        """Returns the token id of each row, −1 for none."""
        ...

    def passage(self, row: int, before: int, after: int) -> Passage | None:
        """Returns a row's token with the text around it, or None where the text is not known."""
        ...


class MemoryConfig(Protocol):
    """Something that can be opened for a model."""

    def open_for(self, model: ModelIdentity) -> tuple[RowMemory, float]:
        """Returns the source and its weight λ, after checking that it belongs to the model."""
        ...
