"""The sweep against token-by-token computations that cannot underflow."""

import json
import math
import threading
from collections.abc import Iterator
from decimal import Decimal, getcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.grid import Grid, Setting
from fairseq.knn.sweep.sweep import Swept, log_probs_of, sweep
from tests.builders.cached_retrieval import CACHES, cached_retrieval
from tests.builders.small_retrieval import small_retrieval
from tests.oracles.sweep import loss_of_mixture

FLOAT32_RTOL = 1e-6  # a column of the cache is float32
PAIRS = tuple((cache["cache_size"], cache["cache_theta"]) for cache in CACHES)
GRID = Grid((0.0, 0.25, 0.9, 1.0), (1, 3, 8, 16), (0.05, 1.0, 30.0))


@pytest.fixture(autouse=True)
def same_number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def cache_sweep(directory: Path, lmbdas: tuple[float, ...], cache_lmbdas: tuple[float, ...]) -> Swept:
    return sweep(Retrieval.open(directory), Grid(lmbdas, (16,), (2.0,), PAIRS, cache_lmbdas))


def naive_log_p(columns, n, setting):
    """ln of the mixture of token n, with numbers that have any exponent."""
    getcontext().prec = 40
    weights = {}
    for d, row, hit in zip(
        columns["distances"][n, : setting.k], columns["ids"][n, : setting.k], columns["hits"][n], strict=False
    ):
        if row >= 0:
            weights[int(row)] = ((-Decimal(float(d)) / Decimal(setting.knn_temp)).exp(), bool(hit))
    total = sum(weight for weight, _ in weights.values())
    p = sum(weight for weight, hit in weights.values() if hit) / total if total else Decimal(0)
    lm = Decimal(float(columns["lm_log_prob"][n])).exp()
    mixed = (1 - Decimal(setting.lmbda)) * lm + Decimal(setting.lmbda) * p
    return float(mixed.ln()) if mixed else -np.inf


def settings_of(grid):
    return [Setting(i, k, t) for t in grid.temperatures for k in grid.ks for i in grid.lmbdas]


@pytest.mark.pitfall(25)
@pytest.mark.parametrize("at_once", [7, 256])
def test_every_setting_is_what_a_separate_run_computes(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("fairseq.knn.sweep.sweep.TOKENS_AT_ONCE", at_once)
    columns = small_retrieval(tmp_path / "r")
    retrieval = Retrieval.open(tmp_path / "r")
    swept = sweep(retrieval, GRID)
    for setting, loss in zip(settings_of(GRID), swept.loss_TJSLM.ravel(), strict=True):
        expected = [naive_log_p(columns, n, setting) for n in range(len(retrieval))]
        assert loss == pytest.approx(-np.mean(expected) / np.log(2), rel=1e-12), setting
        assert log_probs_of(retrieval, [setting])[0] == pytest.approx(expected, rel=1e-12, abs=1e-12), setting
    assert swept.lm_loss == pytest.approx(-columns["lm_log_prob"].mean() / np.log(2), rel=1e-14)
    assert (swept.loss_TJSLM[:, :, 0, 0] == pytest.approx(swept.lm_loss, rel=1e-14)) and np.isinf(
        swept.loss_TJSLM[:, :, 0, -1]
    ).all()


def test_the_same_bits_for_any_number_of_threads(tmp_path, monkeypatch):
    small_retrieval(tmp_path / "r", 300)
    monkeypatch.setattr("fairseq.knn.sweep.sweep.TOKENS_AT_ONCE", 16)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(sweep(Retrieval.open(tmp_path / "r"), GRID).log_p_sum_TJSLM)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_a_new_thread_has_as_many_torch_threads_as_before(tmp_path):
    small_retrieval(tmp_path / "r", 300)
    torch.set_num_threads(3)
    sweep(Retrieval.open(tmp_path / "r"), GRID)
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *found] == [3, 3]


def test_the_best_is_the_smallest_finite_loss():
    sums = np.array([[[-3.0, -2.0, np.nan], [-2.0, -np.inf, -2.0]]]).reshape(1, 2, 1, 3, 1)
    assert Swept(Grid((0.1, 0.2, 0.3), (1, 2), (1.0,)), 1, sums, -3.0).best() == Setting(0.2, 1, 1.0)
    with pytest.raises(DatastoreError, match="no setting of the sweep has a finite loss"):
        Swept(Grid((1.0,), (1,), (1.0,)), 1, np.full((1, 1, 1, 1, 1), -np.inf), -3.0).best()


