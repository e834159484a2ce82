"""When training validates, on what, and what it keeps of it; and that a resumed run repeats all of it."""

import math
import re
import shlex
import shutil
from pathlib import Path

import pytest

from fairseq.checkpoints.format import load_checkpoint
from fairseq.train import length
from tests.builders.tiny_lm import EOS, TRAINED, Command, Outcome, batches_in_an_epoch, make_sentences, write_split
from tests.cli.test_resume import assert_same_run, last


def validations(outcome: Outcome, split: str = "valid") -> list[int]:
    """Returns after how many updates a split was validated on."""
    assert outcome.code == 0, outcome.err
    return [int(number) for number in outcome.floats(rf"\| {split} \|.*num_updates (\d+)")]


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*.pt")}


def test_validations_apart_from_saves_keep_the_best_alone(train: Command, tmp_path: Path) -> None:
    outcome = train(
        tmp_path, "--max-update", 9, "--validate-interval-updates", 2, "--lr", "0.1", "--no-epoch-checkpoints"
    )
    assert validations(outcome) == [2, 4, 6, 8, 9]
    losses = outcome.floats(r"\| valid \| loss ([\d.]+)")
    best = (2, 4, 6, 8, 9)[losses.index(min(losses))]
    assert files(tmp_path) == {"checkpoint_best.pt", "checkpoint_last.pt"}
    assert load_checkpoint(tmp_path / "checkpoint_best.pt").num_updates == best
    assert last(tmp_path).extra_state["best"] == pytest.approx(min(losses), rel=1e-5)
    saves = [line for line in outcome.log if line.startswith("saved")]
    assert all(line.startswith("saved checkpoint_best.pt in") for line in saves[:-1])


def test_the_end_of_an_epoch_is_such_a_validation_too(train: Command, data_dir: Path, tmp_path: Path) -> None:
    n = batches_in_an_epoch(data_dir)
    outcome = train(tmp_path, "--max-epoch", 3, "--validate-interval", 9, "--validate-interval-updates", n)
    assert validations(outcome) == [n, 2 * n, 3 * n]


def test_nothing_is_validated_before_its_time(train: Command, tmp_path: Path) -> None:
    words = ("--max-update", 7, "--validate-interval-updates", 2, "--validate-after-updates", 5)
    assert validations(train(tmp_path, *words)) == [6, 7]


def test_a_run_that_ends_before_that_is_saved_without_a_best(train: Command, tmp_path: Path) -> None:
    assert validations(train(tmp_path, "--max-update", 3, "--validate-after-updates", 4)) == []
    assert files(tmp_path) == {"checkpoint_last.pt"}


def test_patience_counts_them_and_the_run_is_saved_when_it_stops(train: Command, tmp_path: Path) -> None:
    words = ("--max-update", 30, "--validate-interval-updates", 2, "--patience", 2, "--lr", "0")
    outcome = train(tmp_path, *words)
    assert validations(outcome) == [2, 4, 6]
    assert last(tmp_path).num_updates == 6
    assert any("stopping: 2 validations without a better loss" in line for line in outcome.log)


