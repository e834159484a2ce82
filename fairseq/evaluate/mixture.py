"""A language model and its memories, mixed: p = (1 − Σ w) p_LM + Σ w p_memory.

A ``Memory`` has a probability of its own for each token. Neighbours from a datastore are one, a cache of the text's
last words is another; neither the model nor the scorer knows which ones there are.

Legend: N tokens · M memories · D width of a context vector · V vocabulary.
"""

import functools
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Float32s, Int64s

# What a memory has counted, by name: a number, or the parts of an exact sum (fairseq/runtime/exact_sum.py).
Counts: TypeAlias = Mapping[str, int | Sequence[float]]


class Known(NamedTuple):
    """What is known of N contexts before their targets are seen.

    Attributes:
        last_token_N: int64, id of the last token of the context.
        max_log_p_N: float32, ln of the model's largest next-token probability.
        entropy_N: float32, of the model's next-token distribution, nats.
    """

    last_token_N: Int64s
    max_log_p_N: Float32s
    entropy_N: Float32s


@dataclass(frozen=True, kw_only=True)
class ScoredTokens:
    """N tokens that the language model has scored: what a memory is asked about.

    Attributes:
        block_idx_N: int64, the block that each belongs to.
        query_ND: float32, the context vector before each; of width 0 where there is no memory.
        target_N: int64 ids.
        log_p_N: float64, ln p_LM(target).
        known: what is known before each is seen; None where no memory needs it.
    """

    block_idx_N: Int64s
    query_ND: Tensor
    target_N: Tensor
    log_p_N: Tensor
    known: Known | None

    @staticmethod
    def joined(parts: "Sequence[ScoredTokens]") -> "ScoredTokens":
        """Returns the tokens of all parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        known = [part.known for part in parts if part.known is not None]
        return ScoredTokens(
            block_idx_N=np.concatenate([part.block_idx_N for part in parts]),
            query_ND=torch.cat([part.query_ND for part in parts]),
            target_N=torch.cat([part.target_N for part in parts]),
            log_p_N=torch.cat([part.log_p_N for part in parts]),
            known=Known(*map(np.concatenate, zip(*known, strict=True))) if known else None,
        )


@dataclass(frozen=True)
class MemoryScores:
    """What a memory says of N tokens.

    Attributes:
        log_p_N: ln p(target), −inf where it is 0.
        weight_N: float64, the weight of each, by a memory that weighs its tokens itself.
        columns: anything else that it can tell of each token, by name, ``[N, …]``.
    """

    log_p_N: Tensor
    weight_N: Tensor | None = None
    columns: Mapping[str, Array] = field(default_factory=dict)

    def split(self, sizes: Sequence[int]) -> "list[MemoryScores]":
        """Returns the scores of the first ``sizes[0]`` tokens, of those behind them, and so on."""
        cuts = itertools.pairwise([0, *itertools.accumulate(sizes)])
        return [
            MemoryScores(
                self.log_p_N[first:last],
                self.weight_N[first:last] if self.weight_N is not None else None,
                {name: array[first:last] for name, array in self.columns.items()},
            )
            for first, last in cuts
        ]


@dataclass(frozen=True)
class MemoryReport:
    """What one memory, or several, report after an evaluation.

    Attributes:
        identity: ids of the files that it was made of.
        settings: what settings came to that were not typed as a value.
        found: plain values for JSON, the same for every repetition.
        speed: how long it took.
        summary: lines for people.
        warnings: lines about what is wrong, each with what to do.
    """

    identity: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    speed: Mapping[str, float] = field(default_factory=dict)
    summary: Sequence[str] = ()
    warnings: Sequence[str] = ()


class Memory(Protocol):
    """Something that has a probability for each token, besides the language model's.

    Attributes:
        in_order: it follows the text and is asked batch by batch, in order; others are asked for many batches at once.
        needs_known: it needs ``ScoredTokens.known``.
    """

    in_order: bool = False
    needs_known: bool = False

    def begin(self) -> None:
        """Forgets the text so far: another one begins."""
        return  # most follow no text

    @abstractmethod
    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        """Returns the tokens' probabilities."""
        ...

    def counts(self) -> Counts:
        """Returns what it has counted so far; those of the processes of a run add up."""
        return {}

    def set_counts(self, counts: Counts) -> None:
        """Takes what all processes have counted for its own."""
        assert not counts, counts

    def report(self) -> MemoryReport:
        """Returns what is to be told of the memory."""
        return MemoryReport()


