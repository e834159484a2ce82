"""The group of one process, and that of two Gloo processes, behind the same interface."""

from pathlib import Path

import pytest
import torch

from fairseq.runtime.distributed import SingleProcess, TorchProcesses, join_processes


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


def _sum_in_process(rank: int, port: int, directory: Path) -> None:
    import os

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
    group.close()
    torch.save([strided_23, scalar], directory / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_sum_tensors_of_any_shape(tmp_path: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_sum_in_process, args=(port, tmp_path), nprocs=2)
    for rank in (0, 1):
        sum_23, scalar = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(sum_23, torch.full((2, 3), 3.0))
        assert scalar.item() == 10.0
