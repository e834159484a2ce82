"""``fairseq-knnlm sweep``: what it writes and prints, and what it refuses."""

import builtins
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.small_retrieval import small_retrieval
from tests.builders.tiny_lm import Command, Outcome

FLAGS = "--lmbda 0:1:0.1 --k 1,4,16 --knn-temp 1,10,100 --resamples 200 --log-format none"
FIGURES = ["perplexity_by_k", "perplexity_by_k_and_temperature", "perplexity_by_lambda"]


@pytest.fixture
def sweep(command: Command, tmp_path: Path) -> Callable[..., Outcome]:
    """Returns ``sweep(*flags)`` on a small retrieval."""
    small_retrieval(tmp_path / "r")

    def call(*words: object) -> Outcome:
        return command("fairseq-knnlm", "sweep", tmp_path / "r", *FLAGS.split(), *words)

    return call


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def edited(directory: Path, **changes: object) -> None:
    record = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**record, **changes}))


def test_everything_is_written(sweep, tmp_path):
    outcome = sweep("--no-figures")
    assert outcome.code == 0, outcome.err
    out = tmp_path / "r" / "sweep"
    assert names(out) == ["sweep.csv", "sweep.json", "table.md"]
    assert (out / "table.md").read_text() == f"{outcome.out}\n<!-- fairseq-knnlm sweep -->\n"
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    record = json.loads((out / "sweep.json").read_text())
    assert len(rows) == 99 and set(rows[0]) == {"lmbda", "k", "knn_temp", "loss_base2", "ppl", "gain_ppl"}
    for row in rows:
        place = [record["grid"][name].index(float(row[name])) for name in ("knn_temp", "k", "lmbda")]
        loss = record["loss_base2"][place[0]][place[1]][place[2]]
        assert (float(row["loss_base2"]) == loss) if loss is not None else row["loss_base2"] == "inf"
    best = min(rows, key=lambda row: float(row["loss_base2"]))
    assert {name: float(best[name]) for name in ("lmbda", "k", "knn_temp")} == {
        name: record["best"][name] for name in ("lmbda", "k", "knn_temp")
    }
    assert (
        f"Chosen on valid: {record['best']['flags']}" in outcome.out and f"**{float(best['ppl']):.2f}**" in outcome.out
    )
    result = record["chosen_on"]["result"]
    assert result["gain_ppl_interval"][0] < result["gain_ppl"] < result["gain_ppl_interval"][1]
    assert (result["resamples"], result["blocks"], result["seed"]) == (200, 8, 1) and record["applied_to"] is None


def test_the_same_bytes_again_and_another_directory(sweep, tmp_path):
    pytest.importorskip("matplotlib")
    assert sweep("--out", tmp_path / "one").code == sweep("--out", tmp_path / "two").code == 0
    files = names(tmp_path / "one")
    assert files == sorted(
        [f"{f}.{kind}" for f in FIGURES for kind in ("png", "svg")] + ["sweep.csv", "sweep.json", "table.md"]
    )
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert not (tmp_path / "r" / "sweep").exists()


@pytest.mark.parametrize(
    ("flags", "figures"),
    [
        ("--k 16", FIGURES[1:]),
        ("--k 16 --knn-temp 1", FIGURES[2:]),
        ("--lmbda 1,0.5", FIGURES),
        ("--lmbda 0.3 --k 1 --knn-temp 1", []),
        ("--k 1:16:1 --knn-temp 1:20:1", FIGURES),
    ],
)
def test_what_has_one_value_has_no_figure(sweep, tmp_path, flags, figures):
    pytest.importorskip("matplotlib")
    edited(tmp_path / "r", split="a$b_{c}$ \\frac")  # no text is a formula
    outcome = sweep(*flags.split())
    assert outcome.code == 0 and not outcome.warnings, outcome.err
    drawn = names(tmp_path / "r" / "sweep")
    assert [name[:-4] for name in drawn if name.endswith(".svg")] == figures
    for name in figures:
        assert "<script" not in (tmp_path / "r" / "sweep" / f"{name}.svg").read_text()


def test_the_choice_is_reported_on_another_text(sweep, command, tmp_path):
    small_retrieval(tmp_path / "test", tokens=80, seed=1, split="test")
    outcome = sweep("--apply", tmp_path / "test", "--no-figures")
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "r" / "sweep" / "sweep.json").read_text())
    applied, best = record["applied_to"]["result"], record["best"]
    words = ("--lmbda", best["lmbda"], "--k", best["k"], "--knn-temp", best["knn_temp"], "--no-figures")
    assert command("fairseq-knnlm", "sweep", tmp_path / "test", *words).code == 0
    alone = json.loads((tmp_path / "test" / "sweep" / "sweep.json").read_text())
    assert applied["loss_base2"] == pytest.approx(alone["loss_base2"][0][0][0], rel=1e-12)
    assert applied["lm_loss_base2"] == pytest.approx(alone["lm_loss_base2"], rel=1e-12)
    assert (record["applied_to"]["split"], record["applied_to"]["num_tokens"], applied["blocks"]) == ("test", 80, 10)
    assert "| perplexity | valid | test |\n| --- | ---: | ---: |\n| language model | " in outcome.out
    assert f"{applied['lm_ppl']:.2f} |" in outcome.out and f"{applied['ppl']:.2f} |" in outcome.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": {"weights_sha256": "x" * 64}}, "was saved with weights_sha256 xxxxxxxxxxxx, but"),
        (
            {"settings": {"probe": 9}},
            "was saved with context_window None, but .* with 4; save both with the same flags",
        ),
    ],
)
def test_another_model_or_search(sweep, tmp_path, change, message):
    small_retrieval(tmp_path / "test", seed=1, **change)
    assert re.search(message, sweep("--apply", tmp_path / "test", "--no-figures").error)
    outcome = sweep("--apply", tmp_path / "test", "--no-figures", "--allow-mismatch")
    assert outcome.code == 0 and any(re.search(message, warning) for warning in outcome.warnings)