@pytest.mark.parametrize("survivor", ["checkpoint_last.pt", pytest.param("checkpoint_1_4.pt", marks=pytest.mark.slow)])
def test_a_killed_run_repeats_them(train: Command, data_dir: Path, tmp_path: Path, survivor: str) -> None:
    """All that is left of the run is a file of an early save: the rest is made again, to the bit."""
    words = shlex.split(
        "--max-update 25 --validate-interval-updates 3 --validate-after-updates 5 --save-interval-updates 4 --nval 2"
        " --batch-size-valid 3 --curriculum 1 --patience 9 --keep-interval-updates 3 --keep-interval-updates-pattern 12"
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *words, "--keep-interval-updates", 99).code == 0
    parts.mkdir()
    shutil.copyfile(whole / "checkpoint_1_4.pt", parts / "checkpoint_last.pt")
    if survivor == "checkpoint_1_4.pt":  # the run got on, validated, and was killed before the next save
        shutil.copyfile(whole / "checkpoint_best.pt", parts / "checkpoint_best.pt")
    assert train(parts, *words).code == 0
    assert_same_run(last(whole), last(parts))
    assert_same_run(*(load_checkpoint(path / "checkpoint_best.pt") for path in (whole, parts)))
    epoch_of = {n: 1 + n // batches_in_an_epoch(data_dir) for n in (12, 16, 20, 24)}
    kept = {name for name in files(parts) if re.match(r"checkpoint_\d", name)}
    assert kept == {f"checkpoint_{epoch}_{n}.pt" for n, epoch in epoch_of.items()}


def test_a_part_of_the_split_has_a_best_of_its_own(train: Command, tmp_path: Path) -> None:
    whole = train(tmp_path, "--max-update", 2)
    part = train(tmp_path, "--max-update", 4, "--max-valid-steps", 1)
    assert any("validation is on a part of the split" in line for line in part.log)
    assert any("is forgotten" in warning and "shortest of its blocks" in warning for warning in part.warnings)
    assert not whole.warnings


def test_splits_with_numbers_are_put_together(command: Command, data_dir: Path, tmp_path: Path) -> None:
    """Oracle: the same sentences in one file."""
    parts, one = (shutil.copytree(data_dir, tmp_path / name) for name in ("parts", "one"))
    sentences = make_sentences(40, seed=7)
    for name, some in (("valid", sentences[:25]), ("valid1", sentences[25:31]), ("valid2", sentences[31:])):
        write_split(parts / name, some)
    write_split(parts / "valid4", [[4, EOS]])  # after a gap
    write_split(one / "valid", sentences)

    def best(data: Path, *words: str) -> tuple[float, Outcome]:
        save_dir = tmp_path / f"{data.name}{len(words)}"
        outcome = command("fairseq-train", data, "--save-dir", save_dir, *TRAINED, "--max-update", 3, *words)
        assert outcome.code == 0 and not outcome.warnings, "a split that is not asked for is no reason to warn"
        return last(save_dir).extra_state["best"], outcome

    together, outcome = best(parts, "--combine-val")
    assert any("'valid' is 3 texts" in line for line in outcome.log)
    assert together == best(one, "--combine-val")[0] == best(one)[0]
    assert together != best(parts)[0]


def test_time_that_is_over_ends_the_run_as_another_bound_does(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look at the clock is a second, so that the number of updates is known."""
    clock = iter(range(10**6))
    monkeypatch.setattr(length.time, "monotonic", lambda: float(next(clock)))
    words = ("--max-epoch", 99, "--stop-time-hours", 60 / 3600)
    outcome = train(tmp_path, *words)
    stopped = last(tmp_path)
    assert any("stopping: the 0.0166667 hours of --stop-time-hours are over" in line for line in outcome.log)
    assert validations(outcome)[-1] == stopped.num_updates
    assert 60 <= stopped.extra_state["previous_training_time"] < 120
    again = train(tmp_path, *words)
    assert any("done training" in line and f"{stopped.num_updates} updates" in line for line in again.log)
    assert last(tmp_path).num_updates == stopped.num_updates
    longer = train(tmp_path, "--max-epoch", 99, "--stop-time-hours", 100 / 3600)
    assert longer.code == 0
    assert 100 <= last(tmp_path).extra_state["previous_training_time"] < 160
    assert last(tmp_path).num_updates > stopped.num_updates


def test_a_run_that_counts_no_time_stores_none(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-update", 1).code == 0
    assert "previous_training_time" not in last(tmp_path).extra_state


def test_a_curriculum_begins_with_short_blocks(train: Command, tmp_path: Path) -> None:
    """Blocks of a line each: the first update of an epoch in order has the shortest, one of the others hardly ever."""
    words = ("--sample-break-mode", "eos", "--max-epoch", 2, "--log-interval", 1, "--batch-size", 8, "--curriculum", 1)
    outcome = train(tmp_path, *words)
    tokens = {epoch: outcome.floats(rf"epoch 00{epoch}: .*wpb ([\d.]+)") for epoch in (1, 2)}
    assert len(tokens[1]) == len(tokens[2]) > 5
    assert tokens[1][:-1] == sorted(tokens[1][:-1])
    assert tokens[2][:-1] != sorted(tokens[2][:-1])
    assert math.isclose(sum(tokens[1]), sum(tokens[2]), rel_tol=1e-3)


def test_short_spellings(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path / "a", "--mu", 2, "--me", 9, "--learning-rate", "0.02")
    assert outcome.code == 0 and not outcome.warnings
    assert last(tmp_path / "a").num_updates == 2
    assert load_checkpoint(tmp_path / "a" / "checkpoint_last.pt").fields["lr"] == [0.02]


def test_settings_of_the_optimizer_are_replaced_in_a_new_run_and_in_one_that_goes_on(
    train: Command, tmp_path: Path
) -> None:
    """Oracle: the flags that the settings are of."""
    overrides = ("--optimizer-overrides", "{'weight_decay': 0.25, 'betas': [0.5, 0.75], 'lr': 3}")
    outcome = train(tmp_path / "a", "--max-update", 2, *overrides)
    assert ["'lr' has no effect" in warning for warning in outcome.warnings] == [True]
    assert train(tmp_path / "a", "--max-update", 4, *overrides).code == 0
    assert train(tmp_path / "b", "--max-update", 4, "--weight-decay", 0.25, "--adam-betas", "0.5,0.75").code == 0
    assert_same_run(last(tmp_path / "a"), last(tmp_path / "b"))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("{'wd': 1}", "wd"),
        ("{'weight_decay': 'x'}", "'weight_decay' must be like 0.0, which it replaces, but is 'x'"),
        ("{'betas': (1,)}", "'betas' must be like (0.9, 0.999), which it replaces, but is (1,)"),
        ("{'amsgrad': True}", "amsgrad"),
        ("0.1", "--optimizer-overrides must be a dict"),
    ],
)
def test_settings_that_the_optimizer_has_not(train: Command, tmp_path: Path, typed: str, said: str) -> None:
    error = train(tmp_path, "--max-update", 2, "--optimizer-overrides", typed).error
    assert "--optimizer-overrides" in error and said in error
