"""fairseq's flags of several processes: one is trained with at once, more are started by torchrun."""

import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq.config.command_line import parse
from fairseq.errors import ConfigError
from fairseq.train.config import TrainConfig
from fairseq_cli.shared.processes import ProcessesConfig
from fairseq_cli.train import say_idle_gpus
from tests.builders.tiny_lm import TRAINED, Command

TWO = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}
TWO_MACHINES = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "2"}


def check(words: str, environment: dict[str, str]) -> None:
    argv = words.split()
    parse("fairseq-train", "", (ProcessesConfig,), argv).build(ProcessesConfig).check(argv, environment)


@pytest.mark.parametrize(
    "words, environment",
    [
        ("", {}),
        ("", TWO),
        ("--distributed-world-size 1 --distributed-num-procs 1 --device-id 0", {}),
        ("--distributed-world-size 1", {"WORLD_SIZE": "1"}),
        ("--distributed-world-size 2 --distributed-num-procs 2 --local_rank 1", TWO),
        ("--distributed-world-size 4 --distributed-num-procs 2 --local-rank=0", TWO_MACHINES),
    ],
)
def test_what_is_so_is_accepted(words: str, environment: dict[str, str]) -> None:
    check(words, environment)


@pytest.mark.parametrize(
    "words, environment, error",
    [
        (
            "--distributed-world-size 2",
            {},
            "--distributed-world-size 2 needs torchrun, which starts processes: torchrun",
        ),
        ("--distributed-num-procs 3", {}, "--distributed-num-procs 3 needs torchrun, which starts processes: torchrun"),
        (
            "--distributed-world-size 8",
            TWO,
            "--distributed-world-size 8 is not the number of processes that .*, 2; leave",
        ),
        (
            "--distributed-world-size 1",
            TWO,
            "--distributed-world-size 1 is not the number of processes that .*, 2; leave",
        ),
        ("--distributed-num-procs 4", TWO_MACHINES, "--distributed-num-procs 4 is not the number .*, 2; leave it out"),
        ("--device-id 1", {}, "--device-id 1 does not choose a GPU here: leave it out, and set CUDA_VISIBLE_DEVICES=1"),
        ("--local_rank 0", TWO, "--device-id 0 is not LOCAL_RANK, which is 1; leave it out"),
        ("--distributed-world-size 0", {}, "--distributed-world-size must be at least 1, but is 0"),
    ],
)
def test_what_is_not_so_has_one_line(words: str, environment: dict[str, str], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{error}"):
        check(words, environment)


def test_gradients_that_are_added_now_and_then_are_refused() -> None:
    parse("fairseq-train", "", (TrainConfig,), ["--ddp-backend", "fully_sharded"]).build(TrainConfig)
    with pytest.raises(ConfigError, match=r"^--ddp-backend slowmo is not here: "):
        parse("fairseq-train", "", (TrainConfig,), ["--ddp-backend", "slowmo"]).build(TrainConfig)


def test_several_gpus_of_which_one_is_used_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        say_idle_gpus(1, ["data-bin"])
        assert caplog.messages == []
        say_idle_gpus(4, ["data-bin", "--save-dir", "two words"])
    command = "torchrun --nproc-per-node 4 -m fairseq_cli.train data-bin --save-dir 'two words'"
    assert caplog.messages == [f"training on one of 4 GPUs; on all of them: {command}"]


@pytest.mark.slow
def test_the_command_of_the_error_trains(
    train: Command, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    words = [*TRAINED, "--max-update", "2", "--distributed-world-size", "2", "--distributed-port", "12345", "--cpu"]
    error = train(tmp_path / "run", *words).error
    match = re.search(r"torchrun (.*)", error)
    assert match is not None
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *shlex.split(match[1])],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "checkpoint_last.pt").exists()
    assert "no effect here: --distributed-port 12345 (torchrun starts processes" in done.stderr


LEAVING = """
import atexit, sys
from fairseq_cli.shared.processes import leave
atexit.register(print, "torn down")
print("done", end="")
leave(3)
"""


@pytest.mark.parametrize(("world_size", "printed"), [("1", "donetorn down\n"), ("2", "done")])
def test_one_of_several_processes_leaves_without_a_tear_down(world_size: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVING],
        capture_output=True,
        text=True,
        env={**os.environ, "WORLD_SIZE": world_size},
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, printed)
