"""Weights of each token's own: what they see, how they are fitted, and the file that holds them."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.weight.features import FEATURES
from fairseq.knn.weight.file import check_fits, read_model
from fairseq.knn.weight.fit import Tokens, best_weight, fit_buckets, fit_fixed, fit_network, fit_skip, folds_of
from fairseq.knn.weight.model import BucketWeights, FixedWeight, LmbdaModel
from fairseq.knn.weight.report import best_kind, cross_validate, fit_all
from fairseq.runtime.records import write_record
from tests.oracles import lmbda as naive
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


def make_tokens(seed: int = 0, n: int = 3000, *, informative: bool = True) -> Tokens:
    """Tokens of which the near ones (feature ``nearest`` < 0), if ``informative``, are better known to neighbours."""
    rng = np.random.default_rng(seed)
    features_NF = rng.standard_normal((n, len(FEATURES)))
    near_N = features_NF[:, NEAREST] < 0 if informative else rng.random(n) < 0.5
    p_knn = np.where(near_N, 0.5, 0.01) * rng.random(n) * (rng.random(n) < 0.9)
    with np.errstate(divide="ignore"):
        log_p_knn_N = np.log(p_knn)
    there_N = rng.random(n) < 0.98
    return Tokens(features_NF, there_N, np.log(0.1 * rng.random(n) + 1e-4), log_p_knn_N, np.arange(n) // 17)


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


@pytest.mark.parametrize("seed", range(3))
def test_the_chosen_kind_is_never_worse_than_the_fixed_weight_on_held_out_folds(seed: int) -> None:
    scores = cross_validate(make_tokens(seed, 600, informative=False), 3, 1)
    chosen = best_kind(scores)
    assert scores.log_p_N[chosen].sum() >= scores.log_p_N["fixed"].sum()
    assert scores.log_p_N["network"].sum() < scores.log_p_N["fixed"].sum()  # there is nothing to learn but noise
    assert chosen != "network"


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


@pytest.fixture(scope="module")
def models() -> dict[str, LmbdaModel]:
    tokens = make_tokens(n=500)
    skip = fit_skip(tokens, tokens.log_p_lm_N + tokens.features_NF[:, 0], 1)
    fitted_for = {"weights_sha256": "w" * 64, "store_id": None}
    return {
        kind: LmbdaModel(weights=weights, skip=skip, k=32, knn_temp=0.5, fitted_for=fitted_for, held_out={"lm": 9.0})
        for kind, weights in fit_all(tokens, 1).items()
    }


@pytest.mark.parametrize("kind", ["fixed", "buckets", "network"])
def test_a_file_says_what_was_fitted(kind: str, models: dict[str, LmbdaModel], tmp_path: Path) -> None:
    write_record(tmp_path / "m.json", models[kind])
    found, record = read_model(tmp_path / "m.json"), json.loads((tmp_path / "m.json").read_text())
    assert (found.k, found.knn_temp, found.held_out) == (32, 0.5, {"lm": 9.0})
    tokens = make_tokens(seed=3, n=50)
    tokens.features_NF[:5] *= 100  # far from all that was fitted on
    expected = [naive.weight(record["weights"], features_F) for features_F in tokens.features_NF]
    np.testing.assert_allclose(found.weights(tokens.features_NF), expected, rtol=1e-9)
    np.testing.assert_allclose(
        found.skip.network(tokens.features_NF[:, :3]),
        [naive.network(record["skip"]["network"], features_F[:3]) for features_F in tokens.features_NF],
        rtol=1e-9,
        atol=1e-9,
    )


def change(record: dict, path: str, value: object) -> None:
    *parents, last = path.split("/")
    for name in parents:
        record = record[int(name) if name.isdigit() else name]
    record[int(last) if last.isdigit() else last] = value


UNSOUND = [
    ("kind", "retrieval", "of kind"),
    ("version", 2, "version 2"),
    ("more", 1, "unknown field 'more'"),
    ("k", 0, "'k'"),
    ("k", True, "'k'"),
    ("knn_temp", 0, "'knn_temp'"),
    ("knn_temp", "1", "'knn_temp'"),
    ("knn_temp", math.nan, "'knn_temp'"),
    ("fitted_for", {"store_id": 3}, "'fitted_for'"),
    ("held_out", [], "'held_out'"),
    ("weights", None, "weights"),
    ("weights/kind", "forest", "weights"),
    ("weights/code", "1", "weights"),
    ("weights/network/features", ["lm_entropy"], "features"),
    ("weights/network/scale/0", 0, "scale"),
    ("weights/network/mean", [1.0], "mean"),
    ("weights/network/members", [], "members"),
    ("weights/network/members/0", [], "members"),
    ("weights/network/members/0/0/weight/0/0", "x", "weight"),
    ("weights/network/members/0/0/weight/0/0", math.inf, "weight"),
    ("weights/network/members/0/0/weight/0", [1.0], "weight"),
    ("weights/network/members/0/0/bias", [1.0], "must have a row of weights for each bias"),
    (
        "weights/network/members/0/2",
        {"weight": [[0.0] * 32] * 2, "bias": [0.0, 0.0]},
        "must have layers from 10 features to one output",
    ),
    ("skip/thresholds", [1.0], "thresholds"),
    ("skip/thresholds/0", 1e9, "thresholds"),
    ("skip/network/features/0", "nearest", "features"),
]


@pytest.mark.parametrize(("path", "value", "words"), UNSOUND, ids=[f"{p}={str(v)[:20]}" for p, v, _ in UNSOUND])
def test_an_unsound_file_is_refused(
    path: str, value: object, words: str, models: dict[str, LmbdaModel], tmp_path: Path
) -> None:
    file = tmp_path / "m.json"
    write_record(file, models["network"])
    record = json.loads(file.read_text())
    change(record, path, value)
    file.write_text(json.dumps(record))
    with pytest.raises(DatastoreError, match=words) as caught:
        read_model(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("", "JSON"), ("[1]", "kind"), ("[" * 100_000, "JSON")])
def test_what_is_no_such_file_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DatastoreError, match=words):
        read_model(tmp_path / "m.json")
    with pytest.raises(DatastoreError, match="does not exist"):
        read_model(tmp_path / "none.json")


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "buckets", "edges": [1.0], "weights": [0.1]},
        {"kind": "buckets", "edges": [1.0, 1.0], "weights": [0.1, 0.1, 0.1]},
        {"kind": "buckets", "edges": [1.0], "weights": [0.1, 1.1]},
        {"kind": "fixed", "weight": -0.1},
        {"kind": "fixed", "weight": True},
    ],
)
def test_unsound_simple_weights_are_refused(record: dict, models: dict[str, LmbdaModel], tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    write_record(file, models["fixed"])
    file.write_text(json.dumps({**json.loads(file.read_text()), "weights": record}))
    with pytest.raises(DatastoreError):
        read_model(file)


def test_a_weight_is_refused_for_what_it_was_not_fitted_for(
    models: dict[str, LmbdaModel], caplog: pytest.LogCaptureFixture
) -> None:
    model, path = models["fixed"], Path("m.json")
    same = {"weights_sha256": "w" * 64, "store_id": "any"}
    check_fits(model, path, same, 32, 0.5, allow_mismatch=False)
    check_fits(model, path, {}, 32, 0.5, allow_mismatch=False)
    for found, k, temperature, words in (
        ({"weights_sha256": "x" * 64}, 32, 0.5, "weights_sha256 wwwwwwwwwwww"),
        (same, 64, 0.5, "give --k 32"),
        (same, 32, 1.0, "give --knn-temp 0.5"),
    ):
        with pytest.raises(MismatchError, match=words):
            check_fits(model, path, found, k, temperature, allow_mismatch=False)
        check_fits(model, path, found, k, temperature, allow_mismatch=True)
        assert words in caplog.messages[-1]


def test_a_bucket_ends_before_its_edge() -> None:
    features_NF = np.zeros((3, len(FEATURES)))
    features_NF[:, NEAREST] = [0.9, 1.0, 1.1]
    assert BucketWeights([1.0], [0.2, 0.4])(features_NF).tolist() == [0.2, 0.4, 0.4]
