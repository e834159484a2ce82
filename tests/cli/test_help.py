"""``--help`` and ``--version`` answer at once: neither torch nor FAISS is imported for them."""

import subprocess
import sys

import pytest

import fairseq
from fairseq_cli.knnlm import SUBCOMMANDS

PROGRAM = """
import sys
try:
    import {module} as command
    command.main({words})
except SystemExit as end:
    assert not end.code, end.code
heavy = sorted({{"torch", "faiss", "matplotlib", "numpy", "tqdm"}} & set(sys.modules))
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "module",
    [
        "fairseq_cli.train",
        "fairseq_cli.eval_lm",
        "fairseq_cli.generate",
        "fairseq_cli.interactive",
        "fairseq_cli.score_lm",
        "fairseq_cli.preprocess",
        "build_dstore",
    ],
)
def test_help_imports_neither_torch_nor_faiss(module: str) -> None:
    pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module, words=["--help"])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert "[default: " in done.stdout


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in SUBCOMMANDS)])
def test_help_of_a_subcommand_imports_neither_torch_nor_faiss(words: list[str]) -> None:
    program = PROGRAM.format(module="fairseq_cli.knnlm", words=words)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: {' '.join(['fairseq-knnlm', *words[:-1]])} " in done.stdout


@pytest.mark.parametrize("prog", ["train", "eval_lm", "generate", "interactive", "score_lm", "preprocess", "knnlm"])
def test_a_command_can_be_run_as_a_module(prog: str) -> None:
    pytest.importorskip(f"fairseq_cli.{prog}")
    done = subprocess.run(
        [sys.executable, "-m", f"fairseq_cli.{prog}", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"fairseq-{prog.replace('_', '-')} {fairseq.__version__}\n"


@pytest.mark.parametrize("words", ["data --path gone.pt", ". --path {here}:gone.pt", "gone --path {here}", "--pathh x"])
@pytest.mark.parametrize("prog", ["eval_lm", "score_lm"])
def test_a_slip_of_the_pen_is_answered_before_torch_is_imported(prog: str, words: str) -> None:
    """The error goes through ``run``, which imports nothing heavy either."""
    program = (
        f"import sys; from fairseq_cli.run import run; from fairseq_cli.{prog} import main;"
        f"code = run('fairseq-{prog}', main, {words.format(here=__file__).split()!r});"
        "assert not {'torch', 'faiss'} & set(sys.modules), 'imported'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "gone" in done.stderr or "did you mean --path?" in done.stderr
