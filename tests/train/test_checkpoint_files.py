"""Which checkpoints are written and kept, against what a reader of the flags expects; how the best is counted."""

from pathlib import Path

import pytest

from fairseq.train.checkpoint_files import delete_old, names_to_write
from fairseq.train.config import CheckpointConfig
from fairseq.train.state import Best


def test_the_last_file_is_what_a_run_goes_on_from() -> None:
    config = CheckpointConfig(keep_best_checkpoints=1)
    names = names_to_write(config, epoch=3, num_updates=None, metric=4.25, is_best=True)
    assert names == ["checkpoint3.pt", "checkpoint_best.pt", "checkpoint.best_loss_4.2500.pt", "checkpoint_last.pt"]


@pytest.mark.parametrize(("num_updates", "names"), [(10, ["checkpoint_2_10.pt"]), (11, [])])
def test_in_mid_epoch_every_nth_update_has_a_name(num_updates: int, names: list[str]) -> None:
    config = CheckpointConfig(save_interval_updates=5, no_last_checkpoints=True)
    assert names_to_write(config, epoch=2, num_updates=num_updates, metric=None, is_best=False) == names


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
        (CheckpointConfig(), ""),
        (CheckpointConfig(keep_best_checkpoints=0), ""),
        (CheckpointConfig(keep_last_epochs=1), "checkpoint1 checkpoint2"),
        (CheckpointConfig(keep_last_epochs=0), "checkpoint1 checkpoint2 checkpoint10"),
        (CheckpointConfig(keep_interval_updates=2), "checkpoint_1_9"),
        (CheckpointConfig(keep_best_checkpoints=2), "checkpoint.best_loss_nan"),
    ],
)
def test_numbers_are_compared_as_numbers(tmp_path: Path, config: CheckpointConfig, gone: str) -> None:
    for name in NAMES:
        for suffix in (".pt", ".json"):
            (tmp_path / f"{name}{suffix}").touch()
    delete_old(CheckpointConfig(**{**vars(config), "save_dir": str(tmp_path)}))
    kept = {name for name in NAMES if name not in gone.split()}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}{suffix}" for name in kept for suffix in (".pt", ".json")
    }


@pytest.mark.parametrize(("maximize", "value", "num_since"), [(False, 2.0, 2), (True, 5.0, 1)])
def test_the_best_and_how_long_ago_it_was(maximize: bool, value: float, num_since: int) -> None:
    best = Best(maximize)
    for metric in (3.0, 2.0, 5.0, float("nan")):
        best.add(metric)
    assert (best.value, best.num_since) == (value, num_since)
