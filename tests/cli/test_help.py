"""``--help`` and ``--version`` answer at once: neither torch nor FAISS is imported for them."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

import fairseq.config.kinds
from fairseq.config.command_line import parse
from fairseq.config.flags import flag_fields
from fairseq.config.kinds import kind_of
from fairseq_cli.knnlm import SUBCOMMANDS
from tests.builders.tiny_lm import main_of

COMMANDS = ("train", "validate", "eval_lm", "generate", "interactive", "score_lm", "preprocess", "knnlm")
PROGS = (*(f"fairseq-{name.replace('_', '-')}" for name in COMMANDS if name != "knnlm"), "fairseq-build-dstore")
HEAVY = {"torch", "faiss", "matplotlib", "numpy", "tqdm"}
HELP = """
import importlib, sys
for module, *words in {lines}:
    try:
        importlib.import_module(module).main(words)
    except SystemExit as end:
        assert not end.code, (module, words, end.code)
    heavy = sorted({heavy} & set(sys.modules))
    assert not heavy, (module, words, heavy)
"""
AS_MODULES = """
import runpy, sys
for name in {names}:
    sys.argv = [name, "--version"]
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        assert not end.code, (name, end.code)
"""


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own, where nothing is imported yet."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_help_imports_neither_torch_nor_faiss() -> None:
    lines = [[f"fairseq_cli.{name}", "--help"] for name in COMMANDS] + [["build_dstore", "--help"]]
    lines += [["fairseq_cli.knnlm", name, "--help"] for name in SUBCOMMANDS]
    done = run_python(HELP.format(lines=lines, heavy=HEAVY))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(lines)
    assert done.stdout.count("[default: ") > len(lines)
    assert all(f"usage: fairseq-knnlm {name} " in done.stdout for name in SUBCOMMANDS)


def test_a_command_can_be_run_as_a_module() -> None:
    done = run_python(AS_MODULES.format(names=[f"fairseq_cli.{name}" for name in COMMANDS]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"fairseq-{n.replace('_', '-')} {fairseq.__version__}" for n in COMMANDS]


SLIPS = """
import sys
from fairseq_cli.shared.run import run
from fairseq_cli import eval_lm, score_lm, validate
progs = {{"fairseq-eval-lm": eval_lm, "fairseq-score-lm": score_lm, "fairseq-validate": validate}}
for prog, command in progs.items():
    for words in {slips}:
        assert run(prog, command.main, words.split()) == 2, words
        assert not {{"torch", "faiss"}} & set(sys.modules), (prog, words)
"""


def test_a_slip_of_the_pen_is_answered_before_torch_is_imported(tmp_path: Path) -> None:
    """The error goes through ``run``, which imports nothing heavy either."""
    here = tmp_path / "model.pt"
    here.touch()
    slips = ["data --path gone.pt", f". --path {here}:gone.pt", f"gone --path {here}", "--pathh x"]
    done = run_python(SLIPS.format(slips=slips))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert ["gone" in line for line in lines] == [True, True, True, False] * 3, lines
    assert ["did you mean --path?" in line for line in lines] == [False, False, False, True] * 3, lines


def helps(capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[str, str]]:
    """Yields each command that has flags, and its help."""
    for prog in [*PROGS, *(f"fairseq-knnlm {name}" for name in SUBCOMMANDS)]:
        command, *words = prog.split()
        with pytest.raises(SystemExit):
            main_of(command)([*words, "--help"])
        yield prog, capsys.readouterr().out


class ParsedError(Exception):
    """The flags of an example are sound."""


def check_flags(
    prog: str, description: str, groups: tuple[type, ...], argv: list[str], *more: object, **named: object
) -> NoReturn:
    """Takes the place of ``parse``: checks the values as well, and ends the command there."""
    flags = parse(prog, description, groups, argv)
    for config in groups:
        if set(flag_fields(config)) & set(flags.typed):
            flags.build(config)
    raise ParsedError


def test_every_help_ends_in_examples_that_parse(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for prog, text in list(helps(capsys)):
        lines = text.partition("\nexamples:\n")[2].replace("\\\n", " ").splitlines()
        commands = [line.rpartition("| ")[2].strip() for line in lines if line.strip() and line.strip()[0] != "#"]
        assert commands, prog
        for command in commands:
            assert command.removeprefix("python ").startswith(f"{prog} "), prog
            name, *words = shlex.split(command.removeprefix("python "))
            main = main_of(name)
            monkeypatch.setattr(sys.modules[main.__module__], "parse", check_flags)
            with pytest.raises(ParsedError):
                main(words)


def test_settings_of_the_checkpoint_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a Hugging Face model may be read as well, they are in force for that; training has them in force."""
    for prog, text in helps(capsys):
        before, _, after = text.partition("Accepted without effect, for old command lines:")
        for flag in ("--tokens-per-sample", "--add-bos-token"):
            shown = f"\n  {flag}"
            if prog == "fairseq-validate":
                assert shown in after and shown not in before, (prog, flag)
            elif prog in ("fairseq-eval-lm", "fairseq-generate", "fairseq-interactive", "fairseq-train"):
                assert shown in before and shown not in after, (prog, flag)
                said = " ".join(before.partition(shown)[2].partition("\n  --")[0].split())
                assert ("; for Hugging Face models" in said) == (prog != "fairseq-train"), (prog, said)


