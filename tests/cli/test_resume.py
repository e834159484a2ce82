"""A run that was stopped and resumed equals one that was not, bit for bit."""

import shlex
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.checkpoints.format import Checkpoint, load_checkpoint
from fairseq.runtime.interrupts import Interrupted
from tests.builders.tiny_lm import Command

ADAM = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--lr", "0.01")
NAG = ("--optimizer", "nag", "--lr", "0.5", "--clip-norm", "0.1")
SCHEDULE = shlex.split("--lr-scheduler cosine --warmup-updates 5 --lr-period-updates 40 --t-mult 2 --max-update 30")
DROPOUT = shlex.split("--dropout 0.3 --attention-dropout 0.1 --activation-dropout 0.1 --adaptive-softmax-dropout 0.2")


def assert_equal(a: Any, b: Any, where: str) -> None:
    """Compares nested states; tensors to the bit."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def assert_same_run(one: Checkpoint, other: Checkpoint) -> None:
    assert_equal(dict(one.state), dict(other.state), "weights")
    assert one.optimizer_state is not None
    assert other.optimizer_state is not None
    assert_equal(dict(one.optimizer_state), dict(other.optimizer_state), "optimizer")
    assert one.num_updates == other.num_updates
    for name in ("train_iterator", "epoch_batches", "best", "best_of", "val_loss", "validations_since_best"):
        assert one.extra_state[name] == other.extra_state[name], name


def last(save_dir: Path) -> Checkpoint:
    return load_checkpoint(save_dir / "checkpoint_last.pt")


@pytest.mark.parametrize("optimizer", [ADAM, NAG], ids=["adam", "nag"])
@pytest.mark.parametrize("stop", [7, 24], ids=["in the first epoch", "in the second epoch"])
def test_a_run_stopped_in_mid_epoch_goes_on_as_if_it_had_not_been(
    train: Command, tmp_path: Path, optimizer: tuple[str, ...], stop: int
) -> None:
    words = (*optimizer, *SCHEDULE, *DROPOUT, "--save-interval-updates", 10)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *words).code == 0
    # --lr-period-updates is given, so that --max-update does not change the schedule.
    # The stop validates once more than the whole run does, and that is the only trace it may leave.
    assert train(parts, *words, "--max-update", stop, "--disable-validation").code == 0
    iterator = last(parts).extra_state["train_iterator"]
    assert iterator["iterations_in_epoch"] > 0, "the stop is meant to be inside an epoch"
    resumed = train(parts, *words)
    assert any(f"{stop} updates done" in line for line in resumed.log)
    one, other = last(whole), last(parts)
    assert_equal(dict(one.state), dict(other.state), "weights")
    assert_equal(one.optimizer_state, other.optimizer_state, "optimizer")
    assert one.extra_state["train_iterator"] == other.extra_state["train_iterator"]
    assert one.num_updates == other.num_updates == 30


@pytest.mark.parametrize("update_freq", [1, 3])
def test_a_run_killed_after_a_save_in_mid_epoch(train: Command, tmp_path: Path, update_freq: int) -> None:
    """Takes a file of the middle of an epoch as all that is left of a run."""
    words = (*ADAM, *SCHEDULE, *DROPOUT, "--save-interval-updates", 5, "--update-freq", update_freq)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *words).code == 0
    survivors = sorted(whole.glob("checkpoint_*_*.pt"))
    parts.mkdir()
    (parts / "checkpoint_last.pt").write_bytes(survivors[0].read_bytes())
    assert train(parts, *words).code == 0
    assert_same_run(last(whole), last(parts))


def test_a_run_stopped_at_the_end_of_an_epoch(train: Command, tmp_path: Path) -> None:
    words = (*ADAM, *DROPOUT, "--lr-scheduler", "fixed")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *words, "--max-epoch", 3).code == 0
    for epoch in (1, 2, 3):
        assert train(parts, *words, "--max-epoch", epoch).code == 0
    assert_same_run(last(whole), last(parts))


def test_a_run_that_is_over_changes_nothing(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-update", 4).code == 0
    before = last(tmp_path)
    again = train(tmp_path, "--max-update", 4)
    assert again.code == 0
    assert_same_run(before, last(tmp_path))
    assert any("done training" in line and "4 updates" in line for line in again.log)


def test_two_runs_with_one_seed_are_equal_and_two_seeds_differ(train: Command, tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert train(tmp_path / name, "--max-update", 4, "--seed", seed).code == 0
        runs.append(last(tmp_path / name))
    assert_same_run(runs[0], runs[1])
    word_vectors = [run.state["decoder.embed_tokens.embeddings.0.0.weight"] for run in runs]
    assert not torch.equal(word_vectors[0], word_vectors[2])


def test_restore_file_takes_any_checkpoint(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path / "a", "--max-update", 4).code == 0
    (tmp_path / "a" / "checkpoint_last.pt").rename(tmp_path / "elsewhere.pt")
    resumed = train(tmp_path / "b", "--max-update", 6, "--restore-file", tmp_path / "elsewhere.pt")
    assert resumed.code == 0
    assert any("resumed from" in line and "4 updates done" in line for line in resumed.log)
    assert last(tmp_path / "b").num_updates == 6


def test_resets(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path / "a", "--max-update", 15).code == 0
    start = last(tmp_path / "a")
    fresh = ["--reset-optimizer", "--reset-lr-scheduler", "--reset-dataloader", "--reset-meters"]
    words = ("--restore-file", tmp_path / "a" / "checkpoint_last.pt", "--optimizer", "nag", "--lr", "0", *fresh)
    outcome = train(tmp_path / "b", "--max-update", 1, *words)
    assert any("epoch 1, 0 updates done" in line for line in outcome.log)
    end = last(tmp_path / "b")
    assert end.num_updates == 1
    assert end.extra_state["train_iterator"] == {"epoch": 1, "iterations_in_epoch": 1, "shuffle": True}
    assert_equal(dict(start.state), dict(end.state), "weights after an update at learning rate 0")


def test_another_optimizer_needs_a_reset(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-update", 2).code == 0
    error = train(tmp_path, "--max-update", 4, "--optimizer", "nag").error
    assert "has the state of optimizer adam, but --optimizer is nag; --reset-optimizer starts a new one" in error


def test_a_checkpoint_without_optimizer_state_needs_a_reset(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-update", 2, "--no-save-optimizer-state").code == 0
    assert last(tmp_path).optimizer_state is None
    assert "has no optimizer state; --reset-optimizer" in train(tmp_path, "--max-update", 4).error
    assert train(tmp_path, "--max-update", 4, "--reset-optimizer").code == 0


def test_another_model_does_not_resume(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-update", 2).code == 0
    error = train(tmp_path, "--max-update", 4, "--decoder-layers", 3).error
    assert "do not fit the model that the flags describe: decoder.layers.2" in error
    assert "give the flags that it was trained with, or another --save-dir" in error


@pytest.mark.parametrize(("make", "words"), [("nothing", "does not exist"), ("directory", "is a directory")])
def test_a_restore_file_that_is_none(train: Command, tmp_path: Path, make: str, words: str) -> None:
    path = tmp_path / "x.pt"
    if make == "directory":
        path.mkdir()
    error = train(tmp_path / "b", "--max-update", 2, "--restore-file", path).error
    assert error == f"checkpoint {path} {words}; give --path (or --restore-file) the file of a checkpoint"


def test_a_torn_restore_file(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-update", 2).code == 0
    path = tmp_path / "checkpoint_last.pt"
    path.write_bytes(path.read_bytes()[:2000])
    assert train(tmp_path, "--max-update", 4).error.startswith(f"{path} ")


def test_typed_hyperparameters_hold_after_a_resume(train: Command, tmp_path: Path) -> None:
    """The file's state goes on; momentum and weight decay are the flags'."""
    assert train(tmp_path, *NAG, "--max-update", 3).code == 0
    assert train(tmp_path, *NAG, "--max-update", 4, "--momentum", 0.5, "--weight-decay", 0.01).code == 0
    state = last(tmp_path).optimizer_state
    assert state is not None
    assert (state["param_groups"][0]["momentum"], state["param_groups"][0]["weight_decay"]) == (0.5, 0.01)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("", "update 1 is saved in {}/checkpoint_last.pt, and the same command goes on from there"),
        ("--no-save", "nothing was saved, as the flags say"),
        ("--no-last-checkpoints", "nothing was saved, as the flags say"),
    ],
)
def test_a_run_that_is_asked_to_stop_says_what_it_saved(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, advice: str
) -> None:
    monkeypatch.setattr("fairseq.train.loop.asked_to_stop", lambda: True)
    outcome = train(tmp_path, *words.split(), "--max-update", 9)
    assert outcome.code == 143
    assert outcome.err.endswith(f"stopped by SIGTERM; {advice.format(tmp_path)}\n")
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ([] if words else ["checkpoint_last.pt"])


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_exit_code_is_that_of_the_signal(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals, code: int
) -> None:
    def ask() -> bool:
        signal.raise_signal(signum)
        return True

    monkeypatch.setattr("fairseq.train.loop.asked_to_stop", ask)
    outcome = train(tmp_path, "--max-update", 9)
    assert outcome.code == code and f"stopped by {signum.name}; update 1 is saved" in outcome.err


def test_a_run_that_is_asked_to_stop_while_it_validates_makes_up_for_it(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(items: Iterable[Any]) -> Iterator[Any]:
        yield next(iter(items))
        raise Interrupted(signal.SIGTERM, between_steps=True)

    with monkeypatch.context() as patch:
        patch.setattr("fairseq.validate.validation.checked", stop)
        outcome = train(tmp_path, "--max-update", 3)
        assert outcome.code == 143
        assert "update 3 is saved in" in outcome.err
    assert last(tmp_path).extra_state["best"] is None
    assert len(train(tmp_path, "--max-update", 3).floats(r"valid \| loss ([\d.]+)")) == 1
    assert (tmp_path / "checkpoint_best.pt").exists()
