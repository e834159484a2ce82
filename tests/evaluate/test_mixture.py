"""Mixing of probabilities: exact at its ends, in float64, and at home with probability 0."""

import math

import numpy as np
import pytest
import torch

from fairseq.evaluate.mixture import average_probabilities, interpolate, mixtures

INF = math.inf
LM = torch.tensor([-0.1, -7.3, -25.0, -INF])
OTHER = torch.tensor([-3.0, -INF, -0.001, -2.0])


@pytest.mark.parametrize(("weight", "expected"), [(0.0, LM), (1.0, OTHER)])
def test_the_ends_are_the_sources_to_the_bit(weight: float, expected: torch.Tensor) -> None:
    assert torch.equal(interpolate(LM, OTHER, weight), expected.double())


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_result_is_float64(weight: float) -> None:
    assert interpolate(LM, OTHER, weight).dtype == torch.float64


@pytest.mark.parametrize("weight", [1e-9, 0.25, 0.5, 0.999])
def test_equals_the_sum_of_probabilities(weight: float) -> None:
    a, b = LM.double().numpy(), OTHER.double().numpy()
    expected = np.log((1 - weight) * np.exp(a) + weight * np.exp(b))
    np.testing.assert_allclose(interpolate(LM, OTHER, weight).numpy(), expected, rtol=1e-12)


@pytest.mark.pitfall(13)
def test_probabilities_too_small_for_exp_are_mixed_all_the_same() -> None:
    found = interpolate(torch.tensor([-2000.0]), torch.tensor([-2000.0]), 0.25)
    assert found.item() == pytest.approx(-2000, abs=1e-9)


def test_one_source_of_probability_0_leaves_the_others_share() -> None:
    found = interpolate(torch.tensor([-1.0, -INF]), torch.tensor([-INF, -1.0]), 0.25)
    assert found.tolist() == pytest.approx([-1 + math.log(0.75), -1 + math.log(0.25)])


@pytest.mark.pitfall(13)
def test_probability_0_in_both_is_minus_infinity() -> None:
    assert interpolate(torch.tensor([-INF]), torch.tensor([-INF]), 0.25).tolist() == [-INF]


def test_the_mean_is_of_probabilities_not_of_their_logarithms() -> None:
    found = average_probabilities([torch.tensor([0.5]).log(), torch.tensor([0.1]).log()])
    assert found.tolist() == pytest.approx([math.log(0.3)])
    assert found.dtype == torch.float64


def test_the_mean_of_one_model_is_that_model_to_the_bit() -> None:
    assert torch.equal(average_probabilities([LM]), LM.double())


def test_the_mean_knows_probability_0() -> None:
    found = average_probabilities([torch.tensor([-INF, -INF]), torch.tensor([0.0, -INF])])
    assert found.tolist() == pytest.approx([math.log(0.5), -INF])


def test_many_mixtures_of_two_are_those_of_one() -> None:
    lmbdas = (0.0, 1e-9, 0.25, 0.999, 1.0)
    pairs = [(1 - lmbda, lmbda) for lmbda in lmbdas]
    far = torch.tensor([-2000.0, -0.1, -INF, -2000.0, -3.0]), torch.tensor([-2001.0, -0.2, -INF, -INF, -2000.0])
    for a, b in ((LM, OTHER), far):
        for lmbda, found in zip(lmbdas, mixtures([a.double(), b.double()], pairs), strict=True):
            torch.testing.assert_close(found, interpolate(a, b, lmbda), rtol=1e-12, atol=1e-15)


def test_many_mixtures_of_three_are_sums_of_probabilities() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((4, 1, 6)), rng.random((2, 6)), rng.random(6)
    weights = [(0.5, 0.2, 0.3), (0.0, 0.4, 0.6), (0.0, 1.0, 0.0)]
    found = list(mixtures([torch.from_numpy(np.log(one)) for one in p], weights))
    for row, mixed in zip(weights, found, strict=True):
        np.testing.assert_allclose(mixed.exp(), sum(w * one for w, one in zip(row, p, strict=True)), rtol=1e-12)
    assert torch.equal(found[2], torch.from_numpy(np.log(p[1])).expand(4, 2, 6))
