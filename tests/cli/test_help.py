"""``--help`` and ``--version`` answer at once: neither torch nor FAISS is imported for them."""

import subprocess
import sys

import fairseq
from fairseq_cli.knnlm import SUBCOMMANDS

COMMANDS = ("train", "eval_lm", "generate", "interactive", "score_lm", "preprocess", "knnlm")
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
from fairseq_cli.run import run
from fairseq_cli import eval_lm, score_lm
for prog, command in (("fairseq-eval-lm", eval_lm), ("fairseq-score-lm", score_lm)):
    for words in {slips}:
        assert run(prog, command.main, words.split()) == 2, words
        assert not {{"torch", "faiss"}} & set(sys.modules), (prog, words)
"""


def test_a_slip_of_the_pen_is_answered_before_torch_is_imported() -> None:
    """The error goes through ``run``, which imports nothing heavy either."""
    here = __file__
    slips = ["data --path gone.pt", f". --path {here}:gone.pt", f"gone --path {here}", "--pathh x"]
    done = run_python(SLIPS.format(slips=slips))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert ["gone" in line for line in lines] == [True, True, True, False] * 2, lines
    assert ["did you mean --path?" in line for line in lines] == [False, False, False, True] * 2, lines