def test_more_neighbours_than_were_saved(tmp_path):
    small_retrieval(tmp_path / "r")
    with pytest.raises(ConfigError, match="--k 17 is more than the 16 neighbours of each token"):
        sweep(Retrieval.open(tmp_path / "r"), Grid((0.1,), (17,), (1.0,)))


@pytest.mark.parametrize("value", [np.nan, 5000.0])
def test_neighbours_out_of_order_are_refused(tmp_path, value):
    small_retrieval(tmp_path / "r", 1100)
    distances = np.load(tmp_path / "r" / "distances.npy")
    distances[1030, 5] = value
    np.save(tmp_path / "r" / "distances.npy", distances)
    with pytest.raises(DatastoreError, match="tokens 1024 to 1099 must have their neighbours nearest first"):
        sweep(Retrieval.open(tmp_path / "r"), GRID)
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["state"] == "done"


def test_every_mixture_is_the_naive_one(tmp_path: Path) -> None:
    columns = cached_retrieval(tmp_path / "r")
    lmbdas, weights = (0.0, 0.3, 0.7), (0.0, 0.1, 0.3, 0.9)
    found = cache_sweep(tmp_path / "r", lmbdas, weights)
    for s in range(2):
        for i, lmbda in enumerate(lmbdas):
            for j, weight in enumerate(weights):
                loss = loss_of_mixture(columns, s, lmbda, weight, 2.0) if lmbda + weight <= 1.001 else math.inf
                assert found.loss_TJSLM[0, 0, s, i, j] == pytest.approx(loss, rel=FLOAT32_RTOL), (s, lmbda, weight)


def test_log_probs_of_several_settings_are_those_of_each(tmp_path: Path) -> None:
    columns = cached_retrieval(tmp_path / "r")
    settings = [
        Setting(0.3, 16, 2.0, PAIRS[0], 0.1),
        Setting(0.0, 16, 2.0, PAIRS[1], 0.3),
        Setting(0.7, 16, 2.0, PAIRS[0], 0.0),
    ]
    found = log_probs_of(Retrieval.open(tmp_path / "r"), settings)
    for one, log_p_N in zip(settings, found, strict=True):
        loss = loss_of_mixture(columns, PAIRS.index(one.cache), one.lmbda, one.cache_lmbda, 2.0)
        assert -log_p_N.mean() / math.log(2) == pytest.approx(loss, rel=FLOAT32_RTOL)


def test_weights_that_add_up_to_one_leave_the_model_nothing(tmp_path: Path) -> None:
    """0.85 + 0.15 is 1, though 1 − 0.85 − 0.15 is not 0 in binary digits."""
    columns = cached_retrieval(tmp_path / "r")
    assert 1 - 0.85 - 0.15 != 0
    assert not columns["hits"][0].any() and np.isneginf(columns["cache_log_prob"][0, 0])
    found = cache_sweep(tmp_path / "r", (0.0, 0.85), (0.0, 0.15))
    assert found.loss_TJSLM[0, 0, 0, 1, 1] == math.inf


def test_the_best_is_chosen_for_each_combination_of_parts(tmp_path: Path) -> None:
    cached_retrieval(tmp_path / "r")
    lmbdas = weights = tuple(np.linspace(0, 1, 11).tolist())
    found = cache_sweep(tmp_path / "r", lmbdas, weights)
    best, losses = found.best(), found.loss_TJSLM[0, 0]
    place = PAIRS.index(best.cache), lmbdas.index(best.lmbda), weights.index(best.cache_lmbda)
    assert losses[place] == losses[np.isfinite(losses)].min()
    without = found.best(cache=False)
    assert without.cache_lmbda == 0 and losses[0, lmbdas.index(without.lmbda), 0] == losses[0, :, 0].min()
    without = found.best(neighbours=False)
    assert without.lmbda == 0 and losses[PAIRS.index(without.cache), 0].min() == losses[:, 0].min()
