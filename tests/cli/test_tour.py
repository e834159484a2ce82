"""The tour's blocks, top to bottom in one directory: what it says is printed is printed."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fairseq_cli.run import run
from tests.builders.tiny_lm import main_of

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "examples" / "knnlm" / "tour.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code, and what stands below it as its output."""

    language: str
    code: str
    output: str | None


def blocks() -> list[Block]:
    found: list[Block] = []
    for language, text in BLOCK.findall(TOUR.read_text(encoding="utf-8")):
        if language == "text":
            before = found.pop()
            assert before.output is None
            found.append(Block(before.language, before.code, text))
        else:
            assert language in ("python", "bash"), language
            found.append(Block(language, text, None))
    return found


def run_shell_in_this_process(code: str) -> None:
    """Runs the project's commands without a process of their own, which would import torch each time."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        prog = "build_dstore.py" if words[:3] == ["python", "-m", "build_dstore"] else words[0]
        if prog == "build_dstore.py":
            words = words[2:]
        if prog.startswith("fairseq-") or prog == "build_dstore.py":
            assert run(prog, main_of(prog), words[1:]) == 0, line
        else:
            subprocess.run(words, check=True)


def run_shell(code: str) -> None:
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(places), "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, env=environment)


def go(shell: Any) -> dict[str, Any]:
    """Runs every block; Python's share one set of names, which is returned."""
    names: dict[str, Any] = {}
    for block in blocks():
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
def test_the_tour_runs_and_prints_what_it_says() -> None:
    names = go(run_shell_in_this_process)
    assert names["test"].at(names["best"][1]).perplexity < names["test"].at(0).perplexity, "neighbours help"
    assert names["best"][1] > 0
    assert names["near"][7].word == "Tokyo"
    assert all(neighbour.before is not None for near in names["near"] for neighbour in near.neighbours)


@pytest.mark.slow
@pytest.mark.usefixtures("empty_place")
def test_the_tour_runs_in_a_shell() -> None:
    go(run_shell)


def test_the_tour_is_short_and_some_of_its_output_is_checked() -> None:
    found = blocks()
    assert sum(block.output is not None for block in found) >= 3
    assert {block.language for block in found} == {"python", "bash"}
