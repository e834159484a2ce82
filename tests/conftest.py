"""Fixtures that several suites share."""

import os
from pathlib import Path

import pytest

# Tiny models run faster on one thread than on two that wait for each other; and `make test` runs a process per core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Returns the directory with golden artefacts and real text that lies beside the project in CI."""
    if not SHARED.is_dir():
        pytest.skip("golden artefacts and real text (../shared) are not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Returns the directory of the artefacts made by the original programs."""
    return shared_dir / "golden" / "knnlm"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the tallies that tests have recorded: runs killed, inputs tried, cases fuzzed."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name} | {value}")
