"""Criterions of a plugin, written as for fairseq, train a model from the command line."""

import math
import shlex
from pathlib import Path

import pytest

from tests.builders.tiny_lm import BATCHING, MODEL, OPTIMIZATION, Command, num_tokens
from tests.cli.test_resume import DROPOUT, assert_same_run, last

PLUGIN = '''
"""Losses in fairseq's manner."""

import math
from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq import metrics, utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, Loss
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.dataclass import FairseqDataclass


@dataclass
class UnlikelihoodConfig(FairseqDataclass):
    unlikelihood_alpha: float = field(default=0.5, metadata={"help": "weight", "argparse_alias": "--alpha"})
    window: Optional[int] = field(default=None, metadata={"help": "earlier words that are made unlikely"})
    sentence_avg: bool = "${optimization.sentence_avg}"


@register_criterion("unlikelihood", dataclass=UnlikelihoodConfig)
class Unlikelihood(FairseqCriterion):
    """Words of the row so far are made unlikely."""

    def __init__(self, task, unlikelihood_alpha, window, sentence_avg):
        super().__init__(task)
        self.alpha, self.window, self.sentence_avg = unlikelihood_alpha, window, sentence_avg
        assert sentence_avg in (False, True)
        assert len(task.target_dictionary) == len(task.source_dictionary) == 40
        assert self.padding_idx == task.target_dictionary.pad()

    def forward(self, model, sample, reduce=True):
        net_output = model(**sample["net_input"])
        target = model.get_targets(sample, net_output)
        log_p = model.get_normalized_probs(net_output, log_probs=True)
        mask = target.ne(self.padding_idx)
        nll = -(log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1) * mask).sum()
        with torch.no_grad():
            length = target.size(1)
            seen = target.unsqueeze(1).expand(-1, length, -1).tril(-1)
            if self.window:
                seen = seen.triu(-self.window)
            candidates = torch.zeros_like(log_p).scatter_(2, seen, 1.0)
            candidates[..., :2] = 0
            candidates.scatter_(2, target.unsqueeze(-1), 0.0)
        unlikely = -(torch.log1p(-log_p.exp().clamp(max=1 - 1e-5)) * candidates * mask.unsqueeze(-1)).sum()
        loss = nll + self.alpha * unlikely
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        return loss, sample_size, {
            "loss": utils.item(loss.data), "nll_loss": utils.item(nll.data), "ul_loss": utils.item(unlikely.data),
            "ntokens": sample["ntokens"], "nsentences": sample["nsentences"], "sample_size": sample_size,
        }

    @staticmethod
    def reduce_metrics(logging_outputs):
        total = {k: sum(out.get(k, 0) for out in logging_outputs) for k in logging_outputs[0]}
        n, size = total["ntokens"], total["sample_size"]
        metrics.log_scalar("loss", total["loss"] / size / math.log(2), size, round=3)
        metrics.log_scalar("nll_loss", total["nll_loss"] / n / math.log(2), n, round=3)
        metrics.log_scalar("ul_loss", total["ul_loss"] / n / math.log(2), n, round=3)
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))

    @staticmethod
    def logging_outputs_can_be_summed():
        return True


@dataclass
class FocalConfig(LabelSmoothedCrossEntropyCriterionConfig):
    gamma: float = field(default=2.0, metadata={"help": "exponent"})


@register_criterion("focal", dataclass=FocalConfig)
class Focal(LabelSmoothedCrossEntropyCriterion):
    """Likely targets count less."""

    def __init__(self, task, sentence_avg, label_smoothing, gamma, ignore_prefix_size=0, report_accuracy=False):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.gamma = gamma

    def compute_loss(self, model, net_output, sample, reduce=True):
        lprobs, target = self.get_lprobs_and_target(model, net_output, sample)
        nll = -lprobs.gather(1, target[:, None])[:, 0].masked_fill(target == self.padding_idx, 0.0)
        return ((1 - (-nll).exp()) ** self.gamma * nll).sum(), nll.sum()


@register_criterion("distillation", dataclass=UnlikelihoodConfig)
class Distillation(CrossEntropyCriterion):
    """Words are spread as a teacher says, which here knows how frequent they are."""

    def __init__(self, task, sentence_avg, unlikelihood_alpha):
        super().__init__(task, sentence_avg)
        self.alpha = unlikelihood_alpha
        self.register_buffer("teacher", torch.linspace(2, 1, len(task.dictionary)).softmax(0))

    def compute_loss(self, model, net_output, sample, reduce=True):
        nll, _ = super().compute_loss(model, net_output, sample, reduce=reduce)
        log_p = model.get_normalized_probs(net_output, log_probs=True)
        mask = sample["target"].ne(self.padding_idx)
        student = -(self.teacher * log_p).sum(-1)[mask].sum()
        return (1 - self.alpha) * nll + self.alpha * student, nll


@register_criterion("older")
class Older(CrossEntropyCriterion):
    """Flags as they were declared in 2020."""

    def __init__(self, task, sentence_avg, temper):
        super().__init__(task, sentence_avg)
        self.temper = temper

    @staticmethod
    def add_args(parser):
        parser.add_argument("--temper", default=1.0, type=float, metavar="T", help="factor of the loss")

    def compute_loss(self, model, net_output, sample, reduce=True):
        loss, nll = super().compute_loss(model, net_output, sample, reduce=reduce)
        return self.temper * loss, nll


@dataclass(frozen=True)
class PowerConfig:
    power: float = field(default=1.0, metadata={"help": "power of the loss of each batch"})


@register_criterion("power", config=PowerConfig)
def power(model, source_BT, target_BT, config):
    """A power of the mean loss."""
    from fairseq.criterions.cross_entropy import cross_entropy

    plain = cross_entropy(model, source_BT, target_BT)
    mean = plain.nats / plain.num_targets
    return Loss(mean**config.power * plain.num_targets, plain.num_targets, nll=plain.nats.detach())
'''
CASES = {
    "unlikelihood": "--alpha 0.4 --window 4",
    "unlikelihood by sentence": "--criterion unlikelihood --sentence-avg --lr 0.003",
    "focal": "--gamma 1.5 --report-accuracy",
    "distillation": "--unlikelihood-alpha 0.3",
    "power": "--power 1.5",
    "older": "--temper 0.5",
}
QUICK = ("unlikelihood", "power")
ADAPTIVE = shlex.split("--adaptive-softmax-cutoff 10,30 --adaptive-softmax-dropout 0.1")
RUN = shlex.split("--max-epoch 2 --save-interval-updates 5 --no-epoch-checkpoints")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """Returns the plugin's file."""
    path = tmp_path / "own_losses.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def train(command: Command, data_dir: Path, plugin: Path) -> Command:
    def call(save_dir: Path, *words: object) -> object:
        words = ("--user-dir", plugin, *MODEL, *BATCHING, *OPTIMIZATION, *DROPOUT[:4], *RUN, *words)
        return command("fairseq-train", data_dir, "--save-dir", save_dir, *words)

    return call  # type: ignore[return-value]


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] if c not in QUICK else []) for c in CASES])
def test_it_learns_and_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    case: str, train: Command, tmp_path: Path
) -> None:
    words = ["--criterion", case.partition(" ")[0], *shlex.split(CASES[case])]
    words += ADAPTIVE if case == "unlikelihood" else []
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    outcome = train(whole, *words)
    assert outcome.code == 0, outcome.err
    assert not outcome.warnings
    losses = outcome.floats(r"valid \| loss ([\d.]+)")
    assert losses[-1] < losses[0]
    assert train(parts, *words, "--max-update", 8, "--disable-validation").code == 0
    assert train(parts, *words).code == 0
    assert_same_run(last(whole), last(parts))


