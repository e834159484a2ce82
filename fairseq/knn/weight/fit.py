"""Fitting a weight λ of each token's own, by the loss of the mixture.

The loss of N tokens is −Σ ln((1 − λ_n) p_LM + λ_n p_kNN). For one λ it is convex, and its least value is found by
bisection of the derivative; a bucket of tokens is fitted the same way, a network by gradient descent. Cross-validation
cuts the text into consecutive runs of blocks, since neighbouring tokens are alike: each run is scored with what was
fitted on the others.

Legend: N tokens · F features.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from fairseq.arrays import Bools, Float64s, Int64s, Integers
from fairseq.evaluate.mixture import interpolate
from fairseq.knn.weight.features import BEFORE_SEARCH, FEATURES
from fairseq.knn.weight.model import (
    LARGEST_LOGIT,
    BucketWeights,
    FixedWeight,
    Layer,
    Network,
    NetworkWeights,
    Skip,
    Weights,
)

NUM_BUCKETS = 10
NUM_THRESHOLDS = 101
_HIDDEN = (32, 32)
_STEPS, _BATCH, _LEARNING_RATE, _WEIGHT_DECAY = 400, 2048, 0.01, 1e-4
_BISECTIONS = 60


@dataclass(frozen=True)
class Tokens:
    """What is fitted on: N tokens of a text, in its order.

    Attributes:
        features_NF: ``FEATURES``.
        has_neighbours_N: where p_kNN is a distribution; elsewhere λ is 0.
        log_p_lm_N: of the targets.
        log_p_knn_N: of the targets.
        block_N: the block of each.
    """

    features_NF: Float64s
    has_neighbours_N: Bools
    log_p_lm_N: Float64s
    log_p_knn_N: Float64s
    block_N: Integers

    def __len__(self) -> int:
        return len(self.features_NF)

    def some(self, rows_N: Bools) -> "Tokens":
        """Returns some of them."""
        return Tokens(*(getattr(self, field.name)[rows_N] for field in fields(self)))

    @property
    def usable(self) -> "Tokens":
        """Those that λ makes a difference to."""
        some_chance_N = np.isfinite(np.maximum(self.log_p_lm_N, self.log_p_knn_N))
        return self.some(self.has_neighbours_N & some_chance_N)

    def weights(self, weights: Weights) -> Float64s:
        """Returns λ of each."""
        return np.where(self.has_neighbours_N, weights(self.features_NF), 0.0)

    def log_prob(self, weights: Weights) -> Float64s:
        """Returns the mixture's ln p of each target."""
        arrays = (self.log_p_lm_N, self.log_p_knn_N, self.weights(weights))
        log_p_N: Float64s = interpolate(*(torch.from_numpy(array) for array in arrays)).numpy()
        return log_p_N


def best_weight(log_p_lm_N: Float64s, log_p_knn_N: Float64s) -> float:
    """Returns the λ of the least loss, from 0 to 1, where no target has both probabilities 0; 0 for no tokens."""
    # d/dλ Σ ln(1 + λ r) = Σ r / (1 + λ r) with r = p_kNN / p_LM − 1, which falls as λ grows.
    with np.errstate(over="ignore"):
        ratio_N = np.clip(np.expm1(log_p_knn_N - log_p_lm_N), -1.0, 1e300)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if (ratio_N / (1 + middle * ratio_N)).sum() > 0:
            low = middle
        else:
            high = middle
    return low


def fit_fixed(tokens: Tokens) -> FixedWeight:
    """Returns the best λ for all."""
    usable = tokens.usable
    return FixedWeight(best_weight(usable.log_p_lm_N, usable.log_p_knn_N))


