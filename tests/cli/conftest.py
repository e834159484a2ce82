"""A tiny text, and a tiny model trained on it once for all the tests of the commands."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fairseq_cli.run import run
from tests.builders.tiny_lm import (
    ADAPTIVE,
    BATCHING,
    MODEL,
    NUM_WORDS,
    OPTIMIZATION,
    Command,
    Outcome,
    main_of,
    write_data,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Keeps torch to one thread: a model this small loses time by sharing its work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data-bin directory: 40 ids; every fourth word is a subword that ends in @@."""
    symbols = [f"w{i}@@" if i % 4 == 1 else f"w{i}" for i in range(NUM_WORDS)]
    return write_data(tmp_path_factory.mktemp("data") / "data-bin", symbols)


@pytest.fixture
def command(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
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
        return command(
            "fairseq-train", data_dir, "--save-dir", save_dir, *MODEL, *ADAPTIVE, *BATCHING, *OPTIMIZATION, *words
        )

    return call


@pytest.fixture(scope="session")
def trained_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the checkpoint directory of a tiny model that has been trained a little."""
    save_dir = tmp_path_factory.mktemp("trained")
    words = [str(data_dir), "--save-dir", str(save_dir), *MODEL, *ADAPTIVE, *BATCHING, *OPTIMIZATION]
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