class Mixture:
    """A language model's memories and their weights.

    Args:
        memories: each with its weight w, or with None if it weighs every token itself. Those come first: their weight
            is a share of what the others leave.
    """

    def __init__(self, memories: Sequence[tuple[Memory, float | None]] = ()) -> None:
        self.memories = tuple(memory for memory, _ in memories)
        fixed = [weight for _, weight in memories if weight is not None]
        self._shares = [*[None] * (len(memories) - len(fixed)), *shares_of_rest(fixed)]
        assert [share is None for share in self._shares] == [weight is None for _, weight in memories], memories

    def mixed(self, log_p_lm_N: Tensor, scores: Sequence[MemoryScores]) -> Tensor:
        """Returns ln p of N tokens, float64 ``[N]``, from the model's and from each memory's scores."""
        log_p_N = log_p_lm_N
        for found, share in zip(scores, self._shares, strict=True):
            weight = found.weight_N if share is None else share
            assert weight is not None, "a memory without a weight gives each token one"
            log_p_N = interpolate(log_p_N, found.log_p_N, weight)
        return log_p_N

    def counts(self) -> Counts:
        """Returns what the memories have counted, at most one of them anything."""
        found = [counts for memory in self.memories if (counts := memory.counts())]
        assert len(found) < 2, found
        return found[0] if found else {}

    def set_counts(self, counts: Counts) -> None:
        """Has the memories take what all processes have counted for their own."""
        for memory in self.memories:
            memory.set_counts(counts if memory.counts() else {})

    def report(self) -> MemoryReport:
        """Returns what is to be told of all memories."""
        reports = [memory.report() for memory in self.memories]
        return MemoryReport(
            identity={name: value for report in reports for name, value in report.identity.items()},
            settings={name: value for report in reports for name, value in report.settings.items()},
            found={name: value for report in reports for name, value in report.found.items()},
            speed={name: value for report in reports for name, value in report.speed.items()},
            summary=[line for report in reports for line in report.summary],
            warnings=tuple(line for report in reports for line in report.warnings),
        )


class NextTokenMemory(Protocol):
    """Something that has a probability for every word."""

    def next_log_prob(self, queries_ND: Tensor, vocabulary_size: int) -> Tensor:
        """Returns ln p of every word, ``[N, V]``, for float32 context vectors; −inf where it is 0."""
        ...


class NextTokenMixture:
    """Memories and their weights, mixed into probabilities of every word; generating text uses them."""

    def __init__(self, memories: Sequence[tuple[NextTokenMemory, float]]) -> None:
        shares = shares_of_rest([weight for _, weight in memories])
        self._memories = [(memory, share) for (memory, _), share in zip(memories, shares, strict=True) if share]

    def mixed(self, log_p_lm_NV: Tensor, queries_ND: Tensor) -> Tensor:
        """Returns ln p of every word, ``[N, V]``, float64; without any weight the first argument itself."""
        log_p_NV = log_p_lm_NV
        for memory, share in self._memories:
            memory_NV = memory.next_log_prob(queries_ND, log_p_NV.shape[1])
            # Most words have no vote: (1 − w) p is all that they have.
            mixed_NV = log_p_NV.double() + torch.log1p(torch.tensor(-share, dtype=torch.float64))
            voted_NV = memory_NV > -torch.inf
            mixed_NV[voted_NV] = interpolate(log_p_NV[voted_NV], memory_NV[voted_NV], share)
            log_p_NV = mixed_NV
        return log_p_NV


def interpolate(log_p_lm_N: Tensor, log_p_other_N: Tensor, weight_N: Tensor | float) -> Tensor:
    """Returns ln((1 − λ) e^a + λ e^b), float64 ``[N]``; λ = 0 gives a, λ = 1 gives b, to the bit.

    Source: Khandelwal et al., 2020, equation 3.
    """
    a_N, b_N = log_p_lm_N.double(), log_p_other_N.double()
    weight_N = torch.as_tensor(weight_N, dtype=torch.float64, device=a_N.device)
    mixed_N = torch.logaddexp(a_N + torch.log1p(-weight_N), b_N + torch.log(weight_N))
    return torch.where(weight_N == 0, a_N, torch.where(weight_N == 1, b_N, mixed_N))


def mixtures(log_p: Sequence[Tensor], weights: Iterable[Sequence[float]]) -> Iterator[Tensor]:
    """Yields ln Σ w e^a over sources a for each row of weights w, float64; a weight of 1 gives its source to the bit.

    ``interpolate`` for many weights: exponentials are taken once, and each row takes one logarithm. Sources are
    float64, and broadcast.
    """
    largest = functools.reduce(torch.maximum, log_p)
    largest[largest.isneginf()] = 0  # keeps inf − inf out
    p = [(source - largest).exp_() for source in log_p]
    for row in weights:
        if 1 in row:
            yield log_p[row.index(1)].expand_as(largest)
            continue
        mixed = p[0] * row[0]
        for source, weight in zip(p[1:], row[1:], strict=True):
            mixed.add_(source, alpha=weight)
        yield mixed.log_().add_(largest)


def shares_of_rest(weights: Sequence[float]) -> list[float]:
    """Returns the weight at which to mix each memory into what the model and the memories before it give.

    It is λ′ = λ / (1 − μ), where μ is the weight of all memories behind it, since of two
    (1 − μ) ((1 − λ′) p_LM + λ′ p_1) + μ p_2 = (1 − λ − μ) p_LM + λ p_1 + μ p_2.
    """
    taken = [sum(weights[number + 1 :]) for number in range(len(weights))]
    return [min(weight / (1 - rest), 1.0) if rest < 1 else 0.0 for weight, rest in zip(weights, taken, strict=True)]


def average_probabilities(log_p_MN: list[Tensor]) -> Tensor:
    """Returns the log of the mean probability of M models, float64 ``[N]``."""
    if len(log_p_MN) == 1:
        return log_p_MN[0].double()
    return torch.logsumexp(torch.stack([log_p_N.double() for log_p_N in log_p_MN]), 0) - math.log(len(log_p_MN))
