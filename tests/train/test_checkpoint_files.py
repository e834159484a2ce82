"""Which checkpoints are written and kept, against what a reader of the flags expects; how the best is counted."""

import json
from pathlib import Path

import pytest
import torch

from fairseq.train.checkpoint_files import delete_old, names_to_write
from fairseq.train.config import CheckpointConfig
from fairseq.train.origin import Run
from fairseq.train.state import Best


def test_the_last_file_is_what_a_run_goes_on_from() -> None:
    config = CheckpointConfig(keep_best_checkpoints=1)
    names = names_to_write(config, epoch=3, num_updates=None, metric=4.25, is_best=True)
    assert names == ["checkpoint3.pt", "checkpoint_best.pt", "checkpoint.best_loss_4.2500.pt", "checkpoint_last.pt"]


@pytest.mark.parametrize(("num_updates", "names"), [(10, ["checkpoint_2_10.pt"]), (11, [])])
def test_in_mid_epoch_every_nth_update_has_a_name(num_updates: int, names: list[str]) -> None:
    config = CheckpointConfig(save_interval_updates=5, no_last_checkpoints=True)
    assert names_to_write(config, epoch=2, num_updates=num_updates, metric=None, is_best=False) == names


def write(save_dir: Path, name: str, run_id: str | None) -> None:
    """Writes the least that is a checkpoint, and the JSON beside it."""
    extra = {"best": 1.0} if run_id is None else {"best": 1.0, "run": {"id": run_id, "began": None}}
    torch.save({"model": {}, "extra_state": extra}, save_dir / f"{name}.pt")
    (save_dir / f"{name}.json").write_text(json.dumps({"extra_state": extra}), encoding="utf-8")


def in_directory(save_dir: Path, **changes: object) -> CheckpointConfig:
    return CheckpointConfig(save_dir=str(save_dir), **changes)  # type: ignore[arg-type]


NAMES = [
    "checkpoint1",
    "checkpoint2",
    "checkpoint10",
    "checkpoint_1_9",
    "checkpoint_2_10",
    "checkpoint_2_100",
    "checkpoint.best_loss_4.5000",
    "checkpoint.best_loss_10.2500",
    "checkpoint.best_loss_nan",
    "checkpoint.best_ppl_2.0000",
    "checkpoint_best",
    "checkpoint_last",
]


@pytest.mark.parametrize(
    ("config", "gone"),
    [
        ({}, ""),
        ({"keep_best_checkpoints": 0}, ""),
        ({"keep_last_epochs": 1}, "checkpoint1 checkpoint2"),
        ({"keep_last_epochs": 0}, "checkpoint1 checkpoint2 checkpoint10"),
        ({"keep_interval_updates": 2}, "checkpoint_1_9"),
        ({"keep_best_checkpoints": 2}, "checkpoint.best_loss_nan"),
        (
            {"keep_best_checkpoints": 1, "maximize_best_checkpoint_metric": True},
            "checkpoint.best_loss_4.5000 checkpoint.best_loss_nan",
        ),
    ],
)
def test_numbers_are_compared_as_numbers(tmp_path: Path, config: dict[str, object], gone: str) -> None:
    for name in NAMES:
        write(tmp_path, name, "mine")
    delete_old(in_directory(tmp_path, **config), Run("mine", None))
    kept = {name for name in NAMES if name not in gone.split()}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}{suffix}" for name in kept for suffix in (".pt", ".json")
    }


@pytest.mark.pitfall(30)
@pytest.mark.parametrize("run", [Run("mine", None), Run("unmarked 1", None)], ids=["a run", "one of an older program"])
def test_what_another_run_wrote_is_neither_deleted_nor_counted(tmp_path: Path, run: Run) -> None:
    for epoch, run_id in enumerate([run.id, "another", None, run.id, "another", run.id], start=1):
        write(tmp_path, f"checkpoint{epoch}", run_id)
    (tmp_path / "checkpoint7.pt").write_text("somebody's", encoding="utf-8")
    (tmp_path / "checkpoint8.pt").mkdir()
    (tmp_path / "checkpoint9.pt").symlink_to(tmp_path / "checkpoint1.pt")
    (tmp_path / "checkpoint4.pt").chmod(0o444)
    (tmp_path / "checkpoint1.json").write_text("somebody's", encoding="utf-8")
    before = {path.name for path in tmp_path.iterdir()}
    delete_old(in_directory(tmp_path, keep_last_epochs=1), run)
    assert before - {path.name for path in tmp_path.iterdir()} == {"checkpoint1.pt"}


@pytest.mark.parametrize(("maximize", "value", "num_since"), [(False, 2.0, 2), (True, 5.0, 1)])
def test_the_best_and_how_long_ago_it_was(maximize: bool, value: float, num_since: int) -> None:
    best = Best(maximize)
    for metric in (float("nan"), 3.0, 2.0, 5.0, float("nan")):
        best.add(metric)
    assert (best.value, best.num_since) == (value, num_since)
