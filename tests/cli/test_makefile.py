"""``make`` by itself says what can be made."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_prints_every_target_with_its_words() -> None:
    shown = subprocess.run(["make", "--no-print-directory"], cwd=PROJECT, text=True, capture_output=True, check=True)
    described = re.findall(r"^make (\S+) +(\S.*)$", shown.stdout, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(name for name, _ in described) == sorted(phony.split())
    assert len(shown.stdout.splitlines()) == len(described) and not shown.stderr
