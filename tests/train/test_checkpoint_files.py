"""Which checkpoints are written and kept, against what a reader of the flags expects; how the best is counted."""

import json
import math
from pathlib import Path

import pytest
import torch

from fairseq.errors import ConfigError
from fairseq.train import checkpoint_files
from fairseq.train.checkpoint_files import delete_old, names_to_write, write_all
from fairseq.train.config import CheckpointConfig
from fairseq.train.origin import Run
from fairseq.train.state import Best


@pytest.mark.parametrize("metric", ["a+b", "acc (top 5)", "wer.1", "x_2"])
def test_a_metric_of_any_name_has_its_best_few(tmp_path: Path, metric: str) -> None:
    config = in_directory(
        tmp_path, keep_best_checkpoints=1, best_checkpoint_metric=metric, maximize_best_checkpoint_metric=True
    )
    for value in (1.0, 3.0, 2.0, -math.inf, math.nan):
        names = names_to_write(config, epoch=1, num_updates=None, metric=value, is_best=False)
        write(tmp_path, next(name for name in names if "best_" in name).removesuffix(".pt"), "mine")
    write(tmp_path, "checkpoint.best_a_b_9.0000", "mine")
    delete_old(config, Run("mine", None))
    assert {p.stem for p in tmp_path.iterdir()} == {f"checkpoint.best_{metric}_3.0000", "checkpoint.best_a_b_9.0000"}


@pytest.mark.parametrize("metric", ["bits/token", "a\0b", "a\nb", "m" * 51])
def test_a_metric_that_makes_no_name_of_a_file(metric: str) -> None:
    assert CheckpointConfig(best_checkpoint_metric=metric).keep_best_checkpoints == -1
    with pytest.raises(ConfigError, match="--keep-best-checkpoints puts the metric into names of files, which"):
        CheckpointConfig(best_checkpoint_metric=metric, keep_best_checkpoints=1)


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


def write_plain(path: Path) -> None:
    for suffix in (".json", ".pt"):
        path.with_suffix(suffix).write_text(f"state of {suffix}", encoding="utf-8")


def test_every_name_is_on_the_disk_before_the_next_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut keeps what was flushed: the file to resume from must not come before those that it speaks of."""
    events = []
    link = checkpoint_files._link
    monkeypatch.setattr(checkpoint_files, "fsync_directory", lambda directory: events.append(directory))
    monkeypatch.setattr(checkpoint_files, "_link", lambda a, b: (events.append(b.name), link(a, b)))
    write_all(tmp_path, ["checkpoint1.pt", "checkpoint_best.pt", "checkpoint_last.pt"], write_plain)
    assert events == [
        tmp_path, "checkpoint_best.json", "checkpoint_best.pt",
        tmp_path, "checkpoint_last.json", "checkpoint_last.pt",
        tmp_path,
    ]  # fmt: skip
    names = ["checkpoint1", "checkpoint_best", "checkpoint_last"]
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}{suffix}" for n in names for suffix in (".json", ".pt")}
    assert (tmp_path / "checkpoint_last.pt").read_text(encoding="utf-8") == "state of .pt"


def test_nothing_is_written_under_no_name(tmp_path: Path) -> None:
    write_all(tmp_path, [], write_plain)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_hard_links_has_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "no hard links here")

    monkeypatch.setattr(checkpoint_files.os, "link", refuse)
    (tmp_path / ".checkpoint_last.pt.knnlm.tmp").write_text("left by a kill", encoding="utf-8")
    write_all(tmp_path, ["checkpoint1.pt", "checkpoint_last.pt"], write_plain)
    assert (tmp_path / "checkpoint_last.pt").read_text(encoding="utf-8") == "state of .pt"
    assert (tmp_path / "checkpoint_last.json").read_text(encoding="utf-8") == "state of .json"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "epoch", "num_updates", "metric", "is_best", "names"),
    [
        ({}, 3, None, None, False, "checkpoint3 checkpoint_last"),
        ({"save_interval": 2}, 3, None, None, False, "checkpoint_last"),
        ({"save_interval": 3}, 3, None, 2.0, False, "checkpoint3 checkpoint_last"),
        ({"no_epoch_checkpoints": True}, 3, None, 2.0, True, "checkpoint_best checkpoint_last"),
        ({"save_interval_updates": 5}, 3, 10, 2.0, False, "checkpoint_3_10 checkpoint_last"),
        ({"save_interval_updates": 5}, 3, 11, 2.0, True, "checkpoint_best checkpoint_last"),
        ({"keep_best_checkpoints": 1}, 3, 11, 2.0, False, "checkpoint.best_loss_2.0000 checkpoint_last"),
        ({"keep_best_checkpoints": 1}, 3, 11, None, True, "checkpoint_last"),
        ({"keep_best_checkpoints": 0}, 3, 11, 2.0, False, "checkpoint_last"),
    ],
)
def test_names(
    changes: dict[str, object], epoch: int, num_updates: int | None, metric: float | None, is_best: bool, names: str
) -> None:
    found = names_to_write(CheckpointConfig(**changes), epoch, num_updates, metric, is_best)  # type: ignore[arg-type]
    assert found == [f"{name}.pt" for name in names.split()]


@pytest.mark.parametrize(
    ("metrics", "value", "num_since"),
    [([math.nan], None, 1), ([math.nan, 3.0], 3.0, 0), ([3.0, math.nan], 3.0, 1), ([3.0, 3.0], 3.0, 1)],
)
def test_what_is_no_number_or_no_better_is_not_the_best(
    metrics: list[float], value: float | None, num_since: int
) -> None:
    for maximize in (False, True):
        best = Best(maximize)
        for metric in metrics:
            best.add(metric)
        assert (best.value, best.num_since) == (value, num_since)
