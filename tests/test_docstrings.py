"""Examples in docstrings can be copied: their lines stand in, and are Python."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"@\w|(def|class|import|from) .*[:)]$|\w+\.add_argument\(")


def docstrings() -> list[tuple[str, str]]:
    found = []
    for folder in ("fairseq", "fairseq_cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                    found.append((f"{path.relative_to(ROOT)}: {getattr(node, 'name', '')}", text))
    return found


def test_examples_stand_in() -> None:
    """The formatter takes the indentation away where every line but the first has one."""
    lost = [f"{where}: {line}" for where, text in docstrings() for line in text.splitlines()[1:] if CODE.match(line)]
    assert not lost


def test_examples_are_python() -> None:
    examples = 0
    for _, text in docstrings():
        for block in re.findall(r"(?m)(?:^    .*\n?)+", text):
            if re.search(r"(?m)^    (@|def |class )", block):
                ast.parse(re.sub(r"(?m)^    ", "", block))
                examples += 1
    assert examples >= 4
