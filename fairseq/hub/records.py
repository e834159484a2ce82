"""What the hub returns: what comes next, a text's scores, token by token, and the neighbours of a token."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairseq.config.flags import coerce
from fairseq.criterions.perplexity import perplexity_of
from fairseq.data.dictionary import UNK
from fairseq.data.passages.split_text import one_line
from fairseq.errors import ConfigError
from fairseq.evaluate.mixture import interpolate
from fairseq.evaluate.texts import ScoredText
from fairseq.hub.protocol import RowMemory

_FAIRSEQ_KEYS = ("tokens", "positional_scores", "score")


def checked_weight(weight: object) -> float:
    """Returns a weight λ; raises ConfigError for what is no number from 0 to 1."""
    number: float = coerce(weight, float, "lmbda")
    if not 0 <= number <= 1:
        raise ConfigError(f"lmbda must be from 0 to 1, but is {number:g}")
    return number


class Weighted:
    """Base class of what mixes neighbours in with a weight that may be set."""

    _lmbda: float

    @property
    def lmbda(self) -> float:
        """Weight λ of the neighbours, from 0 to 1; may be set."""
        return self._lmbda

    @lmbda.setter
    def lmbda(self, weight: float) -> None:
        self._lmbda = checked_weight(weight)


class Output(NamedTuple):
    """What a model says comes next behind each token of a row: ``logits, extra = lm(tokens)``, as in fairseq.

    Attributes:
        logits: ln p of every word, float32 ``[…, V]``: their softmax is p, and so is their exponential.
        extra: ``context_vectors``, float32 ``[…, D]``, which a datastore is asked with; nothing of an ensemble.
    """

    logits: Tensor
    extra: dict[str, Tensor]


@dataclass(frozen=True, repr=False)
class Score:
    """The probability of each token of a text, given those before it. N tokens; natural logarithms, float64.

    Attributes:
        words: the tokens as words; those of a Hugging Face model as they stand in the text, white space too.
        tokens: int64 ids ``[N]``.
        positional_scores: ln p of each; with neighbours, the mixture.
        lm_scores: ln p of the language model alone.
        knn_scores: ln p of the neighbours alone, −inf where none agrees; None without neighbours.
        lmbda: weight λ of the neighbours.
        eos: whether the last token is the ``</s>`` that the text ends with.
    """

    words: tuple[str, ...]
    tokens: Tensor
    positional_scores: Tensor
    lm_scores: Tensor
    knn_scores: Tensor | None = None
    lmbda: float = 0.0
    eos: bool = True

    @classmethod
    def of(cls, text: ScoredText, word_of: Callable[[int], str], lmbda: float, *, eos: bool = True) -> "Score":
        """Returns a scored text as the hub shows it; neighbours are the only memory that it may have.

        Args:
            text: that was scored.
            word_of: an id as people read it.
            lmbda: weight λ of the neighbours.
            eos: whether the text ends with ``</s>``.
        """
        memories = text.memory_log_p_NM
        return cls(
            words=tuple(map(word_of, text.target_N.tolist())),
            tokens=torch.from_numpy(text.target_N),
            positional_scores=torch.from_numpy(text.log_p_N),
            lm_scores=torch.from_numpy(text.model_log_p_N),
            knn_scores=torch.from_numpy(memories[:, 0].copy()) if memories.shape[1] else None,
            lmbda=lmbda,
            eos=eos,
        )

    @property
    def total(self) -> float:
        """Σ ln p."""
        return float(self.positional_scores.sum())

    @property
    def score(self) -> float:
        """The mean of ln p, which fairseq calls a hypothesis's score; NaN without tokens."""
        return self.total / len(self.tokens) if len(self.tokens) else math.nan

    @property
    def loss(self) -> float:
        """Bits per token, the ``Loss (base 2)`` of fairseq-eval-lm."""
        return -self.score / math.log(2)

    @property
    def perplexity(self) -> float:
        """2 to the loss, infinite where that overflows; NaN without tokens, as the loss."""
        return perplexity_of(self.loss)

    @property
    def num_unknown(self) -> int:
        """Tokens that the dictionary does not have, scored as ``<unk>``."""
        return int((self.tokens == UNK).sum())

    def at(self, lmbda: float) -> "Score":
        """Returns the score of the same text with another λ; raises ConfigError where there are no neighbours."""
        if self.knn_scores is None:
            raise ConfigError(
                "the text must have been scored with neighbours to be mixed again; load the model with knn="
            )
        lmbda = checked_weight(lmbda)
        return replace(self, positional_scores=interpolate(self.lm_scores, self.knn_scores, lmbda), lmbda=lmbda)

    def without_eos(self) -> "Score":
        """Returns the score of the text's words, without the ``</s>`` behind the last one."""
        if not self.eos:
            return self
        return replace(
            self,
            words=self.words[:-1],
            tokens=self.tokens[:-1],
            positional_scores=self.positional_scores[:-1],
            lm_scores=self.lm_scores[:-1],
            knn_scores=self.knn_scores[:-1] if self.knn_scores is not None else None,
            eos=False,
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, name: str) -> Any:
        """Returns an entry of a fairseq hypothesis, which has no last ``</s>``, for code that was written for these."""
        if name not in _FAIRSEQ_KEYS:
            raise KeyError(f"{name!r} is not part of a score; {', '.join(_FAIRSEQ_KEYS)} are")
        value = getattr(self.without_eos(), name)
        return torch.tensor(value) if isinstance(value, float) else value

    def __repr__(self) -> str:
        if not len(self):
            return "Score(0 tokens)"
        unknown = f", {self.num_unknown} of them unknown" if self.num_unknown else ""
        return f"Score({len(self)} tokens{unknown}, perplexity {self.perplexity:.2f})"

    def table(self) -> str:
        """Returns a line for each token: word and probabilities, in the columns that there are."""
        columns = {"p": self.positional_scores}
        if self.knn_scores is not None:
            columns |= {"p_LM": self.lm_scores, "p_kNN": self.knn_scores}
        words = [one_line(word) for word in self.words]
        width = max(map(len, words), default=0)
        lines = ["".join([" " * width, *(f"{name:>9}" for name in columns)])]
        for n, word in enumerate(words):
            lines.append("".join([f"{word:<{width}}", *(f"{math.exp(p[n]):9.4f}" for p in columns.values())]))
        return "\n".join(lines)


