"""Fixtures that several suites share."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.builders.cases import Artefacts, Call, Place

# Tiny models run faster on one thread than on two that wait for each other; and `make test` runs a process per core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest.register_assert_rewrite("tests.builders.cases")

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


@pytest.fixture
def cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets --bf16 mean bfloat16 on any CPU: slow where there are no instructions for it, but the same arithmetic."""
    monkeypatch.setattr("fairseq.runtime.precision.cpu_has_bfloat16", lambda: True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the tallies that tests have recorded: runs killed, inputs tried, cases fuzzed."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name} | {value}")


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> "Artefacts":
    """Returns sound data, checkpoint, datastore and index, for tests that break copies of them."""
    from tests.builders.cases import make_artefacts

    return make_artefacts(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def place(tmp_path: Path, artefacts: "Artefacts") -> "Place":
    """Returns a directory to break things in."""
    from tests.builders.cases import Place

    return Place(tmp_path, artefacts)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> "Call":
    """Returns ``call(prog, *words)``, which runs a command in this process."""
    from tests.builders.cases import runner

    return runner(capsys)
