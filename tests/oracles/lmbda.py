"""Naive oracles for weights of each token's own: loops over neighbours, words and layers."""

import math
from collections import defaultdict


def neighbour_features(distances_K, values_K, temperature, num_near=16):
    """Returns nearest, mean gap, ln of voters, max ln p_kNN, entropy of p_kNN, ln of values, ln of near values."""
    there = [(float(d), int(v)) for d, v in zip(distances_K, values_K, strict=True) if math.isfinite(d)]
    if not there:
        return [0.0] * 7
    nearest = min(d for d, _ in there)
    weights = [math.exp(-(d - nearest) / temperature) for d, _ in there]
    total = sum(weights)
    mass = defaultdict(float)
    for (_, value), weight in zip(there, weights, strict=True):
        mass[value] += weight / total
    return [
        nearest,
        sum(d - nearest for d, _ in there) / len(there),
        -sum(w / total * math.log(w / total) for w in weights if w > 0),
        math.log(max(mass.values())),
        -sum(p * math.log(p) for p in mass.values() if p > 0),
        math.log(len(mass)),
        math.log(len({value for _, value in there[:num_near]})),
    ]


def network(record, features_F):
    """Returns the output of a network of a fitted file, as its JSON has it."""
    total = 0.0
    for layers in record["members"]:
        x = [
            min(max((f - m) / s, -4.0), 4.0)
            for f, m, s in zip(features_F, record["mean"], record["scale"], strict=True)
        ]
        for i, layer in enumerate(layers):
            x = [
                sum(w * v for w, v in zip(row, x, strict=True)) + b
                for row, b in zip(layer["weight"], layer["bias"], strict=True)
            ]
            x = [math.tanh(v) for v in x] if i + 1 < len(layers) else x
        total += x[0]
    return total / len(record["members"])


def weight(record, features_F):
    """Returns λ of a token with neighbours, from the JSON of a fitted file."""
    if record["kind"] == "fixed":
        return record["weight"]
    if record["kind"] == "buckets":
        return record["weights"][sum(edge <= features_F[3] for edge in record["edges"])]
    return 1 / (1 + math.exp(-min(max(network(record["network"], features_F), -8.0), 8.0)))
