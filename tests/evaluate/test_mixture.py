"""Mixing of probabilities: exact at its ends, in float64, at home with probability 0, and of any number of memories."""

import math

import numpy as np
import pytest
import torch

from fairseq.evaluate.mixture import (
    Memory,
    MemoryReport,
    MemoryScores,
    Mixture,
    NextTokenMixture,
    ScoredTokens,
    average_probabilities,
    interpolate,
    mixtures,
)

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


class Silent(Memory):
    """A memory that is never asked here."""

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        raise AssertionError

    def report(self) -> MemoryReport:
        return MemoryReport(
            {"id": 7}, {"knn_temp": 2.0}, {"searches": 3}, {"seconds": 0.5}, ["three searches"], ["few"]
        )


class Says:
    """A memory of whole distributions, which says the same of every context."""

    def __init__(self, p_V: list[float]) -> None:
        self.p_V = p_V

    def next_log_prob(self, queries_ND: torch.Tensor, vocabulary_size: int) -> torch.Tensor:
        assert vocabulary_size == len(self.p_V)
        return torch.tensor([self.p_V] * len(queries_ND), dtype=torch.float64).log()


def mixed(weights: list[float | None], p_lm_N: np.ndarray, p_MN: np.ndarray, own_N: np.ndarray) -> np.ndarray:
    scores = [
        MemoryScores(torch.from_numpy(np.log(p_N)), torch.from_numpy(own_N) if weight is None else None)
        for weight, p_N in zip(weights, p_MN, strict=True)
    ]
    mixture = Mixture([(Silent(), weight) for weight in weights])
    return mixture.mixed(torch.from_numpy(np.log(p_lm_N)), scores).exp().numpy()


@pytest.mark.parametrize(
    "weights",
    [
        [],
        [0.35],
        [0.25, 0.3],
        [0.0, 0.5],
        [0.4, 0.0],
        [0.3, 0.7],
        [0.1, 0.9],
        [0.0, 1.0],
        [1.0, 0.0],
        [0.2, 0.3, 0.1],
        [0.5, 0.0, 0.5],
    ],
)
def test_every_memory_has_the_weight_that_it_was_given(weights: list[float]) -> None:
    random = np.random.default_rng(len(weights))
    p_lm_N, p_MN = random.uniform(0.001, 1, 20), random.uniform(0.001, 1, (len(weights), 20))
    expected_N = (1 - sum(weights)) * p_lm_N + np.array(weights) @ p_MN
    found_N = mixed([*weights], p_lm_N, p_MN, np.zeros(20))
    np.testing.assert_allclose(found_N, expected_N, rtol=1e-12)


@pytest.mark.parametrize("others", [[], [0.3], [0.3, 0.2]])
def test_a_weight_of_each_token_s_own_is_a_share_of_what_the_others_leave(others: list[float]) -> None:
    random = np.random.default_rng(1)
    own_N = np.array([0.0, 1.0, *random.uniform(0, 1, 18)])
    p_lm_N, p_MN = random.uniform(0.001, 1, 20), random.uniform(0.001, 1, (1 + len(others), 20))
    left = 1 - sum(others)
    expected_N = left * ((1 - own_N) * p_lm_N + own_N * p_MN[0]) + np.array(others) @ p_MN[1:]
    np.testing.assert_allclose(mixed([None, *others], p_lm_N, p_MN, own_N), expected_N, rtol=1e-12)


def test_a_memory_that_weighs_its_tokens_behind_one_that_does_not_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        Mixture([(Silent(), 0.3), (Silent(), None)])


def test_one_memory_is_mixed_in_at_its_weight_to_the_bit() -> None:
    found = Mixture([(Silent(), 0.35)]).mixed(LM, [MemoryScores(OTHER)])
    assert torch.equal(found, interpolate(LM, OTHER, 0.35))


def test_reports_are_joined() -> None:
    found = Mixture([(Silent(), 0.3), (Silent(), 0.1)]).report()
    assert (found.identity, found.settings) == ({"id": 7}, {"knn_temp": 2.0})
    assert (found.found, found.speed) == ({"searches": 3}, {"seconds": 0.5})
    assert (list(found.summary), list(found.warnings)) == (["three searches"] * 2, ["few"] * 2)
    assert Mixture().report() == MemoryReport(summary=[])


def test_scores_are_split_into_those_of_each_batch() -> None:
    scores = MemoryScores(torch.arange(6.0), torch.arange(6.0) / 10, {"rows": np.arange(12).reshape(6, 2)})
    parts = scores.split([1, 0, 5])
    assert [part.log_p_N.tolist() for part in parts] == [[0], [], [1, 2, 3, 4, 5]]
    assert [len(part.weight_N) for part in parts if part.weight_N is not None] == [1, 0, 5]
    assert parts[2].columns["rows"].tolist() == [[2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]


def test_whole_distributions_of_several_memories_have_their_weights() -> None:
    p_lm_V, one_V, two_V = [0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.25, 0.0, 0.75]
    mixture = NextTokenMixture([(Says(one_V), 0.2), (Says(two_V), 0.3)])
    found_V = mixture.mixed(torch.tensor([p_lm_V] * 2, dtype=torch.float64).log(), torch.zeros(2, 4)).exp()
    expected_V = [0.5 * a + 0.2 * b + 0.3 * c for a, b, c in zip(p_lm_V, one_V, two_V, strict=True)]
    np.testing.assert_allclose(found_V.numpy(), [expected_V] * 2, rtol=1e-12)
