"""What a command begins or goes on with, by the table in ``origin.py``, on the least files that are checkpoints."""

import json
import shlex
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fairseq.config.command_line import parse
from fairseq.errors import CheckpointError, ConfigError
from fairseq.storage.files import file_sha256
from fairseq.train.config import RESETS
from fairseq.train.origin import Origin, Run, Start, choose_start, run_from
from fairseq_cli.train import flag_groups, run_config

RESET_WORDS = {name: f"--{name.replace('_', '-')}" for name in RESETS}


def start(save_dir: Path, words: str = "") -> Start:
    typed = ["data", "--max-tokens", "64", "--save-dir", str(save_dir), *shlex.split(words)]
    return choose_start(run_config(parse("fairseq-train", "", flag_groups(), typed)))


def write(path: Path, run: Run | None, names: str = "") -> Path:
    """Writes a checkpoint of a run, which records settings of these names."""
    path.parent.mkdir(exist_ok=True)
    extra = {"best": 1.0} if run is None else {"run": run.record()}
    args = Namespace(**dict.fromkeys(names.split()))
    torch.save({"args": args, "model": {"w": torch.ones(2)}, "extra_state": extra, "name": str(path)}, path)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Returns a checkpoint of another run."""
    return write(tmp_path / "other" / "x.pt", Run("other", None))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def last_of(out: Path, run: Run | None, names: str = "") -> Path:
    """Writes ``checkpoint_last.pt``, as a run that began would leave it."""
    return write(out / "checkpoint_last.pt", run, names)


def test_a_new_run(out: Path) -> None:
    found = start(out)
    assert (found.path, found.resets) == (None, ())
    assert found.run.origin is not None
    assert (found.run.origin.file, found.run.origin.sha256, found.run.origin.resets) == ("", "", ())
    assert start(out) == found, "the same command is the same run"


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ("--max-update 7 --max-epoch 3 --stop-min-lr 0.1", True),
        ("--log-format json --log-interval 3 --tensorboard-logdir x --cpu --fp16", True),
        ("--checkpoint-activations --offload-activations --fixed-validation-seed 3", True),
        ("--optimizer nag --lr 0.25 --curriculum 0", True),  # the defaults
        ("--curriculum 1", False),
        ("--sentence-avg", False),
        ("--keep-last-epochs 3 --patience 2 --valid-subset test --skip-invalid-size-inputs-valid-test", True),
        ("--seed 2", False),
        ("--lr 0.1", False),
        ("--min-lr 0.1", False),
        ("--dropout 0.3", False),
        ("--max-tokens 65", False),
        ("--update-freq 2", False),
        ("--clip-norm 1", False),
        ("--momentum 0.5", False),
        ("--train-subset other", False),
    ],
)
def test_which_settings_make_another_run(out: Path, words: str, same: bool) -> None:
    assert (start(out).run == start(out, words).run) == same


# What the program of commit 2408501 recorded of --max-tokens 64 and these words: a hash of all settings that it had.
OLD = json.loads((Path(__file__).parent / "old_settings.json").read_text())


@pytest.mark.parametrize("words", OLD)
@pytest.mark.parametrize("more", ["", "--checkpoint-activations --max-update 9", "--sentence-avg", "--lr 0.7"])
def test_a_run_of_a_program_with_fewer_settings_goes_on(out: Path, other: Path, words: str, more: str) -> None:
    origin = Origin(OLD[words]["sha256"], str(other), file_sha256(other), ("reset_optimizer",))
    last = last_of(out, Run("of old", origin), OLD[words]["names"])
    command = f"{words} {more} --restore-file {other} --reset-optimizer"
    if more.startswith(("--lr", "--sentence")):
        with pytest.raises(CheckpointError, match="its run did not begin from"):
            start(out, command)
        return
    found = start(out, command)
    assert (found.path, found.resets, found.run.id) == (last, (), "of old")
    last_of(out, found.run, f"{OLD[words]['names']} sentence_avg curriculum")  # today's program has saved
    assert start(out, command) == found
    assert start(out, words) == found, "without what it began from"


def test_an_own_file_of_an_older_program_is_known_again(out: Path) -> None:
    """The run began from a file of its directory, and has written it anew since."""
    words = next(iter(OLD))
    own = Run("of old", Origin(OLD[words]["sha256"], str(out / "checkpoint_1_2.pt"), "0" * 64, ("reset_optimizer",)))
    write(out / "checkpoint_1_2.pt", own, OLD[words]["names"])
    last = last_of(out, own, OLD[words]["names"])
    command = f"{words} --restore-file {out}/checkpoint_1_2.pt --reset-optimizer"
    found = start(out, command)
    assert found.path == last
    assert found.run.origin is not None
    assert found.run.origin == replace(own.origin, settings=found.run.origin.settings)  # type: ignore[type-var]
    last_of(out, found.run, OLD[words]["names"])
    assert start(out, command).path == last, "the last checkpoint is today's, the other one is not"


@pytest.mark.parametrize("flag", ["--restore-file", "--finetune-from-model"])
def test_a_run_from_another_checkpoint(out: Path, other: Path, flag: str) -> None:
    resets = RESETS if flag == "--finetune-from-model" else ("reset_optimizer", "reset_meters")
    words = f"{flag} {other}" + (" --reset-meters --reset-optimizer" if flag == "--restore-file" else "")
    found = start(out, words)
    assert (found.path, found.resets) == (other, resets)
    origin = found.run.origin
    assert origin is not None
    assert (origin.file, origin.sha256, origin.resets) == (str(other), file_sha256(other), resets)
    assert found.run.id not in ("other", start(out).run.id)
    # Once it has saved, the same command goes on, also when the other checkpoint is another by now: it was begun.
    last = last_of(out, found.run)
    assert start(out, words) == Start(last, (), found.run)
    assert start(out, words + " --max-update 9") == Start(last, (), found.run)
    assert start(out) == Start(last, (), found.run)


def test_the_file_that_a_run_began_from_may_be_elsewhere_by_now(out: Path, other: Path, tmp_path: Path) -> None:
    run = start(out, f"--restore-file {other}").run
    last = last_of(out, run)
    moved = other.rename(tmp_path / "moved.pt")
    assert start(out, f"--restore-file {moved}") == Start(last, (), run)
    write(other, Run("third", None))
    with pytest.raises(CheckpointError, match="did not begin from"):
        start(out, f"--restore-file {other}")


@pytest.mark.parametrize("words", ["--lr 0.1", "--reset-meters", "--reset-optimizer --reset-dataloader"])
def test_other_settings_or_resets_are_another_run(out: Path, other: Path, words: str) -> None:
    last_of(out, start(out, f"--restore-file {other} --reset-optimizer").run)
    with pytest.raises(CheckpointError) as caught:
        start(out, f"--restore-file {other} {words}")
    given = {"--lr 0.1": "", "--reset-meters": " (--reset-meters)"}.get(
        words, " (--reset-optimizer, --reset-dataloader)"
    )
    assert str(caught.value) == (
        f"{out / 'checkpoint_last.pt'} is there, and its run did not begin from {other}{given} with these settings;"
        f" give another --save-dir to begin from {other}, or leave --restore-file out to go on from checkpoint_last.pt"
    )


def test_fine_tuning_goes_on_whatever_the_settings_but_not_from_another_model(
    out: Path, other: Path, tmp_path: Path
) -> None:
    run = start(out, f"--finetune-from-model {other}").run
    last = last_of(out, run)
    assert start(out, f"--finetune-from-model {other} --lr 0.1") == Start(last, (), run)
    moved = other.rename(tmp_path / "moved.pt")
    assert start(out, f"--finetune-from-model {moved}") == Start(last, (), run), "the same model elsewhere"
    write(other, Run("retrained", None))
    assert start(out, f"--finetune-from-model {other}") == Start(last, (), run), "another model under the same name"
    third = write(tmp_path / "third.pt", None)
    with pytest.raises(CheckpointError, match=f"did not begin from {third}; give another --save-dir"):
        start(out, f"--finetune-from-model {third}")
    with pytest.raises(CheckpointError, match="leave --finetune-from-model out"):
        start(out, f"--finetune-from-model {third}")
    last_of(out, None)
    assert start(out, f"--finetune-from-model {third}").path == last, "a run that does not say how it began"


def test_resets_of_the_own_last_checkpoint_apply_once(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = start(out).run
    last = last_of(out, first)
    found = start(out, "--reset-dataloader")
    assert (found.path, found.resets, found.run.id) == (last, ("reset_dataloader",), first.id)
    assert found.run.origin is not None
    assert (found.run.origin.file, found.run.origin.sha256) == ("checkpoint_last.pt", file_sha256(last))
    last_of(out, found.run)
    with caplog.at_level("INFO"):
        assert start(out, "--reset-dataloader") == Start(last, (), found.run)
    assert caplog.messages == [f"{last} began from checkpoint_last.pt (--reset-dataloader), and goes on"]
    assert start(out) == Start(last, (), found.run)
    assert start(out, "--reset-meters").resets == ("reset_meters",), "others have not been applied"
    assert start(out, f"--reset-dataloader --restore-file {last}") == Start(last, (), found.run), (
        "the same file by name"
    )


def test_back_to_an_own_checkpoint(out: Path) -> None:
    run = start(out).run
    last_of(out, run)
    early = write(out / "checkpoint3.pt", run)
    found = start(out, f"--restore-file {early}")
    assert (found.path, found.run.id) == (early, run.id)
    assert found.run.origin is not None
    assert found.run.origin.file == str(early)
    last = last_of(out, found.run)
    assert start(out, f"--restore-file {early}") == Start(last, (), found.run)
    write(early, found.run)  # the run has passed there again
    assert start(out, f"--restore-file {early}") == Start(last, (), found.run)


def test_an_own_checkpoint_where_the_last_one_is_lost(out: Path) -> None:
    early = write(out / "checkpoint3.pt", Run("mine", None))
    assert start(out, f"--restore-file {early}").run.id == "mine"


def test_a_run_that_saves_nothing_may_begin_from_anything(out: Path, other: Path) -> None:
    last_of(out, Run("mine", None))
    assert start(out, f"--restore-file {other} --no-save").path == other
    assert start(out, "--no-save").path == out / "checkpoint_last.pt"


def test_a_checkpoint_of_an_older_program(out: Path) -> None:
    last = last_of(out, None)
    found = start(out)
    assert (found.path, found.run.origin) == (last, None)
    assert found.run.is_unmarked
    assert start(out).run == found.run
    assert not Run("mine", None).is_unmarked


@pytest.mark.parametrize("flag", ["--restore-file", "--finetune-from-model"])
def test_a_file_that_is_not_there(out: Path, flag: str) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint /nowhere/x.pt does not exist"):
        start(out, f"{flag} /nowhere/x.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint_last.pt does not exist"):
        start(out, f"{flag} {out / 'checkpoint_last.pt'}")


@pytest.mark.parametrize("words", [*RESET_WORDS.values(), "--restore-file x.pt"])
def test_fine_tuning_goes_with_no_other_beginning(out: Path, words: str) -> None:
    with pytest.raises(ConfigError, match=f"does not go with {words.split()[0]}; leave one of them out"):
        start(out, f"--finetune-from-model x.pt {words}")


def test_a_run_comes_back_from_its_record() -> None:
    for run in (Run("a", None), Run("b", Origin("settings")), Run("c", Origin("s", "f", "h", ("reset_meters",)))):
        assert run_from(run.record()) == run


@pytest.mark.parametrize("record", [None, "a", {}, {"id": 3}])
def test_a_record_of_another_form_is_no_run(record: object) -> None:
    assert run_from(record) is None


@pytest.mark.parametrize("began", [None, 3, {}, {"resets": 3}, {"settings": "x"}])
def test_a_record_of_a_beginning_of_another_form_is_none(began: object) -> None:
    assert run_from({"id": "a", "began": began}) == Run("a", None)
