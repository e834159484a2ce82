"""The columns of the page, one entry for each scored token: probabilities, votes, hits, verbatim context.

The gain of a token is ln p − ln p_LM, where p = (1 − λ) p_LM + λ p_kNN; it is never below ln(1 − λ). A neighbour's vote
is its softmax weight. The page has the nearest neighbours only, so each token carries the log of the votes' sum over
all k, shifted by the nearest distance d₁, which keeps it small whatever the temperature:

    vote_i = exp((d₁ − d_i) / T − s),    s = ln Σ_j exp((d₁ − d_j) / T) ≥ 0

Legend: N scored tokens · K neighbours · P pairs of a token and a neighbour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fairseq.arrays import Array, Float64s, Int64s
from fairseq.evaluate.mixture import interpolate
from fairseq.knn.neighbours.distribution import gaps, log_probs, vote_weights


@dataclass(frozen=True)
class MixtureSettings:
    """How neighbours become probabilities: the k nearest of them, temperature T and weight λ."""

    k: int
    temperature: float
    lmbda: float


@dataclass(frozen=True)
class Columns:
    """One entry a token.

    Attributes:
        lm_log_p_N: ln p_LM(target), float64.
        knn_log_p_N: ln p_kNN(target), float64; −inf without a hit.
        log_votes_N: s, float64.
        nearest_N: distance of the nearest neighbour, float64; inf for none.
        num_hits_N: neighbours among the k whose value is the target.
        first_hit_N: rank of the nearest of them, from 0; −1 without any.
        overlap_N: tokens of context that stand, word for word, before the best of the nearest hits; −1 without any.
    """

    lm_log_p_N: Float64s
    knn_log_p_N: Float64s
    log_votes_N: Float64s
    nearest_N: Float64s
    num_hits_N: Int64s
    first_hit_N: Int64s
    overlap_N: Int64s

    def mixture(self, lmbda: float) -> Float64s:
        """Returns ln((1 − λ) p_LM + λ p_kNN)."""
        lm, knn = torch.from_numpy(self.lm_log_p_N), torch.from_numpy(self.knn_log_p_N)
        mixed: Float64s = interpolate(lm, knn, lmbda).numpy()
        return mixed

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """Returns the columns of all parts, one after the other."""
        names = cls.__dataclass_fields__
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def gain(lm_log_p_N: Float64s, mixture_log_p_N: Float64s) -> Float64s:
    """Returns ln p − ln p_LM; 0 where both probabilities are 0."""
    gain_N = np.zeros(len(lm_log_p_N))
    np.subtract(mixture_log_p_N, lm_log_p_N, out=gain_N, where=mixture_log_p_N != lm_log_p_N)
    return gain_N


def score(
    lm_log_p_N: Array, distances_NK: Array, hits_NK: Array, overlap_N: Int64s, settings: MixtureSettings
) -> Columns:
    """Returns the columns of some tokens, from neighbours that come nearest first and are distinct."""
    distances_NK = distances_NK[:, : settings.k]
    hits_NK = hits_NK[:, : settings.k] & np.isfinite(distances_NK)
    log_p_TJN = log_probs(distances_NK, hits_NK, (settings.temperature,), (settings.k,))
    with np.errstate(divide="ignore"):
        log_votes_N = np.log(vote_weights(gaps(distances_NK), settings.temperature).sum(axis=1))
    num_hits_N = hits_NK.sum(axis=1, dtype=np.int64)
    return Columns(
        np.asarray(lm_log_p_N, np.float64),
        log_p_TJN[0, 0].astype(np.float32).astype(np.float64),  # rounded as in an evaluation
        log_votes_N,
        distances_NK[:, 0].astype(np.float64),
        num_hits_N,
        np.where(num_hits_N > 0, np.argmax(hits_NK, axis=1), -1),
        overlap_N,
    )


def nearest_hits(hits_NK: Array, limit: int) -> tuple[Int64s, Int64s]:
    """Returns (token, rank) of every token's nearest hits, at most ``limit`` of each: int64 ``[P]``, twice."""
    token_P, rank_P = np.nonzero(hits_NK)
    firsts = np.searchsorted(token_P, token_P)  # where each token's hits begin
    kept_P = np.arange(len(token_P)) - firsts < limit
    return token_P[kept_P], rank_P[kept_P]


def shared_suffix(text: Array, at_P: Int64s, source: Array, source_at_P: Int64s, longest: int) -> Int64s:
    """Returns how many tokens right before ``text[at]`` and ``source[source_at]`` are the same, up to ``longest``."""
    length_P = np.zeros(len(at_P), np.int64)
    alive = np.arange(len(at_P))
    for back in range(1, longest + 1):
        here, there = at_P[alive] - back, source_at_P[alive] - back
        inside = (here >= 0) & (there >= 0)
        alive, here, there = alive[inside], here[inside], there[inside]
        alive = alive[text[here] == source[there]]
        if not len(alive):
            break
        length_P[alive] = back
    return length_P


def longest_overlap(
    text: Array, at_N: Int64s, source: Array, source_at_NK: Int64s, hits_NK: Array, limit: int, longest: int
) -> Int64s:
    """Returns the longest shared suffix over each token's nearest hits, ``[N]``; −1 for a token without a hit."""
    token_P, rank_P = nearest_hits(hits_NK, limit)
    length_P = shared_suffix(text, at_N[token_P], source, source_at_NK[token_P, rank_P], longest)
    overlap_N = np.full(len(at_N), -1, np.int64)
    np.maximum.at(overlap_N, token_P, length_P)
    return overlap_N
