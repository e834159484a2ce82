"""Several processes that the command starts itself: how they die, are stopped, and go on."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairseq.checkpoints.format import Checkpoint, load_checkpoint
from tests.builders.tiny_lm import TRAINED, Command

# A criterion that sends a signal, once, when a process has seen so many batches.
PLUGIN = """
import os
import signal
from pathlib import Path
from fairseq.criterions.cross_entropy import cross_entropy
from fairseq.criterions import register_criterion

NAMES = ("MARK", "RANK", "BATCHES", "NUMBER", "TO")
MARK, RANK, BATCHES, NUMBER, TO = (os.environ[f"SENDING_{name}"] for name in NAMES)
seen = 0

@register_criterion("sending")
def sending(model, source, target):
    global seen
    seen += model.training
    if os.environ.get("RANK", "0") == RANK and seen == int(BATCHES) and not Path(MARK).exists():
        Path(MARK).touch()
        os.kill(os.getpid() if TO == "itself" else os.getppid(), int(NUMBER))
    return cross_entropy(model, source, target)
"""
PLAIN = shlex.split("--criterion sending --max-epoch 3 --save-interval-updates 4 --no-epoch-checkpoints")


class Launch:
    """A training run in several processes, of which one sends a signal.

    Args:
        root: for the plugin and the mark.
        data_dir: to train on.
    """

    def __init__(self, root: Path, data_dir: Path) -> None:
        self.root, self.data_dir = root, data_dir
        (root / "plugin").mkdir()
        (root / "plugin" / "__init__.py").write_text(PLUGIN)

    def __call__(
        self, save_dir: Path, *words: object, send: str = "never", to: str = "itself", launcher: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Trains; ``send`` is such as ``SIGKILL by 1 after 7``."""
        number, _, rank, _, batches = send.split() if send != "never" else ("SIGTERM", "", "0", "", "0")
        sending = {"MARK": self.root / "mark", "RANK": rank, "BATCHES": batches, "TO": to}
        sending["NUMBER"] = int(signal.Signals[number])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.root)}
        environment.update({f"SENDING_{name}": str(value) for name, value in sending.items()})
        flags = [self.data_dir, "--save-dir", save_dir, *TRAINED, *PLAIN, "--user-dir", self.root / "plugin", *words]
        return subprocess.run(
            [sys.executable, "-m", *launcher.split(), "fairseq_cli.train", *map(str, flags)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=300,
        )


@pytest.fixture
def launch(tmp_path: Path, data_dir: Path) -> Launch:
    """Returns a run in several processes."""
    return Launch(tmp_path, data_dir)


def said(stderr: str) -> list[str]:
    """Returns what stderr has beside the log."""
    return [line for line in stderr.splitlines() if " | INFO | " not in line]


def last(save_dir: Path) -> Checkpoint:
    return load_checkpoint(save_dir / "checkpoint_last.pt")


def assert_equal(one: Checkpoint, other: Checkpoint) -> None:
    assert one.num_updates == other.num_updates
    assert all(torch.equal(other.state[name], tensor) for name, tensor in one.state.items())
    moments, others = (checkpoint.optimizer_state["state"] for checkpoint in (one, other))
    assert all(torch.equal(others[i]["exp_avg_sq"], moments[i]["exp_avg_sq"]) for i in moments)
    assert one.extra_state["best"] == other.extra_state["best"]


@pytest.mark.slow
def test_a_process_that_dies_is_one_line_and_a_restart_goes_on_to_the_bit(launch: Launch, tmp_path: Path) -> None:
    """Nine batches are five updates, and process 1 has none in the fifth: its seventh batch is of update 8."""
    two, killed = ["--distributed-world-size", 2], "SIGKILL by 1 after 7"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = launch(whole, *two, "--distributed-port", 12345)
    assert done.returncode == 0, done.stderr
    (hint,) = said(done.stderr)
    assert "no effect here: --distributed-port 12345" in hint
    died = launch(parts, *two, send=killed)
    assert died.returncode == 128 + signal.SIGKILL
    assert said(died.stderr) == [
        "fairseq-train: error: rank 1 of 2 was killed by SIGKILL (out of memory?) after update 7; the same command goes"
        f" on from {parts / 'checkpoint_last.pt'}, as --max-restarts 3 would do by itself"
    ]
    (tmp_path / "mark").unlink()
    again = launch(parts, *two, "--max-restarts", 1, send=killed)  # goes on after update 5, and dies in update 13
    assert again.returncode == 0, again.stderr
    assert "epoch 2, 5 updates done" in again.stderr
    (line,) = said(again.stderr)
    assert line.endswith(
        "rank 1 of 2 was killed by SIGKILL (out of memory?) after update 12; starting again, 1 of 1 times"
    )
    assert_equal(last(whole), last(parts))


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_a_signal_stops_all_processes_which_save_where_they_stand(
    launch: Launch, train: Command, tmp_path: Path, number: str
) -> None:
    """Where the launcher is killed, the system sends them SIGTERM, and the first process says what it has saved."""
    parts, two, is_killed = tmp_path / "parts", ["--distributed-world-size", 2], number == "SIGKILL"
    stopped = launch(parts, *two, send=f"{number} by 0 after 7", to="launcher")
    assert stopped.returncode == (-signal.SIGKILL if is_killed else 128 + signal.Signals[number])
    (line,) = [line for line in said(stopped.stderr) if " | WARNING | " not in line]
    updates = last(parts).num_updates
    assert updates >= 7
    assert line == (
        f"fairseq-train: stopped by {'SIGTERM' if is_killed else number}; update {updates} is saved in"
        f" {parts / 'checkpoint_last.pt'}, and the same command goes on from there"
    )
    if number != "SIGTERM":
        return
    assert launch(parts, *two).returncode == 0
    # One process, with twice the batches in an update, without a plugin: the same loss.
    assert train(tmp_path / "one", *PLAIN, "--criterion", "cross_entropy", "--update-freq", 2).code == 0
    assert_equal(last(tmp_path / "one"), last(parts))


@pytest.mark.slow
def test_the_others_name_a_process_that_has_ended_under_torchrun(launch: Launch, tmp_path: Path) -> None:
    torchrun = "torch.distributed.run --standalone --nproc-per-node 3 -m"
    died = launch(tmp_path / "run", send="SIGKILL by 1 after 6", launcher=torchrun)
    assert died.returncode == 1
    assert [line for line in died.stderr.splitlines() if line.startswith("fairseq-train")] == [
        "fairseq-train: error: rank 1 of 3 has ended after update 5; the same command goes on from"
        f" {tmp_path / 'run' / 'checkpoint_last.pt'}"
    ]
    assert "fairseq_cli" not in "".join(line for line in died.stderr.splitlines() if line.startswith("  File"))


@pytest.mark.slow
def test_an_error_of_all_processes_is_one_line(launch: Launch, tmp_path: Path) -> None:
    done = launch(tmp_path / "run", "--distributed-world-size", 2, "--lr", "1e30")
    assert done.returncode == 2
    assert said(done.stderr) == [
        "fairseq-train: error: the loss of update 2 is nan; lower --lr, or lengthen the warm-up"
    ]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(launch: Launch, train: Command, tmp_path: Path) -> None:
    """Two, one and two processes, in mid-epoch: the same updates as one process's, to the bit."""
    parts, plain = tmp_path / "parts", [*PLAIN, "--criterion", "cross_entropy"]
    assert launch(parts, "--distributed-world-size", 2, "--max-update", 3).returncode == 0
    assert last(parts).extra_state["epoch_batches"]["done"] == 6
    assert train(parts, *plain, "--update-freq", 2, "--max-update", 7).code == 0
    assert last(parts).extra_state["train_iterator"]["epoch"] == 2
    assert launch(parts, "--distributed-world-size", 2).returncode == 0
    assert train(tmp_path / "one", *plain, "--update-freq", 2).code == 0
    one, other = last(tmp_path / "one"), last(parts)
    assert one.num_updates == other.num_updates
    assert all(torch.equal(other.state[name], tensor) for name, tensor in one.state.items())
