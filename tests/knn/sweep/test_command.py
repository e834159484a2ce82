"""Sweeps of retrievals with caches: what is said of another text, and which retrievals are refused."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.retrieval.results import keep
from fairseq.knn.sweep.command import run_sweep
from fairseq.knn.sweep.config import CacheSweepConfig, SweepConfig
from fairseq.knn.sweep.edges import cache_edges
from tests.builders.cached_retrieval import CACHES, cached_retrieval, edit_manifest
from tests.builders.small_retrieval import small_retrieval
from tests.oracles.sweep import loss_of_mixture


def edited(directory: Path, **changes: object) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def lines(directory: Path, **flags: object) -> list[str]:
    shown: list[str] = []
    config = CacheSweepConfig(directory=str(directory), no_figures=True, resamples=200, **flags)  # type: ignore[arg-type]
    run_sweep(config, 1, shown.append)
    return shown[0].splitlines()


def test_choices_are_reported_on_another_text(tmp_path: Path) -> None:
    cached_retrieval(tmp_path / "a")
    columns = cached_retrieval(tmp_path / "b", seed=1, split="test")
    table = lines(tmp_path / "a", apply=str(tmp_path / "b"), knn_temp="2")
    assert [line.split(" | ")[0] for line in table[4:8]] == [
        "| language model",
        "| + cache",
        "| + neighbours",
        "| + both",
    ]
    _, ppl, test_ppl, flags = (cell.strip(" |") for cell in table[7].split(" | "))
    words = flags.split()
    typed = {name: float(words[words.index(name) + 1]) for name in ("--lmbda", "--cache-theta", "--cache-lmbda")}
    setting = [cache["cache_theta"] for cache in CACHES].index(typed["--cache-theta"])
    loss = loss_of_mixture(columns, setting, typed["--lmbda"], typed["--cache-lmbda"], 2.0)
    assert float(test_ppl) == pytest.approx(2**loss, abs=0.0051), "two decimals are printed"
    assert float(ppl) > 0


def test_a_retrieval_without_a_cache_is_refused(tmp_path: Path) -> None:
    small_retrieval(tmp_path / "r")
    with pytest.raises(DatastoreError, match="was saved without a cache; save it again, with --cache-size"):
        lines(tmp_path / "r")


@pytest.mark.parametrize(
    "cache", [[], {"settings": []}, {"settings": CACHES[:1]}, {"settings": [{"cache_size": "x"}, {}]}, {"settings": 3}]
)
def test_a_column_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path, cache: object) -> None:
    cached_retrieval(tmp_path / "r")
    edit_manifest(tmp_path / "r", cache=cache)
    with pytest.raises(DatastoreError, match="save the retrieval again"):
        lines(tmp_path / "r")


def test_other_caches_and_another_model_are_refused(tmp_path: Path) -> None:
    cached_retrieval(tmp_path / "a")
    cached_retrieval(tmp_path / "b", seed=1)
    edit_manifest(tmp_path / "b", cache={"settings": CACHES[::-1], "cache_lmbda": 0.0})
    with pytest.raises(ConfigError, match="was saved with other caches than"):
        lines(tmp_path / "a", apply=str(tmp_path / "b"))
    edit_manifest(tmp_path / "b", cache={"settings": CACHES}, identity={"weights_sha256": "x" * 64})
    with pytest.raises(MismatchError, match="was saved with weights_sha256 xxxxxxxxxxxx, but"):
        lines(tmp_path / "a", apply=str(tmp_path / "b"))


def test_more_neighbours_than_were_saved_are_refused(tmp_path: Path) -> None:
    cached_retrieval(tmp_path / "r")
    with pytest.raises(ConfigError, match="--k 17 is more than the 16 neighbours"):
        lines(tmp_path / "r", k=17)


def test_the_size_of_a_large_cache_is_spelled_out(tmp_path: Path) -> None:
    """1e+06 would be no whole number for ``--cache-size``."""
    cached_retrieval(tmp_path / "r")
    large = [{"cache_size": 1_000_000, "cache_theta": 0.5}, {"cache_size": 1_000_001, "cache_theta": 0.5}]
    edit_manifest(tmp_path / "r", cache={"settings": large})
    line = next(line for line in lines(tmp_path / "r") if line.startswith("| + cache"))
    assert "--cache-size 100000" in line


@pytest.mark.parametrize("wrong", ["results", "neighbours"])
def test_what_cannot_be_said_in_the_end_is_refused_before_the_work(
    tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("fairseq.knn.sweep.command.sweep", work)
    cached_retrieval(tmp_path / "a")
    cached_retrieval(tmp_path / "b", seed=1)
    if wrong == "results":
        (tmp_path / "a" / "results.json").write_text("{")
        with pytest.raises(DatastoreError, match=r"results\.json must be JSON"):
            lines(tmp_path / "a", apply=str(tmp_path / "b"))
        return
    for name in ("ids", "distances"):
        np.save(tmp_path / "b" / f"{name}.npy", np.load(tmp_path / "b" / f"{name}.npy")[:, :9])
    np.save(tmp_path / "b" / "hits.npy", np.load(tmp_path / "b" / "hits.npy")[:, :2])
    edit_manifest(tmp_path / "b", k=9)
    with pytest.raises(ConfigError, match="--k 10 is more than the 9 neighbours"):
        lines(tmp_path / "a", apply=str(tmp_path / "b"), k=10)


FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 10)


def multiples_of(unit: float) -> list[float]:
    return [float(f"{unit * factor:.3g}") for factor in FACTORS]


def temperatures(directory: Path, **flags: object) -> list[float]:
    """Returns the temperatures that a sweep has offered."""
    config = SweepConfig(directory=str(directory), no_figures=True, resamples=100, k="4", overwrite=True, **flags)  # type: ignore[arg-type]
    run_sweep(config, 1, lambda line: None)
    found: list[float] = json.loads((directory / "sweep" / "sweep.json").read_text())["grid"]["knn_temp"]
    return found


def test_auto_offers_multiples_of_the_unit(tmp_path: Path) -> None:
    """An older retrieval has none: the median of its tokens' nearest distances is taken."""
    directory = tmp_path / "r"
    nearest = np.sort(small_retrieval(directory)["distances"][:, 0])
    middle = np.median(nearest[np.isfinite(nearest)].astype(np.float64))
    assert temperatures(directory) == multiples_of(float(f"{middle:.3g}"))
    edited(directory, distance_unit=3.21)
    assert temperatures(directory) == temperatures(directory, knn_temp="auto") == multiples_of(3.21)
    assert temperatures(directory, knn_temp="7,auto") == sorted([7, *multiples_of(3.21)])
    edited(directory, settings={"metric": "l2", "knn_sim_func": "dot"})
    assert temperatures(directory) == [0.1, 1, 10, 100]
    with pytest.raises(ConfigError, match="r has inner products; give numbers"):
        temperatures(directory, knn_temp="auto,1")
    with pytest.raises(ConfigError, match="--knn-temp must be auto, numbers and ranges FROM:TO:STEP"):
        SweepConfig(str(directory), knn_temp="auto,one")


