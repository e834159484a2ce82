"""The sweep against a token-by-token computation that cannot underflow, and the grammar of its grids."""

import json
from decimal import Decimal, getcontext

import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.config import Grid, Setting, SweepConfig, powers, values_of
from fairseq.knn.sweep.sweep import Swept, mixture_log_prob, sweep
from tests.builders.small_retrieval import small_retrieval

GRID = Grid((0.0, 0.25, 0.9, 1.0), (1, 3, 8, 16), (0.05, 1.0, 30.0))


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
    for setting, loss in zip(settings_of(GRID), swept.loss_TJL.ravel(), strict=True):
        expected = [naive_log_p(columns, n, setting) for n in range(len(retrieval))]
        assert loss == pytest.approx(-np.mean(expected) / np.log(2), rel=1e-12), setting
        assert mixture_log_prob(retrieval, setting) == pytest.approx(expected, rel=1e-12, abs=1e-12), setting
    assert swept.lm_loss == pytest.approx(-columns["lm_log_prob"].mean() / np.log(2), rel=1e-14)
    assert (swept.loss_TJL[:, :, 0] == pytest.approx(swept.lm_loss, rel=1e-14)) and np.isinf(
        swept.loss_TJL[:, :, -1]
    ).all()


def test_the_same_bits_for_any_number_of_threads(tmp_path, monkeypatch):
    small_retrieval(tmp_path / "r", 300)
    monkeypatch.setattr("fairseq.knn.sweep.sweep.TOKENS_AT_ONCE", 16)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr("fairseq.knn.sweep.sweep.torch.get_num_threads", lambda threads=threads: threads)
        found.append(sweep(Retrieval.open(tmp_path / "r"), GRID).log_p_sum_TJL)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_the_best_is_the_smallest_finite_loss():
    sums = np.array([[[-3.0, -2.0, np.nan], [-2.0, -np.inf, -2.0]]])
    assert Swept(Grid((0.1, 0.2, 0.3), (1, 2), (1.0,)), 1, sums, -3.0).best() == Setting(0.2, 1, 1.0)
    with pytest.raises(DatastoreError, match="no setting of the sweep has a finite loss"):
        Swept(Grid((1.0,), (1,), (1.0,)), 1, np.full((1, 1, 1), -np.inf), -3.0).best()


def test_more_neighbours_than_were_saved(tmp_path):
    small_retrieval(tmp_path / "r")
    with pytest.raises(ConfigError, match="--k 17 is more than the 16 neighbours of each token"):
        sweep(Retrieval.open(tmp_path / "r"), Grid((0.1,), (17,), (1.0,)))


@pytest.mark.parametrize("value", [np.nan, 5000.0])
def test_neighbours_out_of_order_are_refused(tmp_path, value):
    small_retrieval(tmp_path / "r", 300)
    distances = np.load(tmp_path / "r" / "distances.npy")
    distances[270, 5] = value
    np.save(tmp_path / "r" / "distances.npy", distances)
    with pytest.raises(DatastoreError, match="tokens 256 to 299 must have their neighbours nearest first"):
        sweep(Retrieval.open(tmp_path / "r"), GRID)
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["state"] == "done"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.25", [0.25]),
        ("1,8,64", [1, 8, 64]),
        ("64, 8 ,8,1", [1, 8, 64]),
        ("0:1:0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("0:0.3:0.1", [0, 0.1, 0.2, 0.3]),
        ("0:1:0.3", [0, 0.3, 0.6, 0.9]),
        ("1e-1:0.3:.1,5", [0.1, 0.2, 0.3, 5]),
        ("3:3:1", [3]),
    ],
)
def test_grids(text, values):
    assert values_of(text, "--x") == tuple(values)


@pytest.mark.parametrize(
    "text", ["", ",", "a", "1,", "0:1", "0:1:0.1:3", "nan", "inf", "1:inf:1", "0:1:0.1;2", "1e99", "--1", "0x10"]
)
def test_what_is_no_grid(text):
    with pytest.raises(ConfigError, match="--x must be numbers and ranges FROM:TO:STEP, such as"):
        values_of(text, "--x")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lmbda": "0:1:0"}, "must go upwards in steps above 0, but is '0:1:0'; swap its ends"),
        ({"lmbda": "1:0:0.1"}, "must go upwards"),
        ({"lmbda": "0:1:1e-7"}, "--lmbda must have at most 10000 values, but '0:1:1e-7' has 10000001"),
        ({"lmbda": "0:1.1:0.1"}, "--lmbda must be at most 1, but has 1.1"),
        ({"lmbda": "-0.1"}, "--lmbda must be at least 0"),
        ({"knn_temp": "0,1"}, "--knn-temp must be at least 1e-09, but has 0"),
        ({"k": "1,2.5"}, "--k must be whole numbers from 1 on, but has 2.5"),
        ({"k": "0:4:2"}, "--k must be whole numbers from 1 on, but has 0"),
        ({"k": "1:1000:1", "lmbda": "0:1:0.001"}, "at most 100000 settings, but has 4004000"),
    ],
)
def test_grids_out_of_range(flags, message):
    with pytest.raises(ConfigError, match=message):
        SweepConfig("r", **flags)


def test_neighbours_by_default():
    assert powers(1024) == (1, 4, 16, 64, 256, 1024) and powers(1) == (1,) and powers(20) == (1, 4, 16, 20)
    assert SweepConfig("r").grid(64).ks == (1, 4, 16, 64)
