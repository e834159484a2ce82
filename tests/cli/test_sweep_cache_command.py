"""``fairseq-knnlm sweep-cache``: what it writes, the gains' intervals, and what the results and the page keep of it."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from fairseq.knn.retrieval.results import swept_choice
from fairseq.knn.retrieval.retrieval import Retrieval
from tests.builders.shown_retrieval import shown_retrieval
from tests.builders.small_retrieval import small_retrieval
from tests.builders.tiny_lm import Command
from tests.oracles.knn import knn_probability

CACHES = [{"cache_size": 10, "cache_theta": 0.5}, {"cache_size": 20, "cache_theta": 1.0}]
FLAGS = ["--lmbda", "0:0.9:0.3", "--cache-lmbda", "0:0.9:0.1", "--resamples", "200", "--log-format", "none"]
PARTS = ["language model", "+ cache", "+ neighbours", "+ both"]
FIGURES = ["perplexity_by_both_weights", "perplexity_by_cache_weight"]
FLOAT32_RTOL = 1e-6  # a column of the cache is float32


def add_caches(directory: Path, seed: int) -> np.ndarray:
    """Gives a retrieval the column of two caches, which know some words well."""
    manifest = json.loads((directory / "manifest.json").read_text())
    p_NS = np.random.default_rng(seed).random((manifest["num_tokens"], 2)) ** 2
    column = np.log(p_NS + 1e-9).astype(np.float32)
    np.save(directory / "cache_log_prob.npy", column)
    manifest["files"]["cache_log_prob.npy"] = {}
    (directory / "manifest.json").write_text(
        json.dumps({**manifest, "cache": {"settings": CACHES, "cache_lmbda": 0.0}})
    )
    return column


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Returns a directory with retrievals ``valid`` and ``test``."""
    for seed, split in enumerate(("valid", "test")):
        small_retrieval(tmp_path / split, tokens=80, seed=seed, split=split)
        add_caches(tmp_path / split, seed)
    return tmp_path


def test_everything_is_written_and_kept(command: Command, pair: Path) -> None:
    done = command("fairseq-knnlm", "sweep-cache", pair / "valid", *FLAGS, "--no-figures", "--apply", pair / "test")
    assert done.code == 0, done.err
    out = pair / "valid" / "sweep-cache"
    assert sorted(file.name for file in out.iterdir()) == ["sweep.csv", "sweep.json", "table.md"]
    assert (out / "table.md").read_text() == f"{done.out}\n<!-- fairseq-knnlm sweep -->\n"
    record = json.loads((out / "sweep.json").read_text())
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    assert len(rows) == 2 * (10 + 8 + 5 + 2), "λ + μ is at most 1"
    best = min(rows, key=lambda row: float(row["loss_base2"]))
    names = ("lmbda", "cache_size", "cache_theta", "cache_lmbda")
    assert {name: float(best[name]) for name in names} == {name: record["best"]["+ both"][name] for name in names}
    assert list(record["chosen_on"]["results"]) == PARTS
    for part in ("chosen_on", "applied_to"):
        results = record[part]["results"]
        over = results["+ both"]["gain_over_neighbours"]
        assert over["gain_ppl"] == pytest.approx(results["+ neighbours"]["ppl"] - results["+ both"]["ppl"])
        assert over["gain_ppl_interval"][0] < over["gain_ppl"] < over["gain_ppl_interval"][1]
        shown = f"{over['gain_ppl']:.2f}, {over['gain_ppl_interval'][0]:.2f} to {over['gain_ppl_interval'][1]:.2f}"
        assert shown in next(line for line in done.out.splitlines() if line.startswith("| + both over + neighbours"))
    for text in ("valid", "test"):
        kept = json.loads((pair / text / "results.json").read_text())["sections"]["sweep_cache"]
        assert kept["best"] == record["best"] and "loss_base2" not in kept
        choice = swept_choice(Retrieval.open(pair / text))
        assert choice is not None and choice.lmbda == record["best"]["+ neighbours"]["lmbda"]
        assert choice.words == "as fairseq-knnlm sweep-cache has chosen on valid", "also for the other text"


