"""p_kNN against the naive sum."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.evaluate.mixture import interpolate
from fairseq.knn.neighbours.distribution import (
    drop_nearest,
    drop_own,
    each_once,
    gaps,
    log_prob_of,
    log_probs,
    next_log_prob,
    vote_shares,
    votes_for,
)
from tests.oracles.knn import knn_probability, mixture

# float64 inside, rounded to float32 once: half a unit in the last place of a log-probability of up to a few hundred.
LOG_P_TOLERANCE = 1e-6


@st.composite
def neighbours(draw):
    n, k = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.1, 10.0, 300.0]))
    distances = (rng.random((n, k)) * scale).astype(np.float32)
    ids = rng.integers(-1, draw(st.integers(1, 30)), (n, k))
    values_of_row = rng.integers(0, 4, 31)
    return distances, ids, values_of_row[ids], rng.integers(0, 4, n), draw(st.sampled_from([0.5, 1.0, 30.0]))


def knn_log_prob(distances, ids, values, target, temperature=1.0, **more):
    return log_prob_of(votes_for(distances, ids, values, target, **more), temperature)


@given(neighbours())
@settings(max_examples=200)
@pytest.mark.pitfall(24)
def test_equal_to_the_sum(case):
    distances, ids, values, target, temperature = case
    log_p = knn_log_prob(distances, ids, values, target, temperature)
    assert log_p.dtype == np.float32
    for n in range(len(target)):
        p = knn_probability(distances[n], ids[n], values[n], target[n], temperature)
        if p < 1e-300:  # the oracle underflows where we need not
            assert log_p[n] < -600
        else:
            assert log_p[n] == pytest.approx(np.log(p), rel=LOG_P_TOLERANCE, abs=LOG_P_TOLERANCE)


@given(neighbours(), st.sets(st.integers(1, 12), min_size=1, max_size=4), st.lists(st.floats(0.3, 50), min_size=1))
@settings(max_examples=100)
def test_every_k_and_temperature_at_once_are_equal_to_the_sums(case, ks, temperatures):
    distances, ids, values, target, _ = case
    votes = votes_for(distances, ids, values, target).nearest_first()
    values_of_row = dict(zip(ids.ravel().tolist(), values.ravel().tolist(), strict=True))
    ks = sorted({min(k, ids.shape[1]) for k in ks})
    log_p = log_probs(votes.distances_NK, votes.hits_NK, temperatures, ks)
    assert log_p.dtype == np.float64 and log_p.shape == (len(temperatures), len(ks), len(ids))
    for t, temperature in enumerate(temperatures):
        for j, k in enumerate(ks):
            for n in range(len(ids)):
                nearest = votes.distances_NK[n, :k], votes.ids_NK[n, :k]
                p = knn_probability(
                    *nearest, [values_of_row.get(i, -1) for i in nearest[1].tolist()], target[n], temperature
                )
                if p < 1e-300:  # the oracle underflows where we need not
                    assert log_p[t, j, n] < -600
                else:
                    assert log_p[t, j, n] == pytest.approx(np.log(p), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("temperature", [1e-9, 1e-300, 5e-324, 1.7e308])
@pytest.mark.parametrize("nearest", [0.0, 7.0, 1e30])
def test_any_temperature_gives_numbers(temperature: float, nearest: float) -> None:
    """Of a tiny T only the nearest, of which there are two here, are left; of a huge one all count alike."""
    distances = np.array([[nearest, 3e38, nearest, np.inf]], np.float32)
    ids, values = np.array([[3, 4, 5, -1]]), np.array([[1, 2, 3, 4]])
    farther = -np.inf if temperature < 1 else np.log(1 / 3)
    expected = [-np.inf, np.log(1 / 2 if temperature < 1 else 1 / 3), farther]
    for target, log_p in enumerate(expected):
        if temperature == 1e-9 and target == 2:  # 3e47, beyond float32
            log_p = -np.inf
        assert knn_log_prob(distances, ids, values, np.array([target]), temperature) == pytest.approx(log_p)
        assert next_log_prob(distances, ids, values, 5, temperature)[0, target] == pytest.approx(log_p)
    shares = vote_shares(gaps(distances), temperature)
    assert shares.sum() == pytest.approx(1) and shares[0, 3] == 0


@given(neighbours())
@settings(max_examples=100)
def test_shares_of_values_are_their_probabilities(case):
    distances, ids, values, target, temperature = case
    votes = votes_for(distances, ids, values, target)
    p = (vote_shares(gaps(votes.distances_NK), temperature) * votes.hits_NK).sum(axis=1)
    expected = [knn_probability(*row, temperature) for row in zip(distances, ids, values, target, strict=True)]
    assert p == pytest.approx(expected, abs=1e-12)


@given(neighbours())
@settings(max_examples=100)
def test_sums_to_one_and_ignores_order(case):
    distances, ids, values, target, temperature = case
    total = sum(np.exp(knn_log_prob(distances, ids, values, np.full_like(target, y), temperature)) for y in range(4))
    found = (ids >= 0).any(axis=1)
    assert total[found] == pytest.approx(1, abs=1e-5) and (total[~found] == 0).all()
    order = np.random.default_rng(0).permutation(ids.shape[1])
    shuffled = knn_log_prob(distances[:, order], ids[:, order], values[:, order], target, temperature)
    assert shuffled == pytest.approx(knn_log_prob(distances, ids, values, target, temperature), rel=1e-6, abs=1e-6)


def test_ids_known_to_be_distinct_give_the_same():
    rng = np.random.default_rng(5)
    distances = (rng.random((9, 40)) * 20).astype(np.float32)
    ids = np.stack([rng.permutation(60)[:40] for _ in range(9)])
    ids[rng.random(ids.shape) < 0.2] = -1
    values, target = ids % 5, np.arange(9) % 5
    expected = knn_log_prob(distances, ids, values, target, 2.0)
    assert np.array_equal(knn_log_prob(distances, ids, values, target, 2.0, distinct=True), expected)
    assert np.isfinite(expected).all()


def test_one_neighbour_and_none():
    d, ids = np.array([[3.0, 1.0]] * 3, np.float32), np.array([[0, -1], [-1, -1], [0, 1]])
    log_p = knn_log_prob(d, ids, np.array([[5, 5], [5, 5], [6, 7]]), np.array([5, 5, 5]))
    assert log_p.tolist() == [0.0, -np.inf, -np.inf]
    assert (
        knn_log_prob(np.empty((0, 4), np.float32), np.empty((0, 4), int), np.empty((0, 4), int), np.empty(0, int)).size
        == 0
    )


def test_far_hits_do_not_underflow():
    d = np.array([[0.0, 5000.0]], np.float32)
    assert knn_log_prob(d, np.array([[0, 1]]), np.array([[1, 2]]), np.array([2])).tolist() == [-5000.0]


@pytest.mark.pitfall(21)
def test_duplicate_rows_count_once():
    d = np.array([[1.0, 2.0, 2.0, 1.5]], np.float32)
    log_p = knn_log_prob(d, np.array([[0, 1, 1, 1]]), np.array([[7, 8, 8, 8]]), np.array([8]))
    assert np.exp(log_p[0]) == pytest.approx(np.exp(-1.5) / (np.exp(-1) + np.exp(-1.5)), rel=1e-6)


@pytest.mark.parametrize("lmbda", [0.0, 0.25, 1.0])
def test_mixture(lmbda):
    p_lm, p_knn = np.array([0.5, 1e-30, 0.2]), np.array([0.25, 0.1, 0.0])
    with np.errstate(divide="ignore"):
        log_p = interpolate(torch.tensor(np.log(p_lm)), torch.tensor(np.log(p_knn)), lmbda).numpy()
        expected = np.log([mixture(a, b, lmbda) for a, b in zip(p_lm, p_knn, strict=True)])
    assert log_p == pytest.approx(expected, rel=1e-12)


def test_drop_nearest():
    d, ids = drop_nearest(np.array([[2, 1, 3], [0, 5, 4]], np.float32), np.array([[7, 8, 9], [4, 5, -1]]))
    assert d.tolist() == [[2, 3], [5, 4]] and ids.tolist() == [[7, 9], [5, -1]]


@given(neighbours())
@settings(max_examples=100)
def test_the_whole_distribution_has_each_target_s_probability(case):
    distances, ids, values, _, temperature = case
    log_p = next_log_prob(distances, ids, values, 6, temperature)
    assert log_p.dtype == np.float32 and log_p.shape == (len(ids), 6)
    for y in range(6):
        one = knn_log_prob(distances, ids, values, np.full(len(ids), y), temperature)
        assert log_p[:, y] == pytest.approx(one, rel=LOG_P_TOLERANCE, abs=LOG_P_TOLERANCE)
    found = (ids >= 0).any(axis=1)
    assert np.exp(log_p.astype(np.float64)).sum(1)[found] == pytest.approx(1, abs=1e-5)


def test_the_whole_distribution_of_nobody():
    assert next_log_prob(np.empty((0, 4), np.float32), np.empty((0, 4), int), np.empty((0, 4), int), 3).shape == (0, 3)
    nobody = next_log_prob(np.full((2, 4), np.inf, np.float32), np.full((2, 4), -1), np.zeros((2, 4), int), 3)
    assert (nobody == -np.inf).all()


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 9)), min_size=1, max_size=12))
@settings(max_examples=200)
def test_each_once_keeps_the_nearest_of_a_row(pairs):
    ids, near = np.array([[row for row, _ in pairs]]), np.array([[d for _, d in pairs]], np.float32)
    near[ids < 0] = np.inf
    d, kept = each_once(near, ids)
    expected = {row: min(x for r, x in pairs if r == row) for row, _ in pairs if row >= 0}
    assert {int(row): float(x) for row, x in zip(kept[0], d[0], strict=True) if row >= 0} == expected
    assert sorted(kept[0][kept[0] >= 0].tolist()) == sorted(expected)
    assert np.isinf(d[kept < 0]).all() and d.shape == near.shape


@pytest.mark.parametrize("distinct", [False, True])
def test_a_hit_at_no_distance_is_none(distinct: bool) -> None:
    """A row at +inf or NaN is no neighbour, whatever its value: of the other two, each has half."""
    distances = np.array([[1.0, np.inf, 1.0, np.nan]], np.float32)
    ids, values = np.array([[3, 4, 5, 6]]), np.array([[7, 8, 9, 8]])
    votes = votes_for(distances, ids, values, np.array([8]), distinct=distinct)
    assert not votes.hits_NK.any() and votes.ids_NK.tolist() == [[3, -1, 5, -1]]
    assert log_prob_of(votes) == -np.inf
    log_p = next_log_prob(distances, ids, values, 10, distinct=distinct)[0]
    assert log_p[7] == log_p[9] == pytest.approx(np.log(0.5)) and log_p[8] == -np.inf


def test_a_row_of_ones_own_is_no_neighbour() -> None:
    distances = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], np.float32)
    ids = np.array([[5, 6, 7], [6, 5, -1]])
    near, kept = drop_own(distances, ids, np.array([[6, 5], [-1, 6]]))
    assert kept.tolist() == [[-1, -1, 7], [-1, 5, -1]]
    assert near.tolist() == [[np.inf, np.inf, 3.0], [np.inf, 2.0, np.inf]]
