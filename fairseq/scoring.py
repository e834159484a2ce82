"""Probabilities of targets from more than one source, and how they are mixed.

The language model knows nothing of nearest neighbours. It knows ``TargetScorer``: something that, given the vectors of
contexts and the tokens that came next, has an opinion of its own on those tokens.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class TargetScorer(Protocol):
    """A second source of probabilities for next tokens."""

    def log_prob(self, queries_ND: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, ``[N]``, for float32 context vectors; −inf where it is 0."""
        ...


@dataclass(frozen=True)
class Interpolation:
    """A second source and its weight λ: p = (1 − λ) p_LM + λ p_source."""

    source: TargetScorer
    weight: float


def interpolate(log_p_lm_N: Tensor, log_p_other_N: Tensor, weight: float) -> Tensor:
    """Returns ln((1 − λ) e^a + λ e^b), float64 ``[N]``; λ = 0 gives a, λ = 1 gives b, to the bit.

    Source: Khandelwal et al., 2020, equation 3.
    """
    a_N, b_N = log_p_lm_N.double(), log_p_other_N.double()
    if weight == 0:
        return a_N
    if weight == 1:
        return b_N
    return torch.logaddexp(a_N + math.log1p(-weight), b_N + math.log(weight))


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