def test_the_chosen_mixture_is_the_naive_one_on_the_other_text(command: Command, pair: Path) -> None:
    done = command("fairseq-knnlm", "sweep-cache", pair / "valid", *FLAGS, "--no-figures", "--apply", pair / "test")
    assert done.code == 0, done.err
    record = json.loads((pair / "valid" / "sweep-cache" / "sweep.json").read_text())
    best, columns = record["best"]["+ both"], {file.stem: np.load(file) for file in (pair / "test").glob("*.npy")}
    hits = np.unpackbits(columns["hits"], axis=1, count=16, bitorder="little")
    s = [cache["cache_size"] for cache in CACHES].index(best["cache_size"])
    bits = []
    for n in range(80):
        knn = knn_probability(
            columns["distances"][n], columns["ids"][n], hits[n].astype(int), 1, record["neighbours"]["knn_temp"]
        )
        rest = 1 - best["lmbda"] - best["cache_lmbda"]
        p = rest * np.exp(columns["lm_log_prob"][n]) + best["lmbda"] * knn
        bits.append(-np.log2(p + best["cache_lmbda"] * np.exp(np.float64(columns["cache_log_prob"][n, s]))))
    found = record["applied_to"]["results"]["+ both"]["loss_base2"]
    assert found == pytest.approx(np.mean(bits), rel=FLOAT32_RTOL)


def test_the_same_bytes_again(command: Command, pair: Path) -> None:
    pytest.importorskip("matplotlib")
    for out in ("one", "two"):
        assert command("fairseq-knnlm", "sweep-cache", pair / "valid", *FLAGS, "--out", pair / out).code == 0
    files = sorted(file.name for file in (pair / "one").iterdir())
    assert files == sorted(
        [f"{f}.{kind}" for f in FIGURES for kind in ("png", "svg")] + ["sweep.csv", "sweep.json", "table.md"]
    )
    for name in files:
        assert (pair / "one" / name).read_bytes() == (pair / "two" / name).read_bytes(), name
    assert not (pair / "valid" / "sweep-cache").exists()


def test_one_value_has_no_figure(command: Command, pair: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("--lmbda", 0, "--cache-lmbda", "0:0.5:0.1", "--resamples", 100)
    assert command("fairseq-knnlm", "sweep-cache", pair / "valid", *words).code == 0
    drawn = {file.stem for file in (pair / "valid" / "sweep-cache").glob("*.svg")}
    assert drawn == {"perplexity_by_cache_weight"}


def test_the_page_shows_what_was_kept(command: Command, tmp_path: Path) -> None:
    directory = shown_retrieval(tmp_path)
    add_caches(directory, 5)
    assert command("fairseq-knnlm", "report", directory, "--log-format", "none").code == 0
    assert '"summary":null' in (directory / "report.html").read_text()
    words = ("sweep-cache", directory, "--no-figures", "--resamples", 100, "--log-format", "none")
    done = command("fairseq-knnlm", *words)
    assert done.code == 0, done.err
    assert command("fairseq-knnlm", "report", directory, "--overwrite", "--log-format", "none").code == 0
    facts = re.search(r'id="facts">(.*?)</script>', (directory / "report.html").read_text(), re.DOTALL)
    assert facts is not None
    found = json.loads(facts[1])
    summary, chosen = found["summary"], json.loads((directory / "sweep-cache" / "sweep.json").read_text())
    neighbours = {"k": chosen["neighbours"]["k"], "temperature": chosen["neighbours"]["knn_temp"]}
    assert found["settings"] == {**neighbours, "lmbda": chosen["best"]["+ neighbours"]["lmbda"]}
    assert found["has_cache"], "the page says that the cache has no part in it"
    assert [row["name"] for row in summary["rows"]] == PARTS
    for row in summary["rows"]:
        flags = [word for word in row["setting"].split() if word.startswith("--")]
        assert len(set(flags)) == len(flags) and ("--knn-temp" in flags) == ("--lmbda" in flags)
        assert f"| {row['name']} | {row['ppl'][0]:.2f} | " in done.out
