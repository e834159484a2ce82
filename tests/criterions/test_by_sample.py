"""A FairseqCriterion is given samples as fairseq has them, and what it tells is what the log shows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairseq import metrics
from fairseq.criterions import FairseqCriterion
from fairseq.criterions.build import build_criterion
from fairseq.criterions.by_sample import SampleCriterion, sample_of
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, Loss, cross_entropy
from fairseq.criterions.model_view import ModelView
from fairseq.criterions.totals import Totals
from fairseq.data.dictionary import EOS, PAD
from fairseq.errors import ConfigError
from fairseq.runtime.distributed import SingleProcess
from tests.builders.small_model import BANDS, SMALL, small_blocks, small_model

CPU = torch.device("cpu")
FLOAT32_RTOL = 1e-5
PLAIN = replace(SMALL, decoder_layers=1, dropout=0.0, max_target_positions=8)
ADAPTIVE = replace(BANDS, decoder_layers=1, dropout=0.0, max_target_positions=8)
BATCH = small_blocks().collate(np.arange(6))
SOURCE_BT, TARGET_BT = torch.from_numpy(BATCH.input_BT), torch.from_numpy(BATCH.target_BT)


class Told(FairseqCriterion):
    """Keeps what it was given."""

    def forward(self, model: Any, sample: Mapping[str, Any], reduce: bool = True) -> Any:
        self.sample, self.view, self.was_training = sample, model, self.training
        return torch.zeros(1, requires_grad=True), 1, {"loss": 0, "sample_size": 1}


def build(kind: Any, config: Any = None, *, sentence_avg: bool = False) -> Any:
    return build_criterion(kind, config, None, CPU, sentence_avg=sentence_avg)


def test_a_sample_is_padded_and_counted() -> None:
    sample = sample_of(SOURCE_BT, TARGET_BT, torch.arange(6))
    assert (sample["nsentences"], sample["ntokens"]) == (6, 45)
    assert sample["id"].tolist() == [0, 1, 2, 3, 4, 5]
    assert sample["net_input"]["src_lengths"].tolist() == [8, 8, 8, 8, 8, 5]
    assert sample["net_input"]["src_tokens"][5, 5:].tolist() == [PAD] * 3
    assert torch.equal(sample["net_input"]["src_tokens"][:5], SOURCE_BT[:5])
    assert torch.equal(sample["target"], TARGET_BT)


@pytest.mark.parametrize("config", [PLAIN, ADAPTIVE], ids=["full", "adaptive"])
def test_the_view_gives_the_models_probabilities(config: Any) -> None:
    model = small_model(config).eval()
    view, sample = ModelView(model), sample_of(SOURCE_BT, TARGET_BT, torch.arange(6))
    out = view(**sample["net_input"])
    expected_NV = model.log_prob(model(SOURCE_BT).features_BSC.flatten(0, 1))
    log_p_BTV = view.get_normalized_probs(out, log_probs=True, sample=sample)
    torch.testing.assert_close(log_p_BTV.flatten(0, 1), expected_NV)
    torch.testing.assert_close(view.get_normalized_probs(out, log_probs=False), log_p_BTV.exp())
    assert torch.equal(view.get_targets(sample, out), TARGET_BT)
    assert view.decoder is model.decoder
    assert (view.training, view.max_positions()) == (False, 8)
    if model.decoder.adaptive_softmax is None:
        torch.testing.assert_close(out[0].log_softmax(-1), log_p_BTV)
    log_p_BTV.sum().backward()
    assert next(model.decoder.layers.parameters()).grad is not None


def test_padding_is_read_as_the_end_of_a_line() -> None:
    model, seen = small_model(PLAIN).eval(), []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    sample = sample_of(SOURCE_BT, TARGET_BT, torch.arange(6))
    ModelView(model)(**sample["net_input"])
    assert seen[0][5, 5:].tolist() == [EOS] * 3


def test_a_criterion_is_in_the_state_of_its_model() -> None:
    told = build(Told)
    for model in (small_model(PLAIN).train(), small_model(PLAIN).eval()):
        told(model, SOURCE_BT, TARGET_BT, torch.arange(6))
        assert told.criterion.was_training == model.training


@pytest.mark.parametrize("config", [PLAIN, ADAPTIVE], ids=["full", "adaptive"])
@pytest.mark.parametrize("sentence_avg", [False, True])
def test_the_class_cross_entropy_is_the_function(config: Any, sentence_avg: bool) -> None:
    model = small_model(config).eval()
    of_class = build(CrossEntropyCriterion, SimpleNamespace(sentence_avg=sentence_avg))
    of_function = build(cross_entropy, sentence_avg=sentence_avg)
    one, other = of_class(model, SOURCE_BT, TARGET_BT, torch.arange(6)), of_function(model, SOURCE_BT, TARGET_BT)
    assert one.nats.item() == pytest.approx(other.nats.item(), rel=FLOAT32_RTOL)
    values = []
    for kind, loss in ((of_class, one), (of_function, other)):
        totals = Totals()
        totals.add(loss, 6)
        values.append(totals.over(SingleProcess(), kind, CPU).readings(kind).values())
    bits = other.nats.item() / math.log(2)
    assert values[1]["loss"] == pytest.approx(bits / (6 if sentence_avg else 45), rel=FLOAT32_RTOL)
    assert values[1]["ppl"] == pytest.approx(2 ** (bits / 45), rel=FLOAT32_RTOL)
    assert ("nll_loss" in values[1]) == sentence_avg
    assert values[0].items() >= {name: pytest.approx(v, rel=FLOAT32_RTOL) for name, v in values[1].items()}.items()


def test_a_loss_that_is_not_the_likelihood_has_no_perplexity() -> None:
    class Halved(CrossEntropyCriterion):
        def compute_loss(self, model: Any, net_output: Any, sample: Any, reduce: bool = True) -> Any:
            loss, _ = super().compute_loss(model, net_output, sample, reduce=reduce)
            return loss / 2, loss

    halved, totals = build(Halved, SimpleNamespace(sentence_avg=False)), Totals()
    totals.add(halved(small_model(PLAIN).eval(), SOURCE_BT, TARGET_BT, torch.arange(6)), 6)
    assert set(totals.readings(halved).values()) == {"loss"}


def test_a_loss_that_says_so_is_the_likelihood() -> None:
    class Written(CrossEntropyCriterion):
        is_nll = True  # type: ignore[assignment]

        def compute_loss(self, model: Any, net_output: Any, sample: Any, reduce: bool = True) -> Any:
            return super().compute_loss(model, net_output, sample, reduce=reduce)

    written, totals, model = build(Written, SimpleNamespace(sentence_avg=False)), Totals(), small_model(PLAIN).eval()
    totals.add(written(model, SOURCE_BT, TARGET_BT, torch.arange(6)), 6)
    bits = cross_entropy(model, SOURCE_BT, TARGET_BT).nats.item() / math.log(2)
    assert totals.readings(written).values()["ppl"] == pytest.approx(2 ** (bits / 45), rel=FLOAT32_RTOL)


class Counted(FairseqCriterion):
    """Tells one number of each batch, which is its own mean's weight."""

    summable = True

    def forward(self, model: Any, sample: Mapping[str, Any], reduce: bool = True) -> Any:
        n = sample["nsentences"]
        return torch.tensor(2.0 * n, requires_grad=True), torch.tensor(n), {"n": torch.tensor(n), "sample_size": n}

    def reduce_metrics(self, logging_outputs: Any) -> None:  # type: ignore[override]
        metrics.log_scalar("outputs", len(logging_outputs))
        metrics.log_scalar("n", sum(out["n"] for out in logging_outputs), weight=2, round=1)
        metrics.log_scalar_sum("all", sum(out["n"] for out in logging_outputs))
        metrics.log_scalar("_hidden", 3)
        metrics.log_derived("twice", lambda means: 2 * means["_hidden"].avg)

    def logging_outputs_can_be_summed(self) -> bool:  # type: ignore[override]
        return self.summable


