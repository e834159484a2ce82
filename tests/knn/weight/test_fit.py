"""Weights of each token's own: how they are fitted, of every kind, and compared on held-out folds (report.py)."""

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fairseq.knn.weight.features import FEATURES
from fairseq.knn.weight.fit import Tokens, best_weight, fit_buckets, fit_fixed, fit_network, fit_skip, folds_of
from fairseq.knn.weight.model import FixedWeight
from fairseq.knn.weight.report import KINDS, Scores, best_kind, cross_validate, fit_all
from tests.builders.lmbda_tokens import make_tokens
from tests.oracles.knn import mixture

NEAREST = FEATURES.index("nearest")


@pytest.fixture(autouse=True, scope="module")
def few_steps() -> Iterator[None]:
    """What is to be learned here is simple."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq.knn.weight.fit._STEPS", 80)
        yield


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_mixture_equals_the_oracle(weight: float) -> None:
    p_lm, p_knn = np.array([0.2, 0.2, 0.0, 0.2]), np.array([0.5, 0.0, 0.5, 0.5])
    there_N = np.array([True, True, True, False])
    with np.errstate(divide="ignore"):
        tokens = Tokens(np.zeros((4, len(FEATURES))), there_N, np.log(p_lm), np.log(p_knn), np.arange(4))
    expected = [mixture(a, b, weight * there) for a, b, there in zip(p_lm, p_knn, there_N, strict=True)]
    np.testing.assert_allclose(np.exp(tokens.log_prob(FixedWeight(weight))), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_weight_is_that_of_a_fine_grid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p_lm, p_knn = rng.random(200) ** 3, rng.random(200) ** 2 * (rng.random(200) < 0.6)
    grid = np.linspace(0, 1, 2001)[:-1]
    losses = [-sum(math.log(mixture(a, b, w)) for a, b in zip(p_lm, p_knn, strict=True)) for w in grid]
    with np.errstate(divide="ignore"):
        found = best_weight(np.log(p_lm), np.log(p_knn))
    assert found == pytest.approx(grid[int(np.argmin(losses))], abs=1 / 2000)


def test_the_best_weight_may_be_at_an_end() -> None:
    low, high = np.full(5, math.log(0.1)), np.full(5, math.log(0.9))
    assert best_weight(high, low) == pytest.approx(0, abs=1e-9)
    assert best_weight(low, high) == pytest.approx(1, abs=1e-9)
    assert best_weight(high, np.full(5, -np.inf)) == pytest.approx(0, abs=1e-9)
    assert best_weight(low[:0], low[:0]) == 0


def test_a_bucket_has_its_own_best_weight() -> None:
    tokens = make_tokens()
    fitted = fit_buckets(tokens, 2)
    usable = tokens.usable
    for bucket, near_N in enumerate((usable.features_NF[:, NEAREST] < fitted.edges[0],) * 2):
        rows_N = near_N if bucket == 0 else ~near_N
        assert fitted.weights[bucket] == best_weight(usable.log_p_lm_N[rows_N], usable.log_p_knn_N[rows_N])
    assert fitted.weights[0] > 0.5 > fitted.weights[1] and abs(fitted.edges[0]) < 0.1


def test_buckets_of_equal_distances_are_one() -> None:
    tokens = make_tokens()
    tokens.features_NF[:, NEAREST] = 3.0
    fitted = fit_buckets(tokens)
    assert np.isin(tokens.weights(fitted), [0.0, fit_fixed(tokens).weight]).all()


def test_folds_are_consecutive_runs_of_whole_blocks() -> None:
    block_N = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 30, 40))
    fold_N = folds_of(block_N, 5)
    assert (np.diff(fold_N) >= 0).all() and set(fold_N) == set(range(5))
    assert all(len(set(fold_N[block_N == block])) == 1 for block in range(40))
    assert max(np.bincount(fold_N)) < 2 * min(np.bincount(fold_N))


def test_what_a_feature_tells_is_found_and_scored_on_held_out_folds() -> None:
    tokens = make_tokens()
    scores = cross_validate(tokens, 5, 1)
    sums = {kind: log_p_N.sum() for kind, log_p_N in scores.log_p_N.items()}
    assert sums["network"] > sums["fixed"] + 50 and sums["buckets"] > sums["fixed"] + 50
    assert best_kind(scores) != "fixed"
    other = make_tokens(seed=9)
    assert other.log_prob(fit_network(tokens, 1)).sum() > other.log_prob(fit_fixed(tokens)).sum() + 50


def test_a_fit_is_a_function_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq.knn.weight.fit._STEPS", 3)
    tokens = make_tokens()
    gains_N = np.linspace(-1, 1, len(tokens)) + tokens.log_p_lm_N
    network, skip = fit_network(tokens, 1), fit_skip(tokens, gains_N, 1)
    torch.manual_seed(99)  # whatever was drawn before
    state = torch.random.get_rng_state()
    assert (fit_network(tokens, 1), fit_skip(tokens, gains_N, 1)) == (network, skip)
    assert torch.equal(torch.random.get_rng_state(), state), "others' draws are left alone"
    assert fit_network(tokens, 2) != network
    assert fit_skip(tokens, gains_N, 2) != skip
    features = tokens.features_NF
    assert (fit_all(tokens, 2)["network"](features) == fit_network(tokens, 2)(features)).all()
    assert (cross_validate(tokens, 3, 1).log_p_N["network"] != cross_validate(tokens, 3, 2).log_p_N["network"]).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_chosen_kind_is_never_worse_than_the_fixed_weight_on_held_out_folds(seed: int) -> None:
    scores = cross_validate(make_tokens(seed, 600, informative=False), 3, 1)
    chosen = best_kind(scores)
    assert scores.log_p_N[chosen].sum() >= scores.log_p_N["fixed"].sum()
    assert scores.log_p_N["network"].sum() < scores.log_p_N["fixed"].sum()  # there is nothing to learn but noise
    assert chosen != "network"


@pytest.mark.parametrize("best", KINDS)
def test_the_chosen_kind_is_that_of_the_least_loss_and_the_simplest_of_equal_ones(best: str) -> None:
    log_p_N = {kind: np.array([-1.0, -2.0 if kind == best else -2.1]) for kind in KINDS}
    assert best_kind(Scores({"lm": np.zeros(2), **log_p_N}, {})) == best
    equal = Scores({kind: np.array([-1.0, -2.0]) for kind in KINDS}, {})
    assert best_kind(equal) == "fixed"


def test_features_of_any_scale_are_standardised_and_constant_ones_are_0() -> None:
    """A deviation of 0.001 or of 1,000 counts as much as one of 1; few are beyond four deviations, where they end."""
    tokens = make_tokens(n=600)
    names = dict.fromkeys(FEATURES, 1.0) | {FEATURES[0]: 1e-3, FEATURES[1]: 1e3, FEATURES[2]: 0.0}
    tokens.features_NF[:] = tokens.features_NF * list(names.values()) + 5
    for network, rows_N in (
        (fit_network(tokens, 1).network, tokens.has_neighbours_N),
        (fit_skip(tokens, tokens.log_p_knn_N, 1).network, np.isfinite(tokens.log_p_knn_N)),
    ):
        features_NF = tokens.features_NF[rows_N][:, : len(network.features)]
        found_NF = network.standardised(features_NF)
        wanted = [0.0 if name == FEATURES[2] else 1.0 for name in network.features]
        np.testing.assert_allclose(found_NF.std(0), wanted, atol=0.01)
        np.testing.assert_allclose(found_NF.mean(0), 0, atol=0.01)
        assert np.isfinite(network(features_NF)).all()


def test_a_network_begins_at_the_best_fixed_weight_and_the_skip_at_the_mean_gain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fairseq.knn.weight.fit._STEPS", 0)
    tokens = make_tokens(n=600)
    tokens.log_p_lm_N[:] -= 2.0  # far from λ = 1/2
    weight = fit_fixed(tokens).weight
    assert 0.6 < weight < 0.99
    logit_N = fit_network(tokens, 1).network(tokens.features_NF)
    assert logit_N.mean() == pytest.approx(math.log(weight / (1 - weight)), abs=0.2)
    skip = fit_skip(tokens, tokens.log_p_lm_N + 7.0, 1)
    assert skip.network(tokens.features_NF[:, :3]).mean() == pytest.approx(7, abs=0.2)


def test_held_out_folds_are_not_fitted_on() -> None:
    """Targets of one fold change; what its tokens' weights were fitted on does not."""
    tokens = make_tokens(n=500)
    fold_N = folds_of(tokens.block_N, 2)
    changed = copy.deepcopy(tokens)
    changed.log_p_lm_N[fold_N == 1] -= 1.0
    one, two = (cross_validate(t, 2, 1) for t in (tokens, changed))
    for kind in ("fixed", "buckets", "network"):
        weight_1, weight_2 = (
            (np.exp(j.log_p_N[kind]) - np.exp(t.log_p_lm_N))[fold_N == 1] for j, t in ((one, tokens), (two, changed))
        )
        # p − p_LM = λ (p_kNN − p_LM), so the same λ moves p by λ times what p_LM moved by.
        moved = (np.exp(tokens.log_p_lm_N) - np.exp(changed.log_p_lm_N))[fold_N == 1]
        lmbda_N = np.where(moved > 0, (weight_2 - weight_1) / moved, 0)
        fitted = fit_all(tokens.some(fold_N == 0), 1)[kind]
        np.testing.assert_allclose(lmbda_N, tokens.some(fold_N == 1).weights(fitted), atol=1e-6)


