"""A run that was stopped and resumed equals one that was not, with every optimizer and every schedule."""

import shlex
from pathlib import Path

import pytest

from fairseq.optim import LR_SCHEDULERS, OPTIMIZERS
from tests.builders.tiny_lm import Command
from tests.cli.test_resume import assert_same_run, last

OPTIMIZER_FLAGS = {
    "nag": "--lr 0.1 --momentum 0.9",
    "adam": "--weight-decay 0.1",
    "sgd": "--lr 0.1 --momentum 0.9",
    "adagrad": "--lr 0.1",
    "adamw": "",
    "adadelta": "--lr 1",
    "adamax": "--weight-decay 0.1",
    "adafactor": "--scale-parameter",
}
SCHEDULE_FLAGS = {
    "fixed": "--force-anneal 2 --warmup-updates 5",
    "cosine": "--lr-period-updates 9 --t-mult 2 --warmup-updates 3",
    "inverse_sqrt": "--warmup-updates 5",
    "polynomial_decay": "--total-num-update 50 --warmup-updates 3",
    "triangular": "--max-lr 2 --lr-period-updates 8",
    "reduce_lr_on_plateau": "--lr-threshold 0.9 --lr-shrink 0.5",
    "step": "--lr-decay-period 4",
    "tri_stage": "--warmup-steps 3 --hold-steps 9 --decay-steps 9",
}


def test_every_name_is_tried() -> None:
    assert set(OPTIMIZER_FLAGS) == set(OPTIMIZERS.names())
    assert set(SCHEDULE_FLAGS) == set(LR_SCHEDULERS.names())
    assert len(OPTIMIZER_FLAGS) == len(SCHEDULE_FLAGS)


@pytest.mark.parametrize(("optimizer", "schedule"), [*zip(OPTIMIZER_FLAGS, SCHEDULE_FLAGS, strict=True)])
def test_it_goes_on_as_if_it_had_not_been_stopped(
    optimizer: str, schedule: str, train: Command, tmp_path: Path
) -> None:
    """The file of the middle of the second epoch is all that is left of a run."""
    words = ["--optimizer", optimizer, *shlex.split(OPTIMIZER_FLAGS[optimizer]), "--max-update", 30]
    words += ["--lr-scheduler", schedule, *shlex.split(SCHEDULE_FLAGS[schedule]), "--save-interval-updates", 20]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *words).code == 0
    parts.mkdir()
    (middle,) = whole.glob("checkpoint_*_20.pt")
    middle.rename(parts / "checkpoint_last.pt")
    resumed = train(parts, *words)
    assert resumed.code == 0, resumed.err
    assert any("20 updates done" in line for line in resumed.log)
    assert_same_run(last(whole), last(parts))
