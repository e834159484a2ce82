"""An interpolation weight λ for each token, and which searches to skip: functions of features, fitted and kept as JSON.

    λ = λ_0                                   fixed
    λ = λ_b, b the bucket of the nearest distance   buckets (Drozdov et al., 2022)
    λ = sigmoid(network(features))            network (He, Neubig and Berg-Kirkpatrick, 2021, and more features)

All are records, of lists that JSON has as they are: ``LmbdaModel`` is the file. Nothing in it is executed.

{"kind": "lmbda-model", "version": 1,
 "weights": {"kind": "fixed", "weight": 0.2}
          | {"kind": "buckets", "edges": […], "weights": […]}
          | {"kind": "network", "network": NETWORK},
 "skip": {"network": NETWORK, "thresholds": […]},
 "k": 1024, "knn_temp": 1.0, "fitted_for": {…}, "held_out": {…}}
NETWORK = {"features": […], "mean": […], "scale": […], "members": [[{"weight": [[…]], "bias": […]}, …], …]}

Legend: N tokens · F features · H width of a layer.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

import numpy as np
from msgspec import UNSET, Meta, UnsetType

from fairseq.arrays import Bools, Float64s
from fairseq.errors import shown
from fairseq.knn.config import LEAST_TEMPERATURE
from fairseq.knn.weight.features import BEFORE_SEARCH, FEATURES
from fairseq.storage.records import Positive, Record

# Standardised features are clipped to this: a token unlike all that were fitted on counts as one at their edge.
FARTHEST = 4.0
# Logits are clipped to this: with a weight of 0 or 1, a target that only the other side knows would have probability 0.
LARGEST_LOGIT = 8.0

Finite = Annotated[float, Meta(gt=-1e30, lt=1e30)]
Above0 = Annotated[float, Meta(gt=0, lt=1e30)]
Weight = Annotated[float, Meta(ge=0, le=1)]


class Layer(Record, frozen=True):
    """A layer: its weights, a row for each output, and biases."""

    weight: list[list[Finite]]
    bias: list[Finite]

    def __post_init__(self) -> None:
        if len(self.weight) != len(self.bias) or len({len(row) for row in self.weight}) != 1:
            raise ValueError("must have a row of weights for each bias, all of equal length")


class Network(Record, frozen=True):
    """A small network, or several averaged: standardised features, tanh layers, one number.

    Attributes:
        features: names of its inputs.
        mean: of each feature.
        scale: standard deviation of each feature.
        members: the layers of each network.
    """

    features: list[str]
    mean: list[Finite]
    scale: list[Above0]
    members: Annotated[list[Annotated[list[Layer], Meta(min_length=1)]], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.mean) == len(self.scale):
            raise ValueError(f"must have a mean and a scale for each of its {len(self.features)} features")
        for member in self.members:
            inputs = [len(layer.weight[0]) for layer in member]
            outputs = [len(layer.bias) for layer in member]
            if inputs != [len(self.features), *outputs[:-1]] or outputs[-1] != 1:
                raise ValueError(f"must have layers from {len(self.features)} features to one output")

    def check_features(self, features: Sequence[str]) -> None:
        """Raises ValueError unless these are its inputs."""
        if self.features != list(features):
            raise ValueError(f"must have the features {', '.join(features)}, but has {shown(self.features)}")

    def standardised(self, features_NF: Float64s) -> Float64s:
        """Returns features with mean 0 and deviation 1, the far ones brought in."""
        clipped_NF: Float64s = np.clip((features_NF - self.mean) / np.array(self.scale), -FARTHEST, FARTHEST)
        return clipped_NF

    def __call__(self, features_NF: Float64s) -> Float64s:
        """Returns the mean of the networks' outputs, ``[N]``."""
        x_NF, total_N = self.standardised(features_NF), np.zeros(len(features_NF))
        for layers in self.members:
            out_NH = x_NF
            for i, layer in enumerate(layers):
                out_NH = out_NH @ np.array(layer.weight).T + layer.bias
                if i + 1 < len(layers):
                    out_NH = np.tanh(out_NH)
            total_N += out_NH[:, 0]
        return total_N / len(self.members)


