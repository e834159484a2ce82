"""The blocks of code of a page in Markdown, and a shell that runs them."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code, and what stands below it as its output."""

    language: str
    code: str
    output: str | None = None


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "text":
            before = found.pop()
            assert before.output is None
            found.append(Block(before.language, before.code, text))
        else:
            assert language in ("python", "bash"), language
            found.append(Block(language, text))
    return found


def run_shell(code: str) -> str:
    """Runs lines as a user who pastes them, with the project's commands on the path; returns what they print."""
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(places), "PYTHONPATH": str(ROOT)}
    command = ["bash", "-euo", "pipefail", "-c", code]
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, encoding="utf-8").stdout
