"""The group of one process, and that of two Gloo processes, behind the same interface."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fairseq.errors import FairseqError
from fairseq.runtime import distributed
from fairseq.runtime.distributed import SingleProcess, TorchProcesses, join_processes, joined
from fairseq.runtime.endings import DIRECTORY, LostProcessError, be_silent, is_silent
from fairseq.runtime.interrupts import Interrupted, handled


def test_one_process_has_nothing_to_add_up() -> None:
    group = SingleProcess()
    tensor = torch.tensor([1.0, 2.0])
    group.sum_([tensor])
    assert group.gather("alone") == ["alone"]
    group.close()
    assert tensor.tolist() == [1.0, 2.0]
    assert (group.rank, group.local_rank, group.world_size) == (0, 0, 1)


@pytest.mark.parametrize("world", [None, "1"])
def test_without_torchrun_a_run_has_one_process(world: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    assert isinstance(join_processes("cpu"), SingleProcess)


class Three(SingleProcess):
    """A process of three, of which some may be gone, and which may be the first that ends."""

    world_size, done = 3, "after update 4"

    def __init__(self, lost: list[int], *, first: bool) -> None:
        self._lost, self._first, self.closed = lost, first, False

    def lost(self, patience_s: float = 3.0) -> list[int]:
        return self._lost

    def is_first_to_end(self) -> bool:
        return self._first

    def close(self) -> None:
        self.closed = True


def fail_in(group: Three, error: Exception, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """Returns what comes out of a group in which an error was raised."""
    monkeypatch.setattr(distributed, "join_processes", lambda *how: group)
    with handled(), pytest.raises(type(error) if not group.lost() else FairseqError) as caught:  # noqa: SIM117
        with joined("cpu", lambda: "begin again"):
            raise error
    return caught.value


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(DIRECTORY, raising=False)
    be_silent(False)
    yield
    be_silent(False)


@pytest.mark.parametrize("first", [True, False])
def test_one_process_says_why_the_run_ends(first: bool, spoken: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = fail_in(Three([1], first=first), RuntimeError("Connection closed by peer"), monkeypatch)
    assert isinstance(lost, LostProcessError)
    assert str(lost) == "rank 1 of 3 has ended after update 4; begin again"
    assert is_silent() == (not first)
    own = FairseqError("no such file")
    assert fail_in(Three([], first=first), own, monkeypatch) is own
    assert is_silent() == (not first)


def test_a_stop_because_another_process_has_died_says_so(spoken: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for lost, expected in (([], Interrupted), ([2], LostProcessError)):
        monkeypatch.setattr(distributed, "join_processes", lambda *how, lost=lost: Three(lost, first=True))
        with handled(), pytest.raises(expected) as caught, joined("cpu", lambda: "begin again"):
            raise Interrupted(signal.SIGTERM)
    assert str(caught.value) == "rank 2 of 3 has ended after update 4; begin again"


def test_an_error_that_no_lost_process_explains_stays_what_it_is(spoken: None, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("shapes do not fit")
    assert fail_in(Three([], first=True), error, monkeypatch) is error


def test_a_launched_process_leaves_it_to_the_launcher_who_speaks(
    spoken: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    fail_in(Three([2], first=False), RuntimeError("Connection closed by peer"), monkeypatch)
    assert not is_silent()


def test_a_group_whose_work_is_done_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Three([], first=True)
    monkeypatch.setattr(distributed, "join_processes", lambda *how: group)
    with joined("cpu", lambda: "") as found:
        assert found is group
        assert not group.closed
    assert group.closed


def member_of(store: torch.distributed.Store, members: list[str]) -> TorchProcesses:
    """Returns a process of a group whose members are these, without the group."""
    group = TorchProcesses.__new__(TorchProcesses)
    group._store, group._members, group.rank = store, [member.encode() for member in members], 2
    return group


def test_a_process_names_those_of_its_machine_and_learns_of_those_of_others() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    here, store = socket.gethostname(), torch.distributed.HashStore()
    members = [f"{here} {os.getpid()}", f"elsewhere {child.pid}", f"{here} {child.pid}", f"{here} {child.pid}"]
    assert member_of(store, members).lost() == [2, 3]
    assert member_of(store, [f"elsewhere {child.pid}"] * 4).lost() == [2, 3]
    member_of(store, members).leave()
    assert member_of(store, members).lost() == [3], "process 2 has ended of itself"


def test_nobody_is_named_who_may_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_SECONDS_TO_GO", 0.0)
    members = [f"{socket.gethostname()} {os.getpid()}", "elsewhere 1"]
    assert member_of(torch.distributed.HashStore(), members).lost() == []


def test_one_of_several_is_the_first_to_end() -> None:
    store = torch.distributed.HashStore()
    assert [member_of(store, []).is_first_to_end() for _ in range(3)] == [True, False, False]


def _sum_in_process(rank: int, port: int, directory: Path) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    group = join_processes("cpu")
    assert isinstance(group, TorchProcesses)
    assert (group.rank, group.local_rank, group.world_size) == (rank, rank, 2)
    strided_23 = torch.full((3, 2), float(rank + 1)).T
    scalar = torch.tensor(10.0 * rank)
    group.sum_([])
    group.sum_([strided_23, scalar])
    assert group.gather({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    firsts = group.gather(group.is_first_to_end())
    assert sorted(firsts) == [False, True]
    assert group.lost() == []
    group.wait()
    group.close()
    torch.save([strided_23, scalar], directory / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_sum_tensors_of_any_shape(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_sum_in_process, args=(port, tmp_path), nprocs=2)
    for rank in (0, 1):
        sum_23, scalar = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(sum_23, torch.full((2, 3), 3.0))
        assert scalar.item() == 10.0
