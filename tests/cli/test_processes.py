"""fairseq's flags of several processes: which are started here, and which torchrun has started."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairseq.config.command_line import parse
from fairseq.errors import ConfigError
from fairseq.runtime.endings import DIRECTORY
from fairseq.train.config import TrainConfig
from fairseq_cli.shared.processes import ProcessesConfig, RestartsConfig
from fairseq_cli.train import say_idle_gpus
from tests.builders.tiny_lm import Command

MEETING = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}
TWO = {**MEETING, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}
TWO_MACHINES = {**MEETING, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "2"}


def to_start(words: str, environment: dict[str, str]) -> int:
    argv = words.split()
    flags = parse("fairseq-train", "", (ProcessesConfig, RestartsConfig), argv)
    max_restarts = flags.build(RestartsConfig).max_restarts
    return flags.build(ProcessesConfig).to_start("fairseq_cli.train", argv, environment, max_restarts=max_restarts)


@pytest.mark.parametrize(
    "words, environment",
    [
        ("", {}),
        ("", TWO),
        ("--distributed-world-size 1 --distributed-num-procs 1 --device-id 0", {}),
        ("--distributed-world-size 1", {"WORLD_SIZE": "1"}),
        ("--distributed-world-size 2 --distributed-num-procs 2 --local_rank 1", TWO),
        ("--distributed-world-size 4 --distributed-num-procs 2 --local-rank=0", TWO_MACHINES),
        ("--distributed-world-size 2 --max-restarts 3", {**TWO, DIRECTORY: "somewhere"}),
    ],
)
def test_what_is_so_is_accepted(words: str, environment: dict[str, str]) -> None:
    assert to_start(words, environment) == 0


@pytest.mark.parametrize(
    "words, processes",
    [
        ("--distributed-world-size 2", 2),
        ("--distributed-num-procs 3", 3),
        ("--distributed-world-size 3 --distributed-num-procs 3", 3),
        ("--max-restarts 2", 1),
        ("--distributed-world-size 4 --max-restarts 2", 4),
    ],
)
def test_without_torchrun_processes_are_started(words: str, processes: int) -> None:
    assert to_start(words, {}) == processes


@pytest.mark.parametrize(
    "words, environment, error",
    [
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
        (
            "--distributed-world-size 4 --distributed-num-procs 2",
            {},
            "--distributed-world-size 4 with --distributed-num-procs 2 is for 2 machines; on each of them, type:"
            " torchrun --nnodes 2 .*--nproc-per-node 2 -m fairseq_cli.train",
        ),
        (
            "--distributed-world-size 3 --distributed-num-procs 2",
            {},
            "--distributed-world-size 3 is not a multiple of --distributed-num-procs 2; leave",
        ),
        ("--max-restarts 2", TWO, "--max-restarts 2 has no effect under torchrun; give it to torchrun, before -m"),
        ("--device-id 1", {}, "--device-id 1 does not choose a GPU here: leave it out, and set CUDA_VISIBLE_DEVICES=1"),
        ("--local_rank 0", TWO, "--device-id 0 is not LOCAL_RANK, which is 1; leave it out"),
        ("--distributed-world-size 0", {}, "--distributed-world-size must be at least 1, but is 0"),
        ("", {"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set; start the processes with torchrun, or unset"),
        ("", {"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x', which is no number of processes; unset it, or use torchrun"),
        ("--max-restarts -1", {}, "--max-restarts must be at least 0, but is -1"),
    ],
)
def test_what_is_not_so_has_one_line(words: str, environment: dict[str, str], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{error}"):
        to_start(words, environment)


@pytest.mark.parametrize("flag", ["--no-save", "--no-last-checkpoints", "--no-save-optimizer-state"])
def test_a_restart_needs_something_to_go_on_from(
    train: Command, tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    error = train(tmp_path, "--max-restarts", 2, flag).error
    assert error == f"--max-restarts goes on from checkpoint_last.pt, and {flag} leaves nothing to go on from"


def test_processes_on_gpus_need_as_many(command: Command, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    error = command("fairseq-train", data_dir, "--max-tokens", 128, "--distributed-world-size", 2).error
    assert error == "--distributed-world-size 2 needs as many GPUs, but there are 1; or --cpu"


def test_gradients_that_are_added_now_and_then_are_refused() -> None:
    parse("fairseq-train", "", (TrainConfig,), ["--ddp-backend", "fully_sharded"]).build(TrainConfig)
    with pytest.raises(ConfigError, match=r"^--ddp-backend slowmo is not here: "):
        parse("fairseq-train", "", (TrainConfig,), ["--ddp-backend", "slowmo"]).build(TrainConfig)


def test_several_gpus_of_which_one_is_used_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        say_idle_gpus(1)
        assert caplog.messages == []
        say_idle_gpus(4)
    assert caplog.messages == ["training on one of 4 GPUs; --distributed-world-size 4 trains on all of them"]


def test_a_command_of_one_process_is_refused_under_torchrun(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TWO, "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "run"}.items():
        monkeypatch.setenv(name, value)
    error = command("fairseq-generate", "data-bin", "--path", "model.pt").error
    assert error == "fairseq-generate is one process, but torchrun has started 2 of them; start it without torchrun"


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
