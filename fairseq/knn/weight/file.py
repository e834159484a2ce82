"""The file of a fitted weight: JSON, numbers and names only, every one checked when it is read.

{"kind": "lmbda-model", "version": 1,
 "weights": {"kind": "fixed", "weight": 0.2}
          | {"kind": "buckets", "edges": […], "weights": […]}
          | {"kind": "network", "network": NETWORK},
 "skip": {"network": NETWORK, "thresholds": […]},
 "k": 1024, "knn_temp": 1.0, "fitted_for": {…}, "held_out": {…}}
NETWORK = {"features": […], "mean": […], "scale": […], "members": [[{"weight": [[…]], "bias": […]}, …], …]}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Float64s
from fairseq.errors import DatastoreError, shown
from fairseq.knn.datastore.identity import mismatch
from fairseq.knn.weight.features import BEFORE_SEARCH, FEATURES
from fairseq.knn.weight.model import BucketWeights, FixedWeight, LmbdaModel, Network, NetworkWeights, Skip
from fairseq.runtime.files import write_json

KIND, VERSION = "lmbda-model", 1
_FIELDS = {"kind", "version", "weights", "skip", "k", "knn_temp", "fitted_for", "held_out"}
_LARGEST = 1e30


def write_model(path: Path, model: LmbdaModel) -> None:
    """Writes the file, whole or not at all."""
    weights: dict[str, Any]
    if isinstance(model.weights, FixedWeight):
        weights = {"kind": "fixed", "weight": model.weights.weight}
    elif isinstance(model.weights, BucketWeights):
        edges, by_bucket = model.weights.edges.tolist(), model.weights.weights.tolist()
        weights = {"kind": "buckets", "edges": edges, "weights": by_bucket}
    else:
        weights = {"kind": "network", "network": _network_record(model.weights.network)}
    skip = {"network": _network_record(model.skip.network), "thresholds": model.skip.thresholds.tolist()}
    record = {
        "kind": KIND,
        "version": VERSION,
        "weights": weights,
        "skip": skip,
        "k": model.k,
        "knn_temp": model.temperature,
        "fitted_for": model.fitted_for,
        "held_out": model.held_out,
    }
    write_json(path, record)


def read_model(path: Path) -> LmbdaModel:
    """Returns the weight in a file.

    Raises:
        DatastoreError: it is no such file, of another version, or not sound.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DatastoreError(f"{path} does not exist; fairseq-knnlm fit-lmbda writes one") from err
    except (ValueError, RecursionError) as err:
        raise DatastoreError(f"{path} must be JSON, but is not ({err}); fit it again") from err
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise DatastoreError(f"{path} must be of kind {KIND!r}, but is of another; check the path")
    if record.get("version") != VERSION:
        raise DatastoreError(
            f"{path} is of version {record.get('version')!r}, but this program reads version {VERSION}; update it"
        )
    if set(record) != _FIELDS:
        raise DatastoreError(f"{path} must have the fields {', '.join(sorted(_FIELDS))}, but has others; fit it again")
    try:
        return _model(record)
    except _UnsoundError as err:
        raise DatastoreError(f"{path}: {err}; fit it again (fairseq-knnlm fit-lmbda)") from err


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


class _UnsoundError(Exception):
    """Something in the file is not what it must be."""


def _model(record: dict[str, Any]) -> LmbdaModel:
    skip = _fields(record["skip"], "skip", "network", "thresholds")
    thresholds = _array(skip["thresholds"], "skip thresholds", 1)
    if len(thresholds) < 2 or (np.diff(thresholds) < 0).any():
        raise _UnsoundError("skip thresholds must be two or more that rise, but are not")
    k, fitted_for, held_out = record["k"], record["fitted_for"], record["held_out"]
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise _UnsoundError(f"'k' must be a whole number from 1 on, but is {shown(k)}")
    if not isinstance(fitted_for, dict) or not all(v is None or isinstance(v, str) for v in fitted_for.values()):
        raise _UnsoundError("'fitted_for' must be names and texts, but is not")
    if not isinstance(held_out, dict):
        raise _UnsoundError("'held_out' must be names and numbers, but is not")
    temperature = _number(record["knn_temp"], "'knn_temp'")
    if temperature <= 0:
        raise _UnsoundError(f"'knn_temp' must be greater than 0, but is {temperature}")
    return LmbdaModel(
        _weights(record["weights"]),
        Skip(_network(skip["network"], BEFORE_SEARCH), thresholds),
        k,
        temperature,
        fitted_for,
        {name: _number(value, "'held_out'") for name, value in held_out.items()},
    )


