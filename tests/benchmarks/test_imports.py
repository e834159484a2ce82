"""Every benchmark can be imported: what it takes from the project is there."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_it_can_be_imported(name: str) -> None:
    module = importlib.import_module(name)
    assert Path(module.__file__ or "") == BENCHMARKS / f"{name}.py"
