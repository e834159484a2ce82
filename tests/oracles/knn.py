"""Naive oracles for the nearest-neighbour part: float64, loops, nothing clever."""

import numpy as np


def nearest(keys_ND, query_D, k):
    """Returns the k nearest rows by squared L2 distance: (distances, ids)."""
    distances = [float(sum((float(a) - float(b)) ** 2 for a, b in zip(key, query_D, strict=True))) for key in keys_ND]
    ids = sorted(range(len(distances)), key=lambda row: (distances[row], row))[:k]
    return np.array([distances[row] for row in ids]), np.array(ids)


def distance(key_D, query_D, inner_product=False):
    """Returns the squared L2 distance, or minus the inner product."""
    total = 0.0
    for a, b in zip(key_D, query_D, strict=True):
        total += -float(a) * float(b) if inner_product else (float(a) - float(b)) ** 2
    return total


def recall(keys_ND, queries_ND, ids_NK, k, inner_product=False):
    """Returns the share of the k nearest that was found; of rows that are equally far, any will do, but each once."""
    hits = 0
    for query, found in zip(queries_ND, ids_NK, strict=True):
        distances = [distance(key, query, inner_product) for key in keys_ND]
        farthest = sorted(distances)[k - 1]
        hits += sum(distances[row] <= farthest for row in set(found) - {-1})
    return hits / (k * len(queries_ND))


def knn_probability(distances_K, ids_K, values_K, target, temperature):
    """Returns p_kNN(target) of one query, from every neighbour once."""
    nearest_of_id = {}
    for d, row, value in zip(distances_K, ids_K, values_K, strict=True):
        if row >= 0 and (row not in nearest_of_id or d < nearest_of_id[row][0]):
            nearest_of_id[row] = (float(d), int(value))
    if not nearest_of_id:
        return 0.0
    smallest = min(d for d, _ in nearest_of_id.values())
    mass = {}
    for d, value in nearest_of_id.values():
        mass[value] = mass.get(value, 0.0) + np.exp(-(d - smallest) / temperature)
    return mass.get(target, 0.0) / sum(mass.values())


def mixture(p_lm, p_knn, lmbda):
    """Returns (1 − λ) p_LM + λ p_kNN."""
    return (1 - lmbda) * p_lm + lmbda * p_knn