def _weights(record: Any) -> FixedWeight | BucketWeights | NetworkWeights:
    kind = record.get("kind") if isinstance(record, dict) else None
    if kind == "fixed":
        weight = _fields(record, "weights", "kind", "weight")["weight"]
        return FixedWeight(float(_in_range(np.array([_number(weight, "'weight'")]))[0]))
    if kind == "buckets":
        _fields(record, "weights", "kind", "edges", "weights")
        edges, weights = _array(record["edges"], "edges", 1), _in_range(_array(record["weights"], "weights", 1))
        if len(weights) != len(edges) + 1 or (np.diff(edges) <= 0).any():
            raise _UnsoundError("edges must rise and be one fewer than the weights, but are not")
        return BucketWeights(edges, weights)
    if kind == "network":
        return NetworkWeights(_network(_fields(record, "weights", "kind", "network")["network"], FEATURES))
    raise _UnsoundError(f"weights must be fixed, buckets or network, but are {shown(kind)}")


def _network(record: Any, features: tuple[str, ...]) -> Network:
    record = _fields(record, "network", "features", "mean", "scale", "members")
    if record["features"] != list(features):
        raise _UnsoundError(f"features must be {', '.join(features)}, but are {shown(record['features'])}")
    mean_F, scale_F = _array(record["mean"], "mean", 1), _array(record["scale"], "scale", 1)
    if len(mean_F) != len(features) or len(scale_F) != len(features) or (scale_F <= 0).any():
        raise _UnsoundError(f"mean and scale must be {len(features)} numbers, the scale above 0, but are not")
    members = record["members"]
    if not isinstance(members, list) or not members or not all(isinstance(m, list) and m for m in members):
        raise _UnsoundError("members must be lists of layers, but are not")
    return Network(features, mean_F, scale_F, tuple(_layers(member, len(features)) for member in members))


def _layers(records: list[Any], width: int) -> tuple[tuple[Float64s, Float64s], ...]:
    layers = []
    for record in records:
        _fields(record, "a layer", "weight", "bias")
        weight, bias = _array(record["weight"], "weight", 2), _array(record["bias"], "bias", 1)
        if weight.shape != (len(bias), width):
            raise _UnsoundError(f"a layer must have weights of shape ({len(bias)}, {width}), but has {weight.shape}")
        layers.append((weight, bias))
        width = len(bias)
    if width != 1:
        raise _UnsoundError(f"the last layer must have one output, but has {width}")
    return tuple(layers)


def _network_record(network: Network) -> dict[str, Any]:
    members = [[{"weight": w.tolist(), "bias": b.tolist()} for w, b in layers] for layers in network.members]
    mean, scale = network.mean_F.tolist(), network.scale_F.tolist()
    return {"features": list(network.features), "mean": mean, "scale": scale, "members": members}


def _fields(record: Any, what: str, *names: str) -> dict[str, Any]:
    if not isinstance(record, dict) or set(record) != set(names):
        raise _UnsoundError(f"{what} must have {', '.join(names)} and nothing else, but has not")
    return record


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _LARGEST:
        raise _UnsoundError(f"{what} must be a finite number, but is {shown(value)}")
    return float(value)


def _array(value: Any, what: str, dimensions: int) -> Float64s:
    if not isinstance(value, list):
        raise _UnsoundError(f"{what} must be a list, but is {shown(value)}")
    if dimensions == 1:
        return np.array([_number(item, what) for item in value], np.float64)
    rows = [_array(row, what, 1) for row in value]
    if len({len(row) for row in rows}) != 1:
        raise _UnsoundError(f"{what} must have rows of equal length, but has not")
    return np.stack(rows)


def _in_range(weights: Float64s) -> Float64s:
    if (weights < 0).any() or (weights > 1).any():
        raise _UnsoundError("weights must be from 0 to 1, but are not")
    return weights