@pytest.mark.parametrize("summable", [True, False])
def test_what_is_told_is_reduced_once_an_update_or_once_a_batch(summable: bool) -> None:
    counted, totals = build(Counted), Totals()
    counted.criterion.summable = summable
    for rows in (slice(0, 4), slice(4, 6)):
        ids = torch.arange(6)[rows]
        totals.add(counted(small_model(PLAIN), SOURCE_BT[rows], TARGET_BT[rows], ids), len(ids))
    told = {"outputs": 1 if summable else 2, "n": 6, "all": 6, "loss": 2 / math.log(2), "twice": 6}
    assert totals.readings(counted).values() == pytest.approx(told)
    by_batch = totals.readings(counted, by_batch=True).values()
    assert by_batch == pytest.approx({"outputs": 1, "n": 3, "all": 6, "loss": 2 / math.log(2), "twice": 6})


def test_a_process_without_batches_tells_nothing() -> None:
    values = Totals().readings(build(Counted)).values()
    assert math.isnan(values.pop("loss"))
    assert values == {}


def test_a_function_with_a_config_is_given_it() -> None:
    def scaled(model: Any, source_BT: Tensor, target_BT: Tensor, config: Any) -> Loss:
        return replace(cross_entropy(model, source_BT, target_BT), nats=torch.tensor(config.scale))

    assert build(scaled, SimpleNamespace(scale=7.0))(small_model(PLAIN), SOURCE_BT, TARGET_BT).nats == 7


