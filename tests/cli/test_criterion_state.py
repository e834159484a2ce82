"""Criterions that keep a count, or draw random numbers: a run that was stopped goes on as if it had not been."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fairseq.checkpoints.format import load_checkpoint
from fairseq.criterions import CRITERIONS
from tests.builders.tiny_lm import BATCHING, MODEL, OPTIMIZATION, Command
from tests.cli.test_resume import assert_same_run, last

PLUGIN = '''
import torch
from torch import nn
from fairseq import metrics
from fairseq.criterions import FairseqCriterion, register_criterion

class Base(FairseqCriterion):
    def nats(self, model, sample):
        log_p = model.get_normalized_probs(model(**sample["net_input"]), log_probs=True)
        target = sample["target"]
        nll = -log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        return nll.masked_fill(target == self.padding_idx, 0.0).sum()

    def told(self, loss, sample):
        size = sample["ntokens"]
        return loss, size, {"loss": loss.detach(), "ntokens": size, "sample_size": size}

@register_criterion("counting")
class Counting(Base):
    """Weighs the loss by the updates that it has seen."""
    def __init__(self, task):
        super().__init__(task)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, model, sample, reduce=True):
        self.seen += self.training
        return self.told(self.nats(model, sample) * (1 + self.seen), sample)

@register_criterion("wide")
class Wide(Counting):
    """Counts in another shape."""
    def __init__(self, task):
        super().__init__(task)
        self.register_buffer("seen", torch.zeros(2, dtype=torch.long))

    def forward(self, model, sample, reduce=True):
        return self.told(self.nats(model, sample), sample)

@register_criterion("drawing")
class Drawing(Base):
    """Adds a random number to the loss of a validation."""
    def forward(self, model, sample, reduce=True):
        loss = self.nats(model, sample)
        return self.told(loss if self.training else loss * (1 + torch.rand(())), sample)

@register_criterion("telling")
class Telling(Base):
    """Tells a number in validation alone."""
    def forward(self, model, sample, reduce=True):
        loss, size, told = self.told(self.nats(model, sample), sample)
        return loss, size, told if self.training else {**told, "bits/token": loss.detach()}

@register_criterion("texts")
class Texts(Counting):
    """Keeps no tensors."""
    def get_extra_state(self):
        return "text"

    def set_extra_state(self, state):
        pass
'''


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, command: Command, data_dir: Path, tmp_path: Path) -> Iterator[Command]:
    monkeypatch.setattr(CRITERIONS, "_entries", dict(CRITERIONS._entries))
    plugin = tmp_path / "stateful.py"
    plugin.write_text(PLUGIN)

    def call(save_dir: Path, *words: object) -> object:
        words = ("--user-dir", plugin, *MODEL, *BATCHING, *OPTIMIZATION, "--no-epoch-checkpoints", *words)
        return command("fairseq-train", data_dir, "--save-dir", save_dir, *words)

    yield call  # type: ignore[misc]
    sys.modules.pop("stateful", None)


def test_a_count_goes_on_where_it_was(train: Command, command: Command, data_dir: Path, tmp_path: Path) -> None:
    words = ("--criterion", "counting", "--max-update", 12)
    assert train(tmp_path / "whole", *words).code == 0
    assert train(tmp_path / "parts", *words, "--max-update", 5, "--disable-validation").code == 0
    assert last(tmp_path / "parts").criterion_state == {"seen": torch.tensor(5)}
    assert train(tmp_path / "parts", *words).code == 0
    assert_same_run(last(tmp_path / "whole"), last(tmp_path / "parts"))
    assert last(tmp_path / "parts").criterion_state == {"seen": torch.tensor(12)}
    path = tmp_path / "parts" / "checkpoint_last.pt"
    words = ("--path", path, "--user-dir", tmp_path / "stateful.py", "--cpu", "--log-format", "json")
    told = json.loads(command("fairseq-validate", data_dir, *words).out)["loss"]
    assert told == last(tmp_path / "parts").extra_state["val_loss"]


def test_a_count_begins_anew_with_the_optimizer_or_another_criterion(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path / "a", "--criterion", "counting", "--max-update", 5).code == 0
    base = tmp_path / "a" / "checkpoint_last.pt"
    words = ("--criterion", "counting", "--restore-file", base, "--reset-optimizer", "--max-update", 2)
    assert train(tmp_path / "b", *words).code == 0
    assert last(tmp_path / "b").criterion_state == {"seen": torch.tensor(2)}
    assert train(tmp_path / "c", "--criterion", "wide", "--restore-file", base, "--max-update", 6).code == 0
    assert train(tmp_path / "d", "--restore-file", base, "--max-update", 6).code == 0
    assert last(tmp_path / "d").criterion_state == {}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"seen": torch.zeros(2)}, "does not fit: seen is (2,) there, () here; --reset-optimizer begins anew"),
        ({"sene": torch.zeros(())}, "does not fit: seen is missing there, () here; --reset-optimizer begins anew"),
        ({"seen": "text"}, "its 'criterion' holds other things than tensors"),
        ([1], "criterion must be a dict, but is list"),
    ],
)
def test_a_state_that_does_not_fit(train: Command, tmp_path: Path, state: object, said: str) -> None:
    words = ("--criterion", "counting", "--max-update", 2)
    assert train(tmp_path, *words).code == 0
    path = tmp_path / "checkpoint_last.pt"
    raw = torch.load(path, weights_only=False)
    torch.save({**raw, "criterion": state}, path)
    assert said in train(tmp_path, *words, "--max-update", 3).error


def test_a_criterion_must_keep_tensors(train: Command, tmp_path: Path) -> None:
    error = train(tmp_path, "--criterion", "texts", "--max-update", 1).error
    assert error == "Texts must keep its state in tensors, but _extra_state is str"


@pytest.mark.parametrize("seed", ["", "--fixed-validation-seed 7"])
def test_a_validation_draws_the_same_numbers_after_a_stop(
    train: Command, command: Command, data_dir: Path, tmp_path: Path, seed: str
) -> None:
    """The validation is still to be made when the first command ends; the second one makes it at once."""
    words = ("--criterion", "drawing", "--save-interval-updates", 4, "--max-update", 8, *shlex.split(seed))
    assert train(tmp_path / "whole", *words).code == 0
    assert train(tmp_path / "parts", *words, "--disable-validation", "--max-update", 4).code == 0
    path = tmp_path / "parts" / "checkpoint_last.pt"
    raw = torch.load(path, weights_only=False)
    raw["extra_state"]["after_update_pending"] = True
    torch.save(raw, path)
    resumed = train(tmp_path / "parts", *words)
    whole = {p.name: load_checkpoint(p) for p in (tmp_path / "whole").glob("*.pt")}
    for name, checkpoint in whole.items():
        again = load_checkpoint(tmp_path / "parts" / name)
        assert again.extra_state["val_loss"] == checkpoint.extra_state["val_loss"], name
    assert len({checkpoint.extra_state["val_loss"] for checkpoint in whole.values()}) > 1
    assert len(resumed.floats(r"valid \| loss ([\d.]+)")) == 2
    words = ("--path", path, "--user-dir", tmp_path / "stateful.py", "--cpu", "--log-format", "json")
    told = json.loads(command("fairseq-validate", data_dir, *words).out)["loss"]
    assert told == whole["checkpoint_last.pt"].extra_state["val_loss"]
    other = json.loads(command("fairseq-validate", data_dir, *words, "--fixed-validation-seed", 99).out)["loss"]
    assert other != told


def test_a_metric_of_validation_alone(train: Command, tmp_path: Path) -> None:
    words = ("--criterion", "telling", "--best-checkpoint-metric", "bits/token", "--max-epoch", 1)
    outcome = train(tmp_path / "run", *words)
    assert outcome.code == 0, outcome.err
    (warning,) = outcome.warnings
    assert warning.startswith("--best-checkpoint-metric must be one of loss, which --criterion tells, or one that it")
    assert "bits/token" in last(tmp_path / "run").extra_state["best_of"]
    error = train(tmp_path / "more", *words, "--keep-best-checkpoints", 2).error
    assert error.startswith("--keep-best-checkpoints puts the metric into names of files, which 'bits/token' does not")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("criterion", ["cross_entropy", "telling"])
def test_a_mistyped_metric_loses_nothing_of_a_run(train: Command, tmp_path: Path, criterion: str) -> None:
    """The validation is still to be made, as it is after a stop."""
    words = ("--criterion", criterion, "--save-interval-updates", 4)
    assert train(tmp_path / "run", *words, "--max-update", 4).code == 0
    path = tmp_path / "run" / "checkpoint_last.pt"
    raw = torch.load(path, weights_only=False)
    raw["extra_state"]["after_update_pending"] = True
    torch.save(raw, path)
    before = path.read_bytes()
    error = train(tmp_path / "run", *words, "--max-update", 8, "--best-checkpoint-metric", "lss").error
    assert error.startswith("--best-checkpoint-metric must be one of loss, ")
    assert error.endswith("but is 'lss'; did you mean loss?")
    assert path.read_bytes() == before


def test_a_mistyped_metric_of_a_new_run_is_found_at_the_first_validation(train: Command, tmp_path: Path) -> None:
    words = ("--criterion", "telling", "--max-epoch", 1, "--best-checkpoint-metric")
    error = train(tmp_path / "run", *words, "bits/tokne").error
    assert "must be one of loss, bits/token, which --criterion tells, but is 'bits/tokne'; did you mean" in error
    assert "is saved in" in error
    outcome = train(tmp_path / "run", *words, "bits/token")
    assert outcome.code == 0, outcome.err
    assert len(outcome.floats(r"valid \| loss ([\d.]+)")) == 1
    assert not outcome.floats(r"train \| loss ([\d.]+)"), "no update is made twice"
