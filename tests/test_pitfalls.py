"""Every row of the table of pitfalls (docs/reliability.md) has a test that names its number."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROWS = set(range(1, 34))


def numbers_in(path: Path) -> set[int]:
    """Returns the numbers in ``@pytest.mark.pitfall(…)`` of a file's tests."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.pitfall":
                    found |= {int(ast.literal_eval(arg)) for arg in decorator.args}
    return found


def test_every_pitfall_has_a_test() -> None:
    tested = set().union(*(numbers_in(path) for path in TESTS.rglob("test_*.py")))
    assert tested == ROWS
