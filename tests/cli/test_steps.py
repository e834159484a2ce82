"""``examples/knnlm/steps.sh``: what a step of a recipe shows and keeps, in a terminal and without one."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.builders.terminal import shown_in_terminal

EXAMPLES = Path(__file__).parents[2] / "examples" / "knnlm"
RECIPES = ("demo.sh", "demo_hf.sh", "adapt.sh", "sentences.sh", "wikitext-2.sh")

# As a command of ours: a line of the log, to the terminal and to --log-file; a bar, if stderr is a terminal; a result.
OURS = """#!/bin/bash
line="2026-01-01 00:00:00 | INFO | fairseq | wrote 40 rows of width 4"
[ -t 2 ] && printf 'a bar' >&2
echo "$line" >&2
log=
while [ $# -gt 0 ]; do [ "$1" = --log-file ] && log=$2; shift; done
[ -z "$log" ] || echo "$line" >>"$log"
echo "Loss (base 2): 7.0000, Perplexity: 128.00"
"""
RECIPE = """
WORK=work STEPS=3
. "$EXAMPLES/steps.sh"
step theirs bash -c 'echo an old line; sleep 1.2'
step ours fairseq-eval-lm data
step broken bash -c 'echo what is wrong >&2; exit 3'
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the working directory of a recipe, with a command of ours on PATH."""
    command = tmp_path / "bin" / "fairseq-eval-lm"
    command.parent.mkdir()
    command.write_text(OURS)
    command.chmod(0o755)
    (tmp_path / "recipe.sh").write_text(RECIPE)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("EXAMPLES", str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logs(place: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in (place / "work" / "logs").glob("*.log")}


def test_a_terminal_has_the_bar_and_the_log_has_the_lines(place: Path) -> None:
    code, shown = shown_in_terminal(["bash", "recipe.sh"])
    assert code == 1, "its last step fails"
    assert "a bar" in shown and "\r1 s" in shown, "other commands show how long they have taken"
    assert shown.count("wrote 40 rows") == 1 and shown.count("Loss (base 2)") == 1
    assert re.findall(r"\[(\w+), step (\d) of 3\]", shown) == [("theirs", "1"), ("ours", "2"), ("broken", "3")]
    assert "what is wrong\nbroken failed; its whole output is in work/logs/broken.log" in shown
    kept = logs(place)
    assert "a bar" not in kept["ours"] and kept["theirs"] == "an old line\n" and kept["broken"] == "what is wrong\n"
    assert kept["ours"].count("wrote 40 rows") == 1 and kept["ours"].count("Loss (base 2)") == 1
    # The same recipe goes on from there, in a terminal or without one.
    again = subprocess.run(["bash", "recipe.sh"], text=True, capture_output=True)
    assert again.returncode == 1 and again.stdout.count("done before") == 2
    assert logs(place) == kept


def test_without_a_terminal_there_are_results_alone(place: Path) -> None:
    run = subprocess.run(["bash", "recipe.sh"], text=True, capture_output=True)
    assert run.returncode == 1 and run.stderr == "broken failed; its whole output is in work/logs/broken.log\n"
    assert "a bar" not in run.stdout and "| INFO |" not in run.stdout
    assert "wrote 40 rows of width 4\nLoss (base 2): 7.0000, Perplexity: 128.00\n" in run.stdout
    assert "what is wrong" in run.stdout
    assert logs(place)["ours"].count("wrote 40 rows") == 1


@pytest.mark.parametrize(("status", "words"), [(130, "was stopped"), (143, "was stopped"), (2, "failed")])
def test_a_stopped_step_has_not_failed(place: Path, status: int, words: str) -> None:
    """Commands end in 128 + the signal's number."""
    (place / "recipe.sh").write_text(RECIPE.replace("exit 3", f"exit {status}"))
    run = subprocess.run(["bash", "recipe.sh"], text=True, capture_output=True)
    assert run.returncode == (1 if words == "failed" else status)
    assert run.stderr.startswith(f"broken {words}; ") and run.stderr.count("\n") == 1
    assert not (place / "work" / "logs" / "broken.seconds").exists(), "the next run does it again"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_how_many_steps_it_has(recipe: str, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / recipe, tmp_path)
    (tmp_path / "steps.sh").write_text(
        'step() { echo "step $((number += 1)) of $STEPS"; }\n'
        "cell() { echo 1; }\npython() { echo '1 1'; }\ngrep() { echo; }\ncat() { echo; }\n"
    )
    run = subprocess.run(["bash", recipe, "text"], cwd=tmp_path, text=True, capture_output=True)
    steps = re.findall(r"^step (\d+) of (\d+)$", run.stdout, re.MULTILINE)
    assert len(steps) > 8 and steps[-1][0] == steps[-1][1], run