def test_tokens_without_neighbours_have_no_weight_and_are_not_fitted_on() -> None:
    tokens = make_tokens(n=400)
    assert not tokens.weights(FixedWeight(0.5))[~tokens.has_neighbours_N].any()
    changed = copy.deepcopy(tokens)
    changed.log_p_knn_N[~tokens.has_neighbours_N] = 0.0
    assert fit_fixed(changed) == fit_fixed(tokens)


def test_a_target_of_probability_0_is_left_out_of_the_fit_and_stays_in_the_sum() -> None:
    tokens = make_tokens(n=300)
    tokens.log_p_lm_N[7], tokens.log_p_knn_N[7] = -np.inf, -np.inf
    scores = cross_validate(tokens, 2, 1)
    assert np.isneginf(scores.log_p_N["network"][7]) and np.isfinite(np.delete(scores.log_p_N["network"], 7)).all()
    assert set(scores.perplexities().values()) == {math.inf}
    assert best_kind(scores) == "fixed"


def test_what_gains_least_is_skipped_first() -> None:
    tokens = make_tokens()
    gain_N = np.where(tokens.features_NF[:, 1] > 0.5, 1.0, -0.1) + 0.01 * tokens.features_NF[:, 5]
    skip = fit_skip(tokens, tokens.log_p_lm_N + gain_N, 1)
    before_NF = tokens.features_NF[:, :3]
    assert not skip.skipped(before_NF, 0.0).any() and skip.skipped(before_NF, 1.0).all()
    for share in (0.1, 0.35, 0.6):
        skipped_N = skip.skipped(before_NF, share)
        assert skipped_N.mean() == pytest.approx(share, abs=0.01)
        assert tokens.features_NF[skipped_N, 1].max() < 0.6
        assert not (skipped_N & ~skip.skipped(before_NF, share + 0.05)).any()
