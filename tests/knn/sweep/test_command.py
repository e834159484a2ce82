"""Sweeps of retrievals with caches: what is said of another text, and which retrievals are refused."""

from pathlib import Path

import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.sweep.command import run_sweep
from fairseq.knn.sweep.config import CacheSweepConfig
from tests.builders.cached_retrieval import CACHES, cached_retrieval, edit_manifest
from tests.builders.small_retrieval import small_retrieval
from tests.oracles.sweep import loss_of_mixture


def lines(directory: Path, **flags: object) -> list[str]:
    shown: list[str] = []
    config = CacheSweepConfig(directory=str(directory), no_figures=True, resamples=200, **flags)  # type: ignore[arg-type]
    run_sweep(config, 1, shown.append)
    return shown[0].splitlines()


def test_choices_are_reported_on_another_text(tmp_path: Path) -> None:
    cached_retrieval(tmp_path / "a")
    columns = cached_retrieval(tmp_path / "b", seed=1, split="test")
    table = lines(tmp_path / "a", apply=str(tmp_path / "b"), knn_temp=2.0)
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
