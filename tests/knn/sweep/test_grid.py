"""The settings of a sweep, and the grammar of their values."""

import pytest

from fairseq.errors import ConfigError
from fairseq.knn.sweep.config import CacheSweepConfig, SweepConfig
from fairseq.knn.sweep.grid import MOST_SETTINGS, Grid, Setting, powers, values_of


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
        ({"knn_temp": "0,1"}, "--knn-temp must be above 0, but has 0"),
        ({"k": "1,2.5"}, "--k must be whole numbers from 1 on, but has 2.5"),
        ({"k": "0:4:2"}, "--k must be whole numbers from 1 on, but has 0"),
        ({"k": "1:1000:1", "lmbda": "0:1:0.001"}, "at most 100000 settings, but has 12012000"),
    ],
)
def test_grids_out_of_range(flags, message):
    with pytest.raises(ConfigError, match=message):
        SweepConfig("r", **flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lmbda": "-0.1"}, "--lmbda must be at least 0, but has -0.1"),
        ({"lmbda": "1.1"}, "--lmbda must be at most 1, but has 1.1"),
        ({"cache_lmbda": "-0.1"}, "--cache-lmbda must be at least 0, but has -0.1"),
        ({"cache_lmbda": "0:1.1:0.1"}, "--cache-lmbda must be at most 1, but has 1.1"),
    ],
)
def test_weights_of_a_cache_out_of_range(flags, message):
    with pytest.raises(ConfigError, match=message):
        CacheSweepConfig("r", **flags)


def test_neighbours_by_default():
    assert powers(1024) == (1, 4, 16, 64, 256, 1024) and powers(1) == (1,) and powers(20) == (1, 4, 16, 20)
    assert SweepConfig("r").grid(64, (1.0,)).ks == (1, 4, 16, 64)


def test_the_grid_of_caches_has_both_weights_0() -> None:
    grid = CacheSweepConfig("r", lmbda="0.3,0.7", cache_lmbda="0.3").grid(64, 2.0, ((10, 0.5), (20, 0.5)))
    assert (grid.lmbdas, grid.cache_lmbdas) == ((0.0, 0.3, 0.7), (0.0, 0.3))
    assert (grid.ks, grid.temperatures) == ((64,), (2.0,)) and grid.shape == (1, 1, 2, 3, 2) and len(grid) == 12
    assert grid.setting((0, 0, 1, 2, 1)) == Setting(0.7, 64, 2.0, (20, 0.5), 0.3)


def test_weights_are_of_settings_up_to_one() -> None:
    grid = Grid((0.0, 0.7, 0.8), (1,), (1.0,), ((10, 1.0),), (0.0, 0.3))
    assert 1 - 0.7 - 0.3 != 0  # though 0.7 + 0.3 is 1
    assert list(grid.weights) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert grid.weights[1, 1] == (0.0, 0.7, 0.3) and grid.weights[0, 0] == (1.0, 0.0, 0.0)
    assert Grid((0.25,), (1,), (1.0,)).weights == {(0, 0): (0.75, 0.25)}


def test_too_many_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"at most {MOST_SETTINGS} settings, but has 1002001"):
        CacheSweepConfig("r", lmbda="0:1:0.001", cache_lmbda="0:1:0.001")
