"""How a run begins: from nothing, a checkpoint, or with resets; and that it begins once, however often it is killed."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.checkpoints.format import Checkpoint, load_checkpoint
from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import TRAINED, Command, batches_in_an_epoch, main_of, make_sentences, write_split

ALL_RESETS = shlex.split("--reset-optimizer --reset-lr-scheduler --reset-dataloader --reset-meters")


def last(save_dir: Path) -> Checkpoint:
    return load_checkpoint(save_dir / "checkpoint_last.pt")


def at(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Returns the epoch, the batches done of it, and the updates."""
    iterator = checkpoint.extra_state["train_iterator"]
    return iterator["epoch"], iterator["iterations_in_epoch"], checkpoint.num_updates


def contents(save_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in save_dir.iterdir()}


@pytest.fixture(scope="session")
def base(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the checkpoint of a run that stands at batch 4 of epoch 2."""
    save_dir, updates = tmp_path_factory.mktemp("base"), batches_in_an_epoch(data_dir) + 4
    words = [data_dir, "--save-dir", save_dir, *TRAINED, "--max-update", updates, "--no-epoch-checkpoints"]
    assert run("fairseq-train", main_of("fairseq-train"), list(map(str, words))) == 0
    return save_dir / "checkpoint_last.pt"


# Resets


@pytest.mark.parametrize(
    ("flags", "forgets_updates", "forgets_position", "forgets_best"),
    [
        ("", False, False, False),
        ("--reset-optimizer", True, False, True),
        ("--reset-lr-scheduler", False, False, False),
        ("--reset-dataloader", False, True, False),
        ("--reset-meters", False, False, True),
        ("--finetune-from-model", True, True, True),
    ],
)
@pytest.mark.pitfall(27)
def test_what_a_reset_forgets_is_what_fairseq_0_12_forgets(
    train: Command,
    base: Path,
    tmp_path: Path,
    flags: str,
    forgets_updates: bool,
    forgets_position: bool,
    forgets_best: bool,
) -> None:
    """The table is what a run of fairseq 0.12 said of each: epoch, updates, and whether it still knew a best loss."""
    epoch, position, updates = at(load_checkpoint(base))
    assert (epoch, position) == (2, 4)
    words = (
        ["--finetune-from-model", base]
        if flags == "--finetune-from-model"
        else ["--restore-file", base, *flags.split()]
    )
    stop = 1 if forgets_updates else updates + 1
    # At this rate the loss is worse than the best so far, which only a run that has forgotten it calls its best.
    outcome = train(tmp_path / "run", *words, "--optimizer", "adam", "--lr", 3, "--max-update", stop)
    assert at(last(tmp_path / "run")) == ((1, 1) if forgets_position else (2, 5)) + (stop,)
    assert (tmp_path / "run" / "checkpoint_best.pt").exists() == forgets_best
    assert bool(outcome.warnings) == (flags == "--reset-lr-scheduler")


@pytest.mark.parametrize("flag", ["--reset-optimizer", "--reset-meters"])
def test_a_reset_forgets_the_patience(train: Command, tmp_path: Path, flag: str) -> None:
    words = ["--maximize-best-checkpoint-metric", "--patience", 2, "--no-epoch-checkpoints"]
    assert train(tmp_path / "a", *words, "--max-epoch", 9).code == 0
    stopped = last(tmp_path / "a")
    assert stopped.extra_state["validations_since_best"] == 2
    words += ["--restore-file", tmp_path / "a" / "checkpoint_last.pt", "--max-epoch", 4]
    assert train(tmp_path / "b", *words, flag).code == 0
    assert at(last(tmp_path / "b"))[0] == 5, "one more epoch"


def test_a_best_that_is_no_number_is_none(train: Command, base: Path, tmp_path: Path) -> None:
    raw = torch.load(base, weights_only=False)
    raw["extra_state"]["best"] = float("nan")
    torch.save(raw, tmp_path / "nan.pt")
    assert train(tmp_path / "run", "--restore-file", tmp_path / "nan.pt", "--max-epoch", 2).code == 0
    assert (tmp_path / "run" / "checkpoint_best.pt").exists()


@pytest.mark.parametrize(
    "change", ["--best-checkpoint-metric ppl", "--maximize-best-checkpoint-metric", "--valid-subset test"]
)
def test_the_best_of_another_metric_or_text_is_forgotten(
    train: Command, base: Path, tmp_path: Path, change: str
) -> None:
    words = ["--restore-file", base, "--max-epoch", 2, "--lr", 3 if "maximize" not in change else 0.01]
    outcome = train(tmp_path / "run", *words, *change.split())
    assert any(line.startswith("the best so far, the lowest loss of 'valid' (") for line in outcome.warnings)
    assert (tmp_path / "run" / "checkpoint_best.pt").exists()


def test_the_best_is_that_of_the_first_split(train: Command, base: Path, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--restore-file", base, "--max-update", 14, "--valid-subset", "valid,test")
    assert outcome.code == 0
    assert not outcome.warnings


def test_epochs_are_counted_from_1(train: Command, base: Path, tmp_path: Path) -> None:
    raw = torch.load(base, weights_only=False)
    raw["extra_state"]["train_iterator"] = {"epoch": 0, "iterations_in_epoch": 0}
    torch.save(raw, tmp_path / "0.pt")
    assert train(tmp_path / "run", "--restore-file", tmp_path / "0.pt", "--max-update", 14).code == 0
    assert at(last(tmp_path / "run")) == (1, 1, 14)


# Positions


@pytest.fixture
def other_data(data_dir: Path, tmp_path: Path) -> Path:
    """Returns a data directory with another, shorter training text over the same dictionary."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("dict.txt", "valid.bin", "valid.idx"):
        (other / name).write_bytes((data_dir / name).read_bytes())
    write_split(other / "train", make_sentences(60, seed=9))
    return other


@pytest.mark.pitfall(28)
def test_a_position_on_other_data_begins_the_epoch_anew(
    command: Command, base: Path, other_data: Path, tmp_path: Path
) -> None:
    words = [other_data, "--save-dir", tmp_path / "run", *TRAINED, "--restore-file", base, "--max-epoch", "2"]
    outcome = command("fairseq-train", *words)
    assert [line for line in outcome.warnings if line.startswith("epoch 2 begins anew: the 4 batches")]
    assert last(tmp_path / "run").num_updates == load_checkpoint(base).num_updates + batches_in_an_epoch(other_data)


@pytest.mark.pitfall(28)
@pytest.mark.parametrize("change", ["--max-tokens 64", "--tokens-per-sample 8", "--seed 2"])
def test_a_position_among_other_batches_begins_the_epoch_anew(
    train: Command, base: Path, tmp_path: Path, change: str
) -> None:
    words = [*change.split(), "--log-format", "json", "--log-interval", 1]
    outcome = train(tmp_path / "run", "--restore-file", base, "--max-epoch", 2, *words)
    assert any(line.startswith("epoch 2 begins anew") for line in outcome.warnings)
    first = next(json.loads(line) for line in outcome.log if line.startswith('{"stage"'))
    made = last(tmp_path / "run").num_updates - load_checkpoint(base).num_updates
    assert (first["done"], first["total"]) == (1, made)


def test_an_epoch_that_was_complete_is_not_repeated_on_other_data(
    command: Command, train: Command, other_data: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The run stops at the last batch of an epoch, before the validation that is due there."""
    updates = batches_in_an_epoch(data_dir)
    assert train(tmp_path / "a", "--max-update", updates, "--no-epoch-checkpoints").code == 0
    words = [other_data, "--save-dir", tmp_path / "a", *TRAINED, "--max-update", updates + 1]
    assert not command("fairseq-train", *words).warnings
    assert at(last(tmp_path / "a")) == (2, 1, updates + 1)


# One beginning, however often the run is killed


class Killed(SystemExit):
    """What stands for ``kill -9`` here: no handler of ours catches it."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns ``killed_at(n)``: the run ends right before (n odd) or after its save number n // 2."""
    import fairseq.train.loop as loop

    original = loop.write_all

    def arrange(number: int) -> None:
        calls = 0

        def write_all(*arguments: Any, **named: Any) -> None:
            nonlocal calls
            calls += 1
            if 2 * calls - 1 == number:
                raise Killed
            original(*arguments, **named)
            if 2 * calls == number:
                raise Killed

        monkeypatch.setattr(loop, "write_all", write_all)

    yield arrange
    monkeypatch.setattr(loop, "write_all", original)


BEGINNINGS = {
    "nothing": [],
    "another checkpoint": ["--restore-file", "X"],
    "another checkpoint with resets": ["--restore-file", "X", *ALL_RESETS],
    "fine-tuning": ["--finetune-from-model", "X"],
    "its own checkpoint with resets": ["--reset-optimizer", "--reset-dataloader"],
    "its own best": ["--restore-file", "OUT/checkpoint_best.pt", "--reset-optimizer", "--reset-dataloader"],
}

QUICK = ("another checkpoint with resets", "its own best")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in BEGINNINGS],
)
def test_the_same_command_goes_on_after_every_kill(
    train: Command, base: Path, data_dir: Path, tmp_path: Path, killed_at: Any, kind: str
) -> None:
    words = [word.replace("X", str(base)) for word in BEGINNINGS[kind]]
    # Three updates after the beginning; a save after each, the best under its name, an old one deleted.
    updates = (
        3
        if "--reset-optimizer" in words or "--finetune-from-model" in words or not words
        else at(load_checkpoint(base))[2] + 3
    )
    words += shlex.split(f"--max-update {updates} --save-interval-updates 1 --keep-interval-updates 2 --lr 0.02")

    def prepared(name: str) -> tuple[Path, list[str]]:
        # As a user has it: the same words each time, in another place.
        out = tmp_path / name / "out"
        out.mkdir(parents=True)
        if "its own" in kind:
            for each in base.parent.iterdir():
                (out / each.name).write_bytes(each.read_bytes())
        return out, [word.replace("OUT", "out") for word in words]

    with pytest.MonkeyPatch.context() as patch:
        whole, flags = prepared("whole")
        patch.chdir(whole.parent)
        assert train("out", *flags).code == 0
        for number in (1, 2, 5):
            out, flags = prepared(str(number))
            patch.chdir(out.parent)
            killed_at(number)
            with pytest.raises(Killed):
                train("out", *flags)
            killed_at(0)
            assert train("out", *flags).code == 0
            assert contents(out) == contents(whole), number