def test_validation_tells_what_the_criterion_tells(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path / "run", "--criterion", "unlikelihood", "--best-checkpoint-metric", "nll_loss")
    assert outcome.code == 0, outcome.err
    line = next(line for line in reversed(outcome.log) if "| valid |" in line)
    values = {part.split()[0]: float(part.split()[1]) for part in line.split(" | ")[2:]}
    assert set(values) == {"loss", "nll_loss", "ul_loss", "ppl", "num_updates", "best_nll_loss"}
    # The fields are rounded to three digits, as the plugin asks, in loss = nll + α · ul.
    assert values["loss"] == pytest.approx(values["nll_loss"] + 0.5 * values["ul_loss"], abs=2e-3)
    assert values["ppl"] == pytest.approx(2 ** values["nll_loss"], rel=1e-3)
    assert "best_of" in last(tmp_path / "run").extra_state
    assert "nll_loss" in last(tmp_path / "run").extra_state["best_of"]


def test_the_perplexity_is_that_of_the_evaluation(train: Command, command: Command, data_dir: Path, plugin: Path,
                                                  tmp_path: Path) -> None:  # fmt: skip
    words = ("--criterion", "focal", "--label-smoothing", 0.1, "--valid-subset", "test")
    ppl = train(tmp_path / "run", *words).floats(r"test \|.* ppl ([\d.]+)")[-1]
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    out = command("fairseq-eval-lm", data_dir, "--path", checkpoint, "--user-dir", plugin, "--cpu").out
    assert f"{ppl:.2f}" in out.partition("Perplexity: ")[2][:12]
    assert math.isfinite(ppl)


def test_fairseq_validate_goes_by_the_criterion_and_its_settings(
    train: Command, command: Command, data_dir: Path, plugin: Path, tmp_path: Path
) -> None:
    words = ("--criterion", "unlikelihood", "--alpha", 0.4, "--sentence-avg", "--max-update", 3)
    told = [line.partition("| valid | ")[2] for line in train(tmp_path / "run", *words).log if "| valid | " in line]
    checkpoint = ("--path", tmp_path / "run" / "checkpoint_last.pt", "--user-dir", plugin, "--cpu")
    out = command("fairseq-validate", data_dir, *checkpoint).out
    again = out.partition("subset | ")[2].partition(" | wps")[0]
    assert told[-1].startswith(again)
    assert again.count("loss") == 3
    alone = command("fairseq-validate", data_dir, *checkpoint, "--alpha", 0).out
    values = {name: float(value) for name, value in (part.split() for part in alone.split(" | ")[2:6])}
    # α = 0: the loss is the likelihood, by blocks instead of by targets.
    rows, targets = -(-num_tokens(data_dir, "valid") // 16), num_tokens(data_dir, "valid")
    assert values["loss"] == pytest.approx(values["nll_loss"] * targets / rows, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--criterion unlikelihood --best-checkpoint-metric bleu",
            "must be one of loss, nll_loss, ul_loss, ppl, which",
        ),
        ("--criterion unlikelihood --alpha much", "--unlikelihood-alpha must be a number, but is 'much'"),
        ("--criterion unlikelyhood", "'unlikelyhood'; did you mean unlikelihood?"),
    ],
)
def test_what_is_mistyped(train: Command, tmp_path: Path, words: str, message: str) -> None:
    assert message in train(tmp_path / "run", *shlex.split(words)).error


def test_flags_of_another_criterion_are_warned_of(train: Command, tmp_path: Path) -> None:
    words = ("--criterion", "distillation", "--gamma", 3, "--max-update", 1)
    assert any("--gamma 3 has no effect" in warning for warning in train(tmp_path / "run", *words).warnings)
