"""fairseq 0.12 in an environment of its own, to compare with: ``make peer`` installs it."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": "", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


def peer_python() -> Path:
    """Returns the Python that has fairseq 0.12; where there is none, the test is skipped."""
    python = ROOT / os.environ.get("FAIRSEQ_PEER", ".peer") / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no fairseq 0.12 in {python.parents[1].name} to compare with: `make peer` installs it")
    return python


def output_of(python: Path, *words: str, cwd: Path) -> str:
    """Returns what a program of the peer printed."""
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run([str(python), *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def last_line_of(python: Path, *words: str, cwd: Path) -> str:
    """Returns the last line that a program of the peer printed."""
    return output_of(python, *words, cwd=cwd).splitlines()[-1]