def test_flags_of_the_choice(sweep, tmp_path):
    words = ("--k", 4, "--no-figures")
    assert "--k 4 --knn-temp" in sweep(*words).out and "--rerank 16" in sweep(*words).out
    settings = json.loads((tmp_path / "r" / "manifest.json").read_text())["settings"]
    for change, expected in (
        ({"rerank": 99}, "--rerank 99"),
        ({"knn_sim_func": "do_not_recomp_l2"}, ""),
        ({"metric": "ip"}, ""),
    ):
        edited(tmp_path / "r", settings={**settings, **change})
        line = next(line for line in sweep(*words).out.splitlines() if line.startswith("Chosen"))
        assert line.endswith(expected) if expected else "--rerank" not in line


def test_the_edge_of_what_was_tried_is_said(sweep):
    assert (
        "--knn-temp 1 is at the edge of what was tried: other values may be better"
        in sweep("--knn-temp", 1, "--no-figures", "--overwrite").out
    )
    assert (
        "--lmbda 0.9 is at the edge of what was tried: smaller"
        in sweep("--lmbda", "0.9,1", "--no-figures", "--overwrite").out
    )
    assert (
        "--lmbda"
        not in sweep("--lmbda", "0", "--no-figures", "--overwrite")
        .out.split("Chosen")[1]
        .split("edge")[0]
        .splitlines()[1]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--k 17", "--k 17 is more than the 16 neighbours of each token in"),
        ("--lmbda 0:1", "--lmbda must be numbers and ranges FROM:TO:STEP"),
        ("--lmbda 1", "no setting of the sweep has a finite loss"),
        ("--apply gone", "gone must be a saved retrieval, but has no manifest.json"),
        ("--resamples 3", "--resamples must be at least 100"),
        ("--out file", "--out: file must be a directory, but is a file"),
    ],
)
def test_what_is_refused(sweep, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert message in sweep("--no-figures", *words.split()).error
    assert not (tmp_path / "r" / "sweep").exists() and not list(tmp_path.rglob("*.lock"))


def test_without_matplotlib(sweep, tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    outcome = sweep()
    assert outcome.code == 0 and "Chosen on valid: --lmbda" in outcome.out
    assert [
        warning for warning in outcome.warnings if "pip install 'fairseq-knnlm[plots]'" in warning
    ] == outcome.warnings
    assert len(outcome.warnings) == 1
    assert names(tmp_path / "r" / "sweep") == ["sweep.csv", "sweep.json", "table.md"]
    assert not sweep("--no-figures").warnings


def test_info_says_what_they_are(sweep, command, tmp_path):
    assert sweep("--no-figures").code == 0
    out = command("fairseq-knnlm", "info", tmp_path / "r", tmp_path / "r" / "sweep" / "sweep.json").out
    assert "saved retrieval\n  tokens: 60\n  neighbours: 16\n" in out and "result of a sweep\n  lmbda: " in out
    edited(tmp_path / "r", state="writing")
    assert "unfinished retrieval" in command("fairseq-knnlm", "info", tmp_path / "r" / "manifest.json").out


def test_a_choice_is_not_tested_on_the_text_that_it_was_made_on(sweep, tmp_path):
    small_retrieval(tmp_path / "again")
    assert any("is of the same text" in line for line in sweep("--apply", tmp_path / "again", "--no-figures").warnings)


@pytest.mark.parametrize(
    ("name", "out", "mistake", "expect"),
    [
        ("sweep", "sweep/sweep.json", "--apply gone", "gone"),
        ("sweep", "sweep/sweep.json", "--k 17", "--k 17 is more than the 16 neighbours"),
        ("sweep-cache", "sweep-cache/sweep.json", "", "was saved without a cache"),
        ("fit-lmbda", "m.json", "--out {}/m.json --apply gone", "gone"),
        ("fit-lmbda", "m.json", "--out {}/m.json --k 17", "--k 17 is more than the 16 neighbours"),
        ("report", "report.html", "--k 17", "--k 17 is more than the 16 neighbours"),
    ],
)
def test_a_mistake_in_the_inputs_is_said_before_an_output_that_is_there(
    command: Command, tmp_path: Path, name: str, out: str, mistake: str, expect: str
) -> None:
    """Else --overwrite is typed, and the mistake comes up only then."""
    small_retrieval(tmp_path / "r")
    (tmp_path / "r" / out).parent.mkdir(exist_ok=True)
    (tmp_path / "r" / out).write_text("{}")
    words = [word.format(tmp_path / "r") for word in mistake.split()]
    error = command("fairseq-knnlm", name, tmp_path / "r", *words).error
    assert expect in error and out not in error
    assert (tmp_path / "r" / out).read_text() == "{}"
