"""Probabilities of targets from more than one source, and how they are mixed.

The language model knows nothing of nearest neighbours. It knows ``TargetScorer``: something that, given the vectors of
contexts and the tokens that came next, has an opinion of its own on those tokens. A ``WeighingScorer`` also says how
much that opinion is worth for each of them.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fairseq.arrays import Float32s, Int64s


class TargetScorer(Protocol):
    """A second source of probabilities for next tokens."""

    def log_prob(self, queries_ND: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, ``[N]``, for float32 context vectors; −inf where it is 0."""
        ...


@dataclass(frozen=True)
class Known:
    """What is known of N contexts before their targets are seen.

    Attributes:
        last_token_N: int64, id of the last token of the context.
        max_log_p_N: float32, ln of the model's largest next-token probability.
        entropy_N: float32, of the model's next-token distribution, nats.
    """

    last_token_N: Int64s
    max_log_p_N: Float32s
    entropy_N: Float32s


class WeighingScorer(Protocol):
    """A second source that weighs its probabilities itself, each by what is known before the target is seen."""

    def weighed_log_prob(self, queries_ND: Tensor, target_N: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """Returns log p(target), natural, and its weight λ, float64, ``[N]`` each; anything where λ is 0."""
        ...


class NextTokenSource(Protocol):
    """A second source that has an opinion on every word."""

    def next_log_prob(self, queries_ND: Tensor, vocabulary_size: int) -> Tensor:
        """Returns log p of every word, natural, ``[N, V]``, for float32 context vectors; −inf where it is 0."""
        ...


@dataclass(frozen=True)
class NextInterpolation:
    """A second source of whole distributions and its weight λ: p = (1 − λ) p_LM + λ p_source."""

    source: NextTokenSource
    weight: float

    def mixed(self, log_p_lm_NV: Tensor, queries_ND: Tensor) -> Tensor:
        """Returns log p of every word, natural, ``[N, V]``, float64; λ = 0 gives the first argument itself."""
        if self.weight == 0:
            return log_p_lm_NV
        log_p_source_NV = self.source.next_log_prob(queries_ND, log_p_lm_NV.shape[1])
        # Most words have no vote: (1 − λ) p_LM is all that they have.
        mixed_NV = log_p_lm_NV.double() + torch.log1p(torch.tensor(-self.weight, dtype=torch.float64))
        voted_NV = log_p_source_NV > -torch.inf
        mixed_NV[voted_NV] = interpolate(log_p_lm_NV[voted_NV], log_p_source_NV[voted_NV], self.weight)
        return mixed_NV


@dataclass(frozen=True)
class Interpolation:
    """A second source and its weight λ: p = (1 − λ) p_LM + λ p_source."""

    source: TargetScorer
    weight: float

    def ask(self, queries_ND: Tensor, target_N: Tensor, known: Known | None) -> tuple[Tensor, Tensor]:
        """Returns log p(target) and the weight, ``[N]`` each."""
        log_p_N = self.source.log_prob(queries_ND, target_N)
        return log_p_N, torch.full_like(log_p_N, self.weight, dtype=torch.float64)


@dataclass(frozen=True)
class WeighedInterpolation:
    """A second source that knows its weight λ for each target."""

    source: WeighingScorer

    def ask(self, queries_ND: Tensor, target_N: Tensor, known: Known | None) -> tuple[Tensor, Tensor]:
        """Returns log p(target) and the weight, ``[N]`` each."""
        assert known is not None
        return self.source.weighed_log_prob(queries_ND, target_N, known)


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


def share_of_rest(weight: float, taken: float) -> float:
    """Returns λ / (1 − μ): the weight at which to mix a source in before a third one is mixed in at μ.

    The two steps give (1 − μ) ((1 − λ′) p_LM + λ′ p_source) + μ p_third = (1 − λ − μ) p_LM + λ p_source + μ p_third.
    """
    return min(weight / (1 - taken), 1.0) if taken < 1 else 0.0


def average_probabilities(log_p_MN: list[Tensor]) -> Tensor:
    """Returns the log of the mean probability of M models, float64 ``[N]``."""
    if len(log_p_MN) == 1:
        return log_p_MN[0].double()
    return torch.logsumexp(torch.stack([log_p_N.double() for log_p_N in log_p_MN]), 0) - math.log(len(log_p_MN))