@pytest.mark.parametrize("prog", ["fairseq-eval-lm", "fairseq-score-lm", "fairseq-interactive", "fairseq-generate"])
def test_help_says_that_a_model_may_be_hugging_faces(prog: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(dict(helps(capsys))[prog].split())
    flag, examples = re.search(r"--path \S+ (checkpoint .*?) --\w", text), text.partition(" examples: ")[2]
    assert flag is not None and "directory of a Hugging Face model" in flag[1]
    assert "# a Hugging Face model" in examples


def test_examples_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Neighbours vote with a T from the distances; flags have hyphens; only ``with-cache`` was saved with a cache."""
    found = {prog: text.partition("\nexamples:\n")[2] for prog, text in helps(capsys)}
    for prog, text in found.items():
        assert text.count("--knnlm") == text.count("--knn-temp auto") or prog.startswith("fairseq-knnlm"), prog
        assert not re.findall(r"--[a-z]+_", text), prog
    assert sum("--knnlm " in text for text in found.values()) == 4
    assert "retrieval/" not in found["fairseq-knnlm sweep-cache"]


def test_the_word_for_a_value_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    """Not --json JSON or --out OUT."""
    kinds = vars(fairseq.config.kinds).values()
    known = {"N", "X", *(re.match("[A-Z]+", kind.metavar)[0] for kind in map(kind_of, kinds) if kind is not None)}
    shown = {
        pair
        for _, text in helps(capsys)
        for pair in re.findall(r"^  (?:-\S+, )*--([a-z-]+) \[?([A-Z]+)", text, re.MULTILINE)
    }
    assert len(shown) > 100
    assert {pair for pair in shown if pair[1] not in known} == set()


def test_each_default_is_said_once_and_lines_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for prog, text in helps(capsys):
        flags_alone = re.split("\n(?:output|examples):\n", text)[0]
        assert [line for line in flags_alone.splitlines() if len(line) >= 80] == [], prog
        flags = re.split(r"\n  (?=\S)", flags_alone)
        assert not [flag for flag in flags if flag.count("[default: ") > 1], prog


def test_what_is_required_looks_required(capsys: pytest.CaptureFixture[str]) -> None:
    usages = {
        "fairseq-eval-lm": "[DATA] --path FILE[:FILE…]",
        "fairseq-preprocess": "--only-source",
        "fairseq-build-dstore": "--dstore-mmap PREFIX --faiss-index FILE",
        "fairseq-knnlm rows": "PREFIX [ROW …]",
        "fairseq-knnlm fit-lmbda": "DIRECTORY --out FILE",
    }
    required = dict(zip(usages, (1, 1, 2, 1, 2), strict=True))
    found = dict(helps(capsys))
    for prog, usage in usages.items():
        assert found[prog].splitlines()[0] == f"usage: {prog} {usage} [FLAGS]"
        assert found[prog].count("[required]") == required[prog]