def test_resets_that_were_applied_are_not_applied_again(train: Command, base: Path, tmp_path: Path) -> None:
    words = ["--restore-file", base, "--reset-optimizer"]
    assert train(tmp_path, *words, "--max-update", 2).code == 0
    again = train(tmp_path, *words, "--max-update", 4)
    assert any(line.endswith(f"began from {base} (--reset-optimizer), and goes on") for line in again.log)
    assert any("epoch 2, 2 updates done" in line for line in again.log)


# Files of others


def test_another_beginning_in_the_directory_of_a_run_is_refused(train: Command, base: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--max-update", 2, "--lr", 0.02).code == 0
    before = contents(tmp_path / "run")
    for words in (["--restore-file", base], ["--finetune-from-model", base]):
        error = train(tmp_path / "run", *words, "--lr", 0.02, "--max-update", 60).error
        assert f"its run did not begin from {base}" in error
        assert f"give another --save-dir to begin from {base}" in error
        assert f"or leave {words[0]} out to go on from checkpoint_last.pt" in error
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("change", ["--lr 0.02", "--reset-meters", "--seed 3"])
def test_another_command_from_the_same_checkpoint_is_refused(
    train: Command, base: Path, tmp_path: Path, change: str
) -> None:
    words = ["--restore-file", base, "--reset-optimizer", "--reset-dataloader", "--max-update", 2]
    assert train(tmp_path / "run", *words).code == 0
    assert "give another --save-dir" in train(tmp_path / "run", *words, *change.split()).error


def test_a_run_goes_back_to_an_own_checkpoint(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-update", 6, "--save-interval-updates", 2).code == 0
    outcome = train(tmp_path, "--max-update", 8, "--restore-file", tmp_path / "checkpoint_1_2.pt", "--lr", 0.02)
    assert any("1, 2 updates done" in line for line in outcome.log)
    assert last(tmp_path).num_updates == 8


@pytest.mark.pitfall(30)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("checkpoint_best.pt", "another run"),
        ("checkpoint_best.pt", "an older program"),
        ("checkpoint_best.json", "another run"),
        ("checkpoint_last.json", "an older program"),
        ("checkpoint2.pt", "another run"),
        ("checkpoint_1_4.pt", "text"),
        ("checkpoint.best_loss_3.1.pt", "text"),
        ("checkpoint1.json", "text"),
    ],
)
def test_a_foreign_file_under_a_name_of_the_run_is_refused(
    train: Command, base: Path, tmp_path: Path, name: str, content: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if content == "text":
        (out / name).write_text("somebody's", encoding="utf-8")
    elif name.endswith(".json"):
        record = json.loads(base.with_suffix(".json").read_bytes())
        if content == "an older program":
            del record["extra_state"]["run"]
        (out / name).write_text(json.dumps(record), encoding="utf-8")
    else:
        raw = torch.load(base, weights_only=False)
        if content == "an older program":
            del raw["extra_state"]["run"]
        torch.save(raw, out / name)
    before = contents(out)
    words = ["--lr", 0.02, "--max-epoch", 2, "--save-interval-updates", 4, "--keep-best-checkpoints", 2]
    error = train(out, *words).error
    assert error.startswith(f"{out / name} is ")
    assert error.endswith("and this run would replace it; move it, or give another --save-dir")
    assert contents(out) == before


@pytest.mark.parametrize("name", ["checkpoint_best.pt", "checkpoint_last.pt"])
@pytest.mark.parametrize("kind", ["a link", "a dangling link", "a directory", "read-only"])
def test_what_is_not_a_plain_file_of_the_run_is_refused(
    train: Command, base: Path, tmp_path: Path, name: str, kind: str
) -> None:
    out = tmp_path / "out"
    assert train(out, "--max-update", 2).code == 0
    path = out / name
    if kind == "read-only":
        content = path.read_bytes()
        path.unlink()  # the others are links to it
        path.write_bytes(content)
        path.chmod(0o444)
    else:
        path.unlink()
        if kind == "a directory":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "nowhere.pt" if "dangling" in kind else base)
    before = base.read_bytes()
    assert f"{path} is {kind.replace('dangling ', '')}" in train(out, "--max-update", 4).error
    assert base.read_bytes() == before
    assert path.is_symlink() == ("link" in kind)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("checkpoint_best.pt", "--disable-validation"),
        ("checkpoint_last.pt", "--no-last-checkpoints --restore-file BASE"),
        ("checkpoint1.pt", "--no-epoch-checkpoints"),
        ("checkpoint1.pt", "--restore-file BASE"),
        ("checkpoint3.pt", ""),
        ("checkpoint1.pt", "--save-interval 2"),
        ("checkpoint_2_4.pt", ""),
        ("checkpoint.best_loss_3.1.pt", ""),
        ("checkpoint.best_ppl_3.1.pt", "--keep-best-checkpoints 1"),
        ("checkpoint_best.txt", ""),
        ("checkpoint_of_mine.pt", "--keep-last-epochs 0"),
    ],
)
def test_what_the_run_does_not_write_may_be_there(
    train: Command, base: Path, tmp_path: Path, name: str, words: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("somebody's", encoding="utf-8")
    if name == "checkpoint_last.pt":  # read, as the one to go on from
        assert train(out, "--max-epoch", 2, *words.replace("BASE", str(base)).split()).code == 2
    else:
        assert train(out, "--max-epoch", 2, *words.replace("BASE", str(base)).split()).code == 0
    assert (out / name).read_text(encoding="utf-8") == "somebody's"


def test_a_run_of_an_older_program_goes_on_and_deletes_nothing_of_it(
    train: Command, data_dir: Path, tmp_path: Path
) -> None:
    assert train(tmp_path, "--max-epoch", 2).code == 0
    for path in tmp_path.glob("*.pt"):
        raw = torch.load(path, weights_only=False)
        record = json.loads(path.with_suffix(".json").read_bytes())
        raw["extra_state"].pop("run", None)  # links to a file that is done already have none
        record["extra_state"].pop("run", None)
        torch.save(raw, path)
        path.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
    for epoch in (3, 4, 5):
        assert train(tmp_path, "--max-epoch", epoch, "--keep-last-epochs", 1).code == 0
    names = {path.stem for path in tmp_path.glob("*.pt")}
    assert names == {"checkpoint1", "checkpoint2", "checkpoint5", "checkpoint_best", "checkpoint_last"}
    assert load_checkpoint(tmp_path / "checkpoint_best.pt").num_updates > 2 * batches_in_an_epoch(data_dir)


def test_a_path_that_is_no_text(train: Command, tmp_path: Path) -> None:
    out = Path(f"{tmp_path}/run\udcff")
    assert train(out, "--max-update", 2).code == 0
    assert train(out, "--max-update", 4).code == 0
    assert last(out).num_updates == 4
    assert json.loads((out / "checkpoint_last.json").read_bytes())["settings"]["save_dir"] == str(out)
    assert "must be a path in UTF-8" in train(tmp_path / "b", "--tensorboard-logdir", out).error


@pytest.mark.parametrize("flag", ["--save-dir", "--tensorboard-logdir"])
@pytest.mark.parametrize("below", ["", "/x/y"])
def test_a_directory_that_is_a_file(train: Command, tmp_path: Path, flag: str, below: str) -> None:
    file = tmp_path / "file"
    file.write_text("somebody's", encoding="utf-8")
    error = train(tmp_path / "run", flag, f"{file}{below}").error
    assert error.startswith(f"{flag} {file}")
    assert error.endswith(f"must be a directory, but {file} is none; give another")
    assert not (tmp_path / "run").exists()