@dataclass
class Settings:
    gamma: float = 2.0


class Asks(Told):
    def __init__(self, task: Any, gamma: float, more: int = 3) -> None:
        super().__init__(task)
        self.asked = gamma, more


class AsksForConfig(Told):
    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(task)
        self.asked = cfg.gamma


def test_a_criterion_is_built_of_the_fields_that_it_names() -> None:
    assert build(Asks, Settings(1.5)).criterion.asked == (1.5, 3)
    assert build(AsksForConfig, Settings(1.5)).criterion.asked == 1.5
    with pytest.raises(ConfigError, match=r"Asks.__init__ asks for 'gamma', which must be a field of its dataclass"):
        build(Asks)


class Returns(FairseqCriterion):
    answer: Any = None

    def forward(self, model: Any, sample: Any, reduce: bool = True) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(()), r"Returns.forward must return \(loss, sample_size, logging_output\)"),
        ((torch.zeros(6, 8), 48, {}), r"must return the sum of the loss, one number, but returns \(6, 8\)"),
        ((0.5, 48, {}), "must return the sum of the loss, one number, but returns float"),
    ],
)
def test_what_is_returned_is_checked(answer: Any, message: str) -> None:
    criterion = build(Returns)
    criterion.criterion.answer = answer
    with pytest.raises(ConfigError, match=message):
        criterion(small_model(PLAIN), SOURCE_BT, TARGET_BT, torch.arange(6))


def test_weights_that_would_not_be_trained_are_named() -> None:
    class Teacher(Told):
        def __init__(self, task: Any) -> None:
            super().__init__(task)
            self.teacher = nn.Linear(2, 2)

    with pytest.raises(ConfigError, match=r"Teacher must have no weights that are trained, but has teacher.weight"):
        build(Teacher)
    frozen = Teacher(None)
    frozen.teacher.requires_grad_(False)
    assert SampleCriterion(frozen).name == "Teacher"


def test_a_class_of_another_kind_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Linear must derive from fairseq.criterions.FairseqCriterion, or be a func"):
        build(nn.Linear)


@dataclass
class OldConfig:
    power: float = 0.5
    sentence_avg: bool = False


def old(base: Any) -> Any:
    class Old(base):  # type: ignore[misc]
        def __init__(self, args: Any, task: Any) -> None:
            super().__init__(args, task)
            self.power = args.power

        def forward(self, model: Any, sample: Mapping[str, Any], reduce: bool = True) -> Any:
            assert self.args.sentence_avg is False
            return torch.ones(1) * self.power, 2, {"loss": self.power, "sample_size": 2}

        @staticmethod
        def aggregate_logging_outputs(outputs: Any) -> Any:
            return {"loss": sum(o["loss"] for o in outputs) * 7, "batches": len(outputs), "sample_size": 4}

    return Old


def test_a_criterion_of_before_2020_is_given_a_namespace() -> None:
    from fairseq.criterions import LegacyFairseqCriterion

    criterion = build(old(LegacyFairseqCriterion), OldConfig(power=0.25))
    loss = criterion(small_model(PLAIN), SOURCE_BT, TARGET_BT, torch.arange(6))
    assert (loss.nats.item(), loss.sample_size) == (0.25, 2)
    readings = criterion.readings([loss.logged, loss.logged], 0.5, 4)
    assert readings.values() == {"loss": 7 * (0.25 + 0.25), "batches": 2}


def test_a_namespace_is_not_asked_for_as_a_field() -> None:
    with pytest.raises(ConfigError, match=r"Old.__init__ asks for 'args', .* derive it from .*LegacyFairseqCriterion"):
        build(old(FairseqCriterion), OldConfig())


def test_a_model_without_log_probabilities_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Linear has no log_prob\(features_NC\)"):
        ModelView(nn.Linear(1, 1))
