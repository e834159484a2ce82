"""--lr-scheduler reduce_lr_on_plateau: the rate follows the validations, in a run that is stopped as well."""

import shlex
from pathlib import Path

import pytest

from tests.builders.tiny_lm import Command, batches_in_an_epoch
from tests.cli.test_resume import assert_same_run, last

# Nothing is 90 % better than the first validation, so that the rate is halved after every further one.
PLATEAU = shlex.split("--lr-scheduler reduce_lr_on_plateau --lr-threshold 0.9 --lr-shrink 0.5 --lr 0.01")


def rates(outcome: object) -> list[float]:
    return outcome.floats(r"\| lr ([\d.e-]+)")  # type: ignore[attr-defined,no-any-return]


def test_the_rate_is_halved_after_every_epoch_that_finds_nothing_better(
    train: Command, data_dir: Path, tmp_path: Path
) -> None:
    outcome = train(tmp_path, *PLATEAU, "--max-epoch", 4, "--log-interval", 1)
    assert list(dict.fromkeys(rates(outcome))) == [0.01, 0.005, 0.0025]
    history = last(tmp_path).extra_state["validations"]
    assert [number for number, _ in history] == [n * batches_in_an_epoch(data_dir) for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "stop",
    ["--max-update 20", "--max-epoch 3", "--max-update 45 --save-interval-updates 5"],
    ids=[
        "in the middle of an epoch",
        "after an epoch that is not validated otherwise",
        "after a validation in between",
    ],
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(train: Command, tmp_path: Path, stop: str) -> None:
    words = (*PLATEAU, "--validate-interval", 2, "--max-epoch", 7)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    complete = train(whole, *words)
    assert train(parts, *words, *shlex.split(stop)).code == 0
    resumed = train(parts, *words)
    assert resumed.code == 0
    one, other = last(whole), last(parts)
    assert one.extra_state["validations"] == other.extra_state["validations"] != []
    assert rates(complete)[-1] == rates(resumed)[-1] == 0.0025
    for name in (
        "best",
        "validations_since_best",
        "val_loss",
    ):  # the stop validates once more, of which nothing is left
        one.extra_state[name] = other.extra_state[name] = None  # type: ignore[index]
    assert_same_run(one, other)


def shrunk(train: Command, save_dir: Path, *words: object) -> object:
    """Returns what a run said that goes on after three epochs, at a quarter of its rate."""
    assert train(save_dir, *PLATEAU, "--max-epoch", 3).code == 0
    return train(save_dir, *PLATEAU, "--max-epoch", 4, "--log-interval", 1, *words)


@pytest.mark.parametrize(
    ("words", "rate", "warned"),
    [
        ("", 0.0025, False),
        ("--reset-meters", 0.0025, False),
        ("--reset-lr-scheduler", 0.01, False),
        ("--nval 1", 0.01, True),
        ("--nval 1 --reset-lr-scheduler", 0.01, False),
    ],
)
def test_what_the_schedule_knows_belongs_to_it(
    train: Command, tmp_path: Path, words: str, rate: float, warned: bool
) -> None:
    outcome = shrunk(train, tmp_path, *shlex.split(words))
    assert rates(outcome)[0] == rate
    said = [line for line in outcome.warnings if line.startswith("the learning rate is 0.01 again, not 0.0025: ")]  # type: ignore[attr-defined]
    assert len(said) == warned
    assert not any("--reset-lr-scheduler" in line for line in outcome.warnings)  # type: ignore[attr-defined]


def test_it_needs_validations(train: Command, tmp_path: Path) -> None:
    error = train(tmp_path, *PLATEAU, "--disable-validation", "--max-epoch", 1).error
    assert error == "--lr-scheduler reduce_lr_on_plateau needs validations; leave out --disable-validation"


def test_maximising_is_handed_on(train: Command, tmp_path: Path) -> None:
    """The loss falls, so that no epoch is better than the first."""
    words = (*PLATEAU, "--lr-threshold", 0, "--max-epoch", 3, "--maximize-best-checkpoint-metric")
    assert rates(train(tmp_path, *words))[-1] == 0.005


def test_a_new_optimizer_forgets_the_validations(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path / "a", *PLATEAU, "--max-epoch", 3).code == 0
    start = ("--restore-file", tmp_path / "a" / "checkpoint_last.pt", "--reset-optimizer", "--reset-dataloader")
    outcome = train(tmp_path / "b", *PLATEAU, *start, "--max-epoch", 1)
    assert rates(outcome)[-1] == 0.01
    assert len(last(tmp_path / "b").extra_state["validations"]) == 1
