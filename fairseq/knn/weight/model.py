"""An interpolation weight λ for each token, and which searches to skip: functions of features, fitted and kept as JSON.

    λ = λ_0                                   fixed
    λ = λ_b, b the bucket of the nearest distance   buckets (Drozdov et al., 2022)
    λ = sigmoid(network(features))            network (He, Neubig and Berg-Kirkpatrick, 2021, and more features)

The file is plain numbers with the names of their features; nothing in it is executed. It names the model, datastore and
settings that it was fitted for (fairseq/knn/weight/file.py reads and writes it).

Legend: N tokens · F features · H width of a layer.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fairseq.arrays import Bools, Float64s
from fairseq.knn.weight.features import FEATURES

# Standardised features are clipped to this: a token unlike all that were fitted on counts as one at their edge.
FARTHEST = 4.0
# Logits are clipped to this: with a weight of 0 or 1, a target that only the other side knows would have probability 0.
LARGEST_LOGIT = 8.0


@dataclass(frozen=True)
class Network:
    """A small network, or several averaged: standardised features, tanh layers, one number.

    Attributes:
        features: names of its inputs.
        mean_F: of each feature.
        scale_F: standard deviation of each feature.
        members: of each network the layers: weights ``[H, inputs]`` and biases ``[H]``.
    """

    features: tuple[str, ...]
    mean_F: Float64s
    scale_F: Float64s
    members: tuple[tuple[tuple[Float64s, Float64s], ...], ...]

    def standardised(self, features_NF: Float64s) -> Float64s:
        """Returns features with mean 0 and deviation 1, the far ones brought in."""
        return np.clip((features_NF - self.mean_F) / self.scale_F, -FARTHEST, FARTHEST)

    def __call__(self, features_NF: Float64s) -> Float64s:
        """Returns the mean of the networks' outputs, ``[N]``."""
        x_NF, total_N = self.standardised(features_NF), np.zeros(len(features_NF))
        for layers in self.members:
            out_NH = x_NF
            for i, (weight, bias) in enumerate(layers):
                out_NH = out_NH @ weight.T + bias
                if i + 1 < len(layers):
                    out_NH = np.tanh(out_NH)
            total_N += out_NH[:, 0]
        return total_N / len(self.members)


@dataclass(frozen=True)
class FixedWeight:
    """One λ for every token."""

    weight: float

    def __call__(self, features_NF: Float64s) -> Float64s:
        """Returns λ, ``[N]``."""
        return np.full(len(features_NF), self.weight)


@dataclass(frozen=True)
class BucketWeights:
    """One λ for each bucket of the nearest distance: bucket b ends before ``edges[b]``, the last one nowhere."""

    edges: Float64s
    weights: Float64s

    def __call__(self, features_NF: Float64s) -> Float64s:
        """Returns λ, ``[N]``."""
        nearest_N = features_NF[:, FEATURES.index("nearest")]
        return self.weights[np.searchsorted(self.edges, nearest_N, side="right")]


@dataclass(frozen=True)
class NetworkWeights:
    """λ from a network's output."""

    network: Network

    def __call__(self, features_NF: Float64s) -> Float64s:
        """Returns λ, ``[N]``."""
        logit_N = np.clip(self.network(features_NF), -LARGEST_LOGIT, LARGEST_LOGIT)
        return 1 / (1 + np.exp(-logit_N))


Weights: TypeAlias = FixedWeight | BucketWeights | NetworkWeights


@dataclass(frozen=True)
class Skip:
    """What a search is expected to gain, from what is known before it (He et al., 2021).

    Attributes:
        network: from ``BEFORE_SEARCH`` to the expected ln p − ln p_LM, nats.
        thresholds: of the fitted tokens' expected gains the quantiles 0, 1/n, …, 1.
    """

    network: Network
    thresholds: Float64s

    def skipped(self, before_NF: Float64s, share: float) -> Bools:
        """Returns which searches to skip, so that on text like the fitted one about ``share`` of them are."""
        if share <= 0 or share >= 1:
            return np.full(len(before_NF), share >= 1)
        quantiles = np.linspace(0, 1, len(self.thresholds))
        return self.network(before_NF) < np.interp(share, quantiles, self.thresholds)


@dataclass(frozen=True)
class LmbdaModel:
    """A fitted weight.

    Attributes:
        weights: from features to λ.
        skip: which searches to skip.
        k: neighbours that the features describe.
        temperature: T of the p_kNN that it weighs.
        fitted_for: hashes and settings of model, datastore and retrieval.
        held_out: what cross-validation found: perplexities by the kind of weight.
    """

    weights: Weights
    skip: Skip
    k: int
    temperature: float
    fitted_for: dict[str, str | None]
    held_out: dict[str, float]
