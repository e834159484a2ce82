"""Mixtures of three from a saved retrieval: each the naive one, the best ones chosen, bad retrievals refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.cache_mix import Sources, mix
from fairseq.knn.sweep.cache_report import run_cache_sweep
from fairseq.knn.sweep.config import CacheMixConfig
from tests.builders.small_retrieval import small_retrieval
from tests.oracles.cache import mixture
from tests.oracles.knn import knn_probability

CACHES = [{"cache_size": 10, "cache_theta": 0.5}, {"cache_size": 10, "cache_theta": 1.0}]
FLOAT32_RTOL = 1e-6  # a column of the cache is float32


def with_cache(directory: Path, seed: int = 0, **changes: object) -> dict:
    """Writes a small retrieval with two caches, and returns its columns."""
    columns = small_retrieval(directory, seed=seed)
    p_NS = np.random.default_rng(seed + 100).random((60, 2))
    p_NS[p_NS < 0.4] = 0
    p_NS[:2] = 0
    with np.errstate(divide="ignore"):
        columns["cache_log_prob"] = np.log(p_NS).astype(np.float32)
    np.save(directory / "cache_log_prob.npy", columns["cache_log_prob"])
    edit(directory, cache={"settings": CACHES, "cache_lmbda": 0.0}, **changes)
    return columns


def edit(directory: Path, **changes: object) -> None:
    path = directory / "manifest.json"
    record = json.loads(path.read_text())
    record["files"]["cache_log_prob.npy"] = {}
    path.write_text(json.dumps({**record, **changes}))


def naive_loss(columns: dict, setting: int, lmbda: float, weight: float) -> float:
    total = 0.0
    for n in range(60):
        values = np.where(columns["hits"][n], 1, 0)  # the target's value is 1
        p_knn = knn_probability(columns["distances"][n], columns["ids"][n], values, 1, 2.0)
        p_lm, p_cache = math.exp(columns["lm_log_prob"][n]), math.exp(columns["cache_log_prob"][n, setting])
        # 0.7 + 0.3 is 1, and leaves the model nothing, though 1 − 0.7 − 0.3 is not 0 in binary digits.
        p = mixture(p_lm if lmbda + weight < 0.999 else 0.0, p_knn, p_cache, lmbda, weight)
        total += math.log2(p) if p > 0 else -math.inf
    return -total / 60


def test_every_mixture_is_the_naive_one(tmp_path: Path) -> None:
    columns = with_cache(tmp_path / "r")
    lmbdas, weights = (0.0, 0.3, 0.7), (0.0, 0.1, 0.3, 0.9)
    found = mix(Sources(Retrieval.open(tmp_path / "r"), 16, 2.0), lmbdas, weights)
    for s in range(2):
        for i, lmbda in enumerate(lmbdas):
            for j, weight in enumerate(weights):
                loss = naive_loss(columns, s, lmbda, weight) if lmbda + weight <= 1.001 else math.inf
                assert found.loss_SLM[s, i, j] == pytest.approx(loss, rel=FLOAT32_RTOL), (s, lmbda, weight)


def test_weights_that_add_up_to_one_leave_the_model_nothing(tmp_path: Path) -> None:
    """0.85 + 0.15 is 1, though 1 − 0.85 − 0.15 is not 0 in binary digits."""
    columns = with_cache(tmp_path / "r")
    assert 1 - 0.85 - 0.15 != 0
    assert not columns["hits"][0].any() and np.isneginf(columns["cache_log_prob"][0, 0])
    found = mix(Sources(Retrieval.open(tmp_path / "r"), 16, 2.0), (0.0, 0.85), (0.0, 0.15))
    assert found.loss_SLM[0, 1, 1] == math.inf


def test_the_best_is_chosen_for_each_combination_of_parts(tmp_path: Path) -> None:
    with_cache(tmp_path / "r")
    lmbdas = weights = tuple(np.linspace(0, 1, 11).tolist())
    found = mix(Sources(Retrieval.open(tmp_path / "r"), 16, 2.0), lmbdas, weights)
    s, i, j = found.best(neighbours=True, cache=True)
    assert found.loss_SLM[s, i, j] == found.loss_SLM[np.isfinite(found.loss_SLM)].min()
    assert found.best(neighbours=False, cache=False) == (0, 0, 0)
    assert found.best(neighbours=True, cache=False)[2] == 0
    assert found.best(neighbours=False, cache=True)[1] == 0


def lines(directory: Path, **flags: object) -> list[str]:
    shown: list[str] = []
    config = CacheMixConfig(directory=str(directory), no_figures=True, resamples=200, **flags)  # type: ignore[arg-type]
    run_cache_sweep(config, 1, shown.append)
    return shown[0].splitlines()


def test_choices_are_reported_on_another_text(tmp_path: Path) -> None:
    with_cache(tmp_path / "a")
    columns = with_cache(tmp_path / "b", seed=1, split="test")
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
    loss = naive_loss(columns, setting, typed["--lmbda"], typed["--cache-lmbda"])
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
    with_cache(tmp_path / "r")
    edit(tmp_path / "r", cache=cache)
    with pytest.raises(DatastoreError, match="save the retrieval again"):
        lines(tmp_path / "r")


def test_other_caches_and_another_model_are_refused(tmp_path: Path) -> None:
    with_cache(tmp_path / "a")
    with_cache(tmp_path / "b", seed=1)
    edit(tmp_path / "b", cache={"settings": CACHES[::-1], "cache_lmbda": 0.0})
    with pytest.raises(ConfigError, match="was saved with other caches than"):
        lines(tmp_path / "a", apply=str(tmp_path / "b"))
    edit(tmp_path / "b", cache={"settings": CACHES}, identity={"weights_sha256": "x" * 64})
    with pytest.raises(MismatchError, match="was saved with weights_sha256 xxxxxxxxxxxx, but"):
        lines(tmp_path / "a", apply=str(tmp_path / "b"))


def test_more_neighbours_than_were_saved_are_refused(tmp_path: Path) -> None:
    with_cache(tmp_path / "r")
    with pytest.raises(ConfigError, match="--k 17 is more than the 16 neighbours"):
        lines(tmp_path / "r", k=17)