def fit_buckets(tokens: Tokens, num_buckets: int = NUM_BUCKETS) -> BucketWeights:
    """Returns the best λ for each of some buckets of the nearest distance, with equally many tokens in each."""
    usable = tokens.usable
    nearest_N = usable.features_NF[:, FEATURES.index("nearest")]
    edges = np.unique(np.quantile(nearest_N, np.arange(1, num_buckets) / num_buckets))
    bucket_N = np.searchsorted(edges, nearest_N, side="right")
    rows = [bucket_N == bucket for bucket in range(len(edges) + 1)]
    weights = [best_weight(usable.log_p_lm_N[row], usable.log_p_knn_N[row]) for row in rows]
    return BucketWeights(edges.tolist(), weights)


def fit_network(tokens: Tokens, seed: int) -> NetworkWeights:
    """Returns λ as a network of every feature, fitted by the loss of the mixture."""
    usable = tokens.usable
    lm_N, knn_N = (torch.from_numpy(log_p_N).float() for log_p_N in (usable.log_p_lm_N, usable.log_p_knn_N))

    def loss(logit_N: Tensor, rows: Tensor) -> Tensor:
        logit_N = logit_N.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        lm, knn = lm_N[rows] + nn.functional.logsigmoid(-logit_N), knn_N[rows] + nn.functional.logsigmoid(logit_N)
        return -torch.logaddexp(lm, knn).mean()

    start = min(max(fit_fixed(tokens).weight, 1e-3), 1 - 1e-3)
    return NetworkWeights(_descend(FEATURES, usable.features_NF, loss, math.log(start / (1 - start)), seed))


def fit_skip(tokens: Tokens, log_p_N: Float64s, seed: int) -> Skip:
    """Returns which searches to skip, from what each has gained: ln p − ln p_LM of its target, nats."""
    with np.errstate(invalid="ignore"):  # where both probabilities are 0
        gain_N = log_p_N - tokens.log_p_lm_N
    before_NF, there_N = tokens.features_NF[:, : len(BEFORE_SEARCH)], np.isfinite(gain_N)
    gain = torch.from_numpy(gain_N[there_N]).float()
    mean = float(gain.mean())

    def loss(expected_N: Tensor, rows: Tensor) -> Tensor:
        return (expected_N - gain[rows]).square().mean()

    network = _descend(BEFORE_SEARCH, before_NF[there_N], loss, mean, seed)
    return Skip(network, np.quantile(network(before_NF), np.linspace(0, 1, NUM_THRESHOLDS)).tolist())


def folds_of(block_N: Integers, num_folds: int) -> Int64s:
    """Returns the fold of each token: consecutive runs of whole blocks, with about as many tokens in each."""
    first_N = np.concatenate([[True], block_N[1:] != block_N[:-1]])
    start_N = np.flatnonzero(first_N)[np.cumsum(first_N) - 1]  # where each token's block begins
    folds: Int64s = start_N * num_folds // len(block_N)
    return folds


def _descend(
    features: tuple[str, ...], features_NF: Float64s, loss: Callable[[Tensor, Tensor], Tensor], start: float, seed: int
) -> Network:
    """Returns a network fitted by gradient descent on ``loss(outputs, rows)``; its first outputs are near ``start``."""
    mean_F, scale_F = features_NF.mean(0), features_NF.std(0)
    scale_F = np.where(scale_F > 0, scale_F, 1.0)
    network = Network(list(features), mean_F.tolist(), scale_F.tolist(), [])
    inputs_NF = torch.from_numpy(network.standardised(features_NF)).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = (len(features), *_HIDDEN, 1)
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        last = layers[-1]
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.fill_(start)
        optimizer = torch.optim.AdamW(nn.ModuleList(layers).parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        for step in range(_STEPS):
            rows = torch.randint(len(inputs_NF), (min(_BATCH, len(inputs_NF)),))
            out_NH = inputs_NF[rows]
            for layer in layers[:-1]:
                out_NH = torch.tanh(layer(out_NH))
            optimizer.zero_grad()
            loss(last(out_NH)[:, 0], rows).backward()  # type: ignore[no-untyped-call]
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * math.sin(math.pi * (step + 1) / (_STEPS + 1))  # up, and down to 0
            optimizer.step()
    return network.replace(members=[[Layer(layer.weight.tolist(), layer.bias.tolist()) for layer in layers]])
