"""The features of a token against loops."""

import math

import numpy as np
import pytest

from fairseq.evaluate.mixture import Known
from fairseq.knn.weight.features import context_features, neighbour_features
from tests.oracles import lmbda as naive


@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_features_of_neighbours_equal_the_oracle(k: int, temperature: float) -> None:
    rng = np.random.default_rng(k)
    distances_NK = np.sort(rng.gamma(4.0, 3.0, (300, k)), axis=1).astype(np.float32)
    distances_NK[0, :] = np.inf
    distances_NK[1, 1:] = np.inf
    distances_NK[2] += 1e5
    distances_NK[3] = 2.0  # all equally far
    distances_NK[4] -= 50  # minus an inner product
    values_NK = rng.integers(0, 9, (300, k))
    found = neighbour_features(distances_NK, values_NK, temperature)
    expected = [naive.neighbour_features(d, v, temperature) for d, v in zip(distances_NK, values_NK, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_features_do_not_depend_on_the_order_of_neighbours_that_are_equally_far() -> None:
    distances_NK, values_NK = np.full((1, 12), 3.0, np.float32), np.array([[*range(6), *range(6)]])
    there = neighbour_features(distances_NK, values_NK, 1.0)
    np.testing.assert_allclose(neighbour_features(distances_NK, values_NK[:, ::-1], 1.0), there, rtol=1e-12)


def test_features_of_contexts() -> None:
    known = Known(np.array([3, 0]), np.array([-0.5, -2], np.float32), np.array([1.5, 4], np.float32))
    found = context_features(known, np.array([0, 9, 9, 99]))
    np.testing.assert_allclose(found, [[-0.5, 1.5, math.log(100)], [-2, 4, 0]])


def test_no_neighbours_and_no_tokens_are_no_error() -> None:
    assert neighbour_features(np.empty((0, 4), np.float32), np.empty((0, 4), np.int64), 1.0).shape == (0, 7)