@dataclass(frozen=True)
class Neighbour:
    """A row of the datastore that was near.

    Attributes:
        row: its number.
        distance: as p_kNN uses it; smaller is nearer.
        word: its value, the word that came next there.
        before: the words before it in its text; None where the text is not known.
        after: the words after it, likewise.
        line: all of it in one line, likewise.
    """

    row: int
    distance: float
    word: str
    before: str | None = None
    after: str | None = None
    line: str | None = None

    def __str__(self) -> str:
        passage = "" if self.line is None else f"  … {self.line} …"
        return f"{self.distance:9.3f}  {one_line(self.word)}{passage}"


@dataclass(frozen=True, repr=False)
class Neighbourhood:
    """A token of a text, and the rows whose contexts are nearest to the context before it, nearest first."""

    word: str
    neighbours: tuple[Neighbour, ...]

    @property
    def hits(self) -> int:
        """How many of the neighbours have this word as their value."""
        return sum(neighbour.word == self.word for neighbour in self.neighbours)

    def __repr__(self) -> str:
        return f"Neighbourhood({self.word!r}, {len(self.neighbours)} neighbours, {self.hits} of this word)"

    def __str__(self) -> str:
        return "\n".join([one_line(self.word), *map(str, self.neighbours)])


def rows_that_are_there(
    memory: RowMemory,
    word_of: Callable[[int], str],
    distances_K: Tensor,
    ids_K: Tensor,
    words: int,
) -> tuple[Neighbour, ...]:
    """Returns the rows that a search found, with so many words of what stands around them; −1 is none."""
    there_K = ids_K >= 0
    rows, distances = ids_K[there_K], distances_K[there_K].tolist()
    shown = []
    for row, distance, value in zip(rows.tolist(), distances, memory.values(rows).tolist(), strict=True):
        passage = memory.passage(row, words, words)
        around = (None, None, None) if passage is None else (passage.before, passage.after, passage.line)
        shown.append(Neighbour(row, distance, word_of(value), *around))
    return tuple(shown)
