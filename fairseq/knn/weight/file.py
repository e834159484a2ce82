"""The file of a fitted weight: JSON, numbers and names only, every one checked when it is read.

{"kind": "lmbda-model", "version": 1,
 "weights": {"kind": "fixed", "weight": 0.2}
          | {"kind": "buckets", "edges": […], "weights": […]}
          | {"kind": "network", "network": NETWORK},
 "skip": {"network": NETWORK, "thresholds": […]},
 "k": 1024, "knn_temp": 1.0, "fitted_for": {…}, "held_out": {…}}
NETWORK = {"features": […], "mean": […], "scale": […], "members": [[{"weight": [[…]], "bias": […]}, …], …]}
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from fairseq.errors import DatastoreError, shown
from fairseq.knn.datastore.identity import mismatch
from fairseq.knn.weight.features import BEFORE_SEARCH, FEATURES
from fairseq.knn.weight.model import BucketWeights, FixedWeight, LmbdaModel, Network, NetworkWeights, Skip
from fairseq.runtime.records import Positive, Record, read_record, write_record

Finite = Annotated[float, Meta(gt=-1e30, lt=1e30)]
Above0 = Annotated[float, Meta(gt=0, lt=1e30)]
Weight = Annotated[float, Meta(ge=0, le=1)]


class LayerRecord(Record, frozen=True):
    """A layer: its weights, a row for each output, and biases."""

    weight: list[list[Finite]]
    bias: list[Finite]

    def __post_init__(self) -> None:
        if len(self.weight) != len(self.bias) or len({len(row) for row in self.weight}) != 1:
            raise ValueError("must have a row of weights for each bias, all of equal length")


class NetworkRecord(Record, frozen=True):
    """Networks whose outputs are averaged, and how features are standardised."""

    features: list[str]
    mean: list[Finite]
    scale: list[Above0]
    members: Annotated[list[Annotated[list[LayerRecord], Meta(min_length=1)]], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.mean) == len(self.scale):
            raise ValueError(f"must have a mean and a scale for each of its {len(self.features)} features")
        for member in self.members:
            inputs = [len(layer.weight[0]) for layer in member]
            outputs = [len(layer.bias) for layer in member]
            if inputs != [len(self.features), *outputs[:-1]] or outputs[-1] != 1:
                raise ValueError(f"must have layers from {len(self.features)} features to one output")


class FixedRecord(Record, frozen=True, tag_field="kind", tag="fixed"):
    """The same weight for all tokens."""

    weight: Weight


class BucketsRecord(Record, frozen=True, tag_field="kind", tag="buckets"):
    """A weight for each range of the nearest distance."""

    edges: list[Finite]
    weights: list[Weight]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.edges) + 1 or any(a >= b for a, b in pairwise(self.edges)):
            raise ValueError("must have edges that rise, one fewer than weights")


class NetworkWeightsRecord(Record, frozen=True, tag_field="kind", tag="network"):
    """A weight from a token's features."""

    network: NetworkRecord

    def __post_init__(self) -> None:
        _check_features(self.network, FEATURES)


class SkipRecord(Record, frozen=True):
    """The expected gain of a search, and its quantiles."""

    network: NetworkRecord
    thresholds: Annotated[list[Finite], Meta(min_length=2)]

    def __post_init__(self) -> None:
        _check_features(self.network, BEFORE_SEARCH)
        if any(a > b for a, b in pairwise(self.thresholds)):
            raise ValueError("must have thresholds that rise")


class LmbdaRecord(Record, frozen=True, kw_only=True):
    """The whole file."""

    kind: Literal["lmbda-model"] = "lmbda-model"
    version: Literal[1] = 1
    weights: FixedRecord | BucketsRecord | NetworkWeightsRecord
    skip: SkipRecord
    k: Positive
    knn_temp: Above0
    fitted_for: dict[str, str | None]
    held_out: dict[str, Finite]


def write_model(path: Path, model: LmbdaModel) -> None:
    """Writes the file, whole or not at all."""
    weights: FixedRecord | BucketsRecord | NetworkWeightsRecord
    if isinstance(model.weights, FixedWeight):
        weights = FixedRecord(model.weights.weight)
    elif isinstance(model.weights, BucketWeights):
        weights = BucketsRecord(model.weights.edges.tolist(), model.weights.weights.tolist())
    else:
        weights = NetworkWeightsRecord(_network_record(model.weights.network))
    record = LmbdaRecord(
        weights=weights,
        skip=SkipRecord(_network_record(model.skip.network), model.skip.thresholds.tolist()),
        k=model.k,
        knn_temp=model.temperature,
        fitted_for=model.fitted_for,
        held_out=model.held_out,
    )
    write_record(path, record)


def read_model(path: Path) -> LmbdaModel:
    """Returns the weight in a file.

    Raises:
        DatastoreError: it is no such file, of another version, or not sound.
    """
    try:
        record = read_record(path, LmbdaRecord, DatastoreError, "fit it again (fairseq-knnlm fit-lmbda)")
    except FileNotFoundError as err:
        raise DatastoreError(f"{path} does not exist; fairseq-knnlm fit-lmbda writes one") from err
    weights: FixedWeight | BucketWeights | NetworkWeights
    if isinstance(record.weights, FixedRecord):
        weights = FixedWeight(record.weights.weight)
    elif isinstance(record.weights, BucketsRecord):
        weights = BucketWeights(np.array(record.weights.edges, np.float64), np.array(record.weights.weights))
    else:
        weights = NetworkWeights(_network(record.weights.network))
    skip = Skip(_network(record.skip.network), np.array(record.skip.thresholds))
    return LmbdaModel(weights, skip, record.k, record.knn_temp, record.fitted_for, record.held_out)


def check_fits(
    model: LmbdaModel, path: Path, found: Mapping[str, str | None], k: int, temperature: float, *, allow_mismatch: bool
) -> None:
    """Checks that a weight was fitted for what it is used with; what either side does not know is not compared.

    Raises:
        MismatchError: it was not; with ``allow_mismatch`` a warning.
    """
    for flag, fitted, used in (("--k", model.k, k), ("--knn-temp", model.temperature, temperature)):
        if fitted != used:
            mismatch(
                f"{path} was fitted with {flag} {fitted:g}, but this run has {used:g}; give {flag} {fitted:g}",
                allow_mismatch,
            )
    for name, fitted_for in model.fitted_for.items():
        used_with = found.get(name)
        if fitted_for is not None and used_with is not None and fitted_for != used_with:
            mismatch(
                f"{path} was fitted for {name} {fitted_for[:12]}, but this run has {used_with[:12]}; fit it again for"
                " this one",
                allow_mismatch,
            )


def _check_features(network: NetworkRecord, features: tuple[str, ...]) -> None:
    if network.features != list(features):
        raise ValueError(f"must have the features {', '.join(features)}, but has {shown(network.features)}")


def _network_record(network: Network) -> NetworkRecord:
    members = [[LayerRecord(w.tolist(), b.tolist()) for w, b in layers] for layers in network.members]
    return NetworkRecord(list(network.features), network.mean_F.tolist(), network.scale_F.tolist(), members)


def _network(record: NetworkRecord) -> Network:
    layers = ([(np.array(layer.weight), np.array(layer.bias)) for layer in member] for member in record.members)
    return Network(tuple(record.features), np.array(record.mean), np.array(record.scale), tuple(map(tuple, layers)))
