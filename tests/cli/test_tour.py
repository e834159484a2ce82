"""The tour's blocks, top to bottom in one directory: what it says is printed is printed."""

import contextlib
import io
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fairseq_cli.shared.run import run
from tests.builders.markdown import ROOT, blocks_of, run_shell
from tests.builders.tiny_lm import main_of

TOUR = ROOT / "examples" / "knnlm" / "tour.md"


def run_shell_in_this_process(code: str) -> None:
    """Runs the project's commands without a process of their own, which would import torch each time."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        prog = words[0]
        if prog.startswith("fairseq-"):
            assert run(prog, main_of(prog), words[1:]) == 0, line
        else:
            subprocess.run(words, check=True)


def go(shell: Any) -> dict[str, Any]:
    """Runs every block; Python's share one set of names, which is returned."""
    names: dict[str, Any] = {}
    for block in blocks_of(TOUR):
        printed = io.StringIO()
        if block.language == "bash":
            shell(block.code)
            continue
        with contextlib.redirect_stdout(printed):
            exec(compile(block.code, str(TOUR), "exec"), names)
        if block.output is not None:
            assert printed.getvalue() == block.output
    return names


@pytest.fixture
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.usefixtures("empty_place")
def test_the_tour_runs_and_shows_what_it_promises() -> None:
    names = go(run_shell_in_this_process)
    p_lm, p_knn = (names["score"].at(weight).positional_scores[names["paris"]].exp().item() for weight in (0, 1))
    assert p_lm < 0.8 and p_knn > 0.9, "the model is not sure of Paris, its neighbours are"
    assert names["test"].at(names["best"][1]).perplexity < names["test"].at(0).perplexity and names["best"][1] > 0
    assert names["near"][7].word == "Tokyo"
    assert [neighbour.word for neighbour in names["near"][7].neighbours] == ["Tokyo", "Tokyo"]
    assert all(neighbour.before is not None for near in names["near"] for neighbour in near.neighbours)
    for country, city in names["FACTS"]:
        sentence = f"the capital of {country} is {city} ."
        assert names["lm"].sample(f"the capital of {country}", max_len_b=4) == sentence
        if country in ("Greece", "Japan"):
            assert f"`{sentence}`" in TOUR.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("empty_place")
def test_the_tour_runs_in_a_shell() -> None:
    go(run_shell)


def test_the_tour_is_short_and_some_of_its_output_is_checked() -> None:
    found = blocks_of(TOUR)
    assert sum(block.output is not None for block in found) >= 3
    assert {block.language for block in found} == {"python", "bash"}