class FixedWeight(Record, frozen=True, tag_field="kind", tag="fixed"):
    """One λ for every token."""

    weight: Weight

    def __call__(self, features_NF: Float64s) -> Float64s:
        """Returns λ, ``[N]``."""
        return np.full(len(features_NF), self.weight)


class BucketWeights(Record, frozen=True, tag_field="kind", tag="buckets"):
    """One λ for each bucket of the nearest distance: bucket b ends before ``edges[b]``, the last one nowhere."""

    edges: list[Finite]
    weights: list[Weight]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.edges) + 1 or any(a >= b for a, b in pairwise(self.edges)):
            raise ValueError("must have edges that rise, one fewer than weights")

    def __call__(self, features_NF: Float64s) -> Float64s:
        """Returns λ, ``[N]``."""
        nearest_N = features_NF[:, FEATURES.index("nearest")]
        weight_N: Float64s = np.array(self.weights)[np.searchsorted(self.edges, nearest_N, side="right")]
        return weight_N


class NetworkWeights(Record, frozen=True, tag_field="kind", tag="network"):
    """λ from a network's output."""

    network: Network

    def __post_init__(self) -> None:
        self.network.check_features(FEATURES)

    def __call__(self, features_NF: Float64s) -> Float64s:
        """Returns λ, ``[N]``."""
        logit_N = np.clip(self.network(features_NF), -LARGEST_LOGIT, LARGEST_LOGIT)
        return 1 / (1 + np.exp(-logit_N))


Weights: TypeAlias = FixedWeight | BucketWeights | NetworkWeights


class Skip(Record, frozen=True):
    """What a search is expected to gain, from what is known before it (He et al., 2021).

    Attributes:
        network: from ``BEFORE_SEARCH`` to the expected ln p − ln p_LM, nats.
        thresholds: of the fitted tokens' expected gains the quantiles 0, 1/n, …, 1.
    """

    network: Network
    thresholds: Annotated[list[Finite], Meta(min_length=2)]

    def __post_init__(self) -> None:
        self.network.check_features(BEFORE_SEARCH)
        if any(a > b for a, b in pairwise(self.thresholds)):
            raise ValueError("must have thresholds that rise")

    def skipped(self, before_NF: Float64s, share: float) -> Bools:
        """Returns which searches to skip, so that on text like the fitted one about ``share`` of them are."""
        if share <= 0 or share >= 1:
            return np.full(len(before_NF), share >= 1)
        quantiles = np.linspace(0, 1, len(self.thresholds))
        return self.network(before_NF) < np.interp(share, quantiles, self.thresholds)


class LmbdaModel(Record, frozen=True, kw_only=True):
    """A fitted weight.

    Attributes:
        weights: from features to λ.
        skip: which searches to skip.
        k: neighbours that the features describe.
        knn_temp: T of the p_kNN that it weighs.
        knn_temp_asked: ``auto`` where it was not typed as a number.
        distance_unit: what the temperatures of ``auto`` are multiples of, where it is known.
        fitted_for: hashes and settings of model, datastore and retrieval.
        held_out: what cross-validation found: perplexities by the kind of weight.
    """

    kind: Literal["lmbda-model"] = "lmbda-model"
    version: Literal[1] = 1
    weights: Weights
    skip: Skip
    k: Positive
    knn_temp: Annotated[float, Meta(ge=LEAST_TEMPERATURE, lt=1e30)]
    knn_temp_asked: Literal["auto"] | UnsetType = UNSET
    distance_unit: Annotated[float, Meta(ge=LEAST_TEMPERATURE, lt=1e30)] | UnsetType = UNSET
    fitted_for: dict[str, str | None]
    held_out: dict[str, Finite]