def test_a_cache_sweep_goes_by_the_sweep_or_finds_its_own_temperature(tmp_path: Path) -> None:
    directory = tmp_path / "r"
    columns = cached_retrieval(directory, distance_unit=8.0)

    def loss(temperature: float, lmbda: float) -> float:
        return loss_of_mixture(columns, 0, lmbda, 0.0, temperature)

    best, _ = min(itertools.product(multiples_of(8.0), (0.2, 0.4)), key=lambda setting: loss(*setting))
    shown = lines(directory, lmbda="0.2,0.4", cache_lmbda="0.1,0.2")
    assert f"--k 16 --knn-temp {best:g}, the best of 12 temperatures for the neighbours alone" in shown[0]
    config = SweepConfig(str(directory), lmbda="0.3", k="4", knn_temp="6", no_figures=True)
    keep(run_sweep(config, 1, lambda line: None), ["sweep"], {})
    assert lines(directory, overwrite=True)[0].endswith(
        "--k 4 --knn-temp 6, as fairseq-knnlm sweep has chosen on valid"
    )
    assert lines(directory, overwrite=True, knn_temp="5")[0].endswith("neighbours with --k 4 --knn-temp 5")
    assert lines(directory, overwrite=True, k=9)[0].endswith("neighbours with --k 9 --knn-temp 6")


@pytest.mark.parametrize(("size", "expected"), [(10, "smaller"), (20, ""), (40, "larger"), (60, "")])
def test_the_edges_of_caches_are_of_those_that_were_saved(size: int, expected: str) -> None:
    """Of 60 tokens no cache can hold more."""
    sizes = (10, 20, 40) if size < 60 else (10, 60)
    caches = [(one, theta) for one in sizes for theta in (0.1, 0.3, 1.0)]
    found = list(cache_edges((size, 0.3), caches, 60))
    assert [line.split(": ")[1].split()[0] for line in found] == ([expected] if expected else [])
    (line,) = cache_edges((20, 1.0), caches, 60) if size < 60 else cache_edges((60, 1.0), caches, 60)
    assert line.startswith("--cache-theta 1 is at the edge") and line.endswith("with --cache-theta 2 as well.")
    assert not list(cache_edges((10, 0.3), caches[1:2], 60)), "one cache alone was no choice"
