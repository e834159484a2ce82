"""Smoothed labels, against torch's own with its ε converted, and numbers of fairseq's definition by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fairseq.criterions.build import build_criterion
from fairseq.criterions.config import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.criterions.cross_entropy import Loss
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    label_smoothed_nll_loss,
)
from fairseq.criterions.model_view import ModelView
from fairseq.criterions.totals import Totals
from fairseq.data.dictionary import PAD
from tests.builders.small_model import BANDS, NUM_IDS, SMALL, small_blocks, small_model
from tests.oracles.adaptive_softmax import all_log_probs

FLOAT32_RTOL = 1e-5
PLAIN = replace(SMALL, decoder_layers=1, dropout=0.0, max_target_positions=8)
ADAPTIVE = replace(BANDS, decoder_layers=1, dropout=0.0, max_target_positions=8)
BATCH = small_blocks().collate(np.arange(6))  # the last row has 5 tokens, the others 8
SOURCE_BT, TARGET_BT = torch.from_numpy(BATCH.source_BT), torch.from_numpy(BATCH.target_BT)


def criterion(*, sentence_avg: bool = False, **settings: Any) -> Any:
    config = LabelSmoothedCrossEntropyCriterionConfig(sentence_avg=sentence_avg, **settings)
    cpu = torch.device("cpu")
    return build_criterion(LabelSmoothedCrossEntropyCriterion, config, None, cpu, sentence_avg=sentence_avg)


def loss_of(model: Any, target_BT: torch.Tensor = TARGET_BT, **settings: Any) -> Loss:
    return criterion(**settings)(model, SOURCE_BT, target_BT, torch.arange(6))


def converted(epsilon: float, num_words: int) -> float:
    """Returns torch's ε, of which the target has a share as well, for fairseq's."""
    return epsilon * num_words / (num_words - 1)


def test_by_hand() -> None:
    """ε = 0.3 over 4 words: the target has 0.7, each other one 0.1."""
    p_V = torch.tensor([0.1, 0.2, 0.3, 0.4])
    loss, nll = label_smoothed_nll_loss(p_V.log()[None], torch.tensor([1]), 0.3)
    assert nll.item() == pytest.approx(-math.log(0.2))
    expected = -0.7 * math.log(0.2) - 0.1 * (math.log(0.1) + math.log(0.3) + math.log(0.4))
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4])
def test_it_is_torchs_with_epsilon_converted(epsilon: float) -> None:
    model, twin = small_model(PLAIN).eval(), small_model(PLAIN).eval()
    found = loss_of(model, label_smoothing=epsilon)
    logits = twin(SOURCE_BT).features_BSC @ twin.decoder.embed_out.t()
    smoothing = converted(epsilon, NUM_IDS)
    rows, targets = logits.flatten(0, 1), TARGET_BT.flatten()
    expected = F.cross_entropy(rows, targets, ignore_index=PAD, reduction="sum", label_smoothing=smoothing)
    assert found.nats.item() == pytest.approx(expected.item(), rel=FLOAT32_RTOL)
    nll = F.cross_entropy(rows, targets, ignore_index=PAD, reduction="sum").item()
    assert found.logged["nll_loss"] == pytest.approx(nll, rel=FLOAT32_RTOL)
    found.nats.backward()
    expected.backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_with_an_adaptive_softmax_it_is_over_every_word() -> None:
    model, epsilon = small_model(ADAPTIVE).eval(), 0.2
    found = loss_of(model, label_smoothing=epsilon)
    state = {name: value.double().numpy() for name, value in model.decoder.adaptive_softmax.state_dict().items()}
    features = model(SOURCE_BT).features_BSC.detach().double().numpy().reshape(-1, 16)
    expected = 0.0
    for x_C, target in zip(features, TARGET_BT.flatten().tolist(), strict=True):
        if target != PAD:
            log_p_V = all_log_probs(state, x_C, [0, 8, 16, 40], tied_projections=False)
            share = np.full(NUM_IDS, epsilon / (NUM_IDS - 1))
            share[target] = 1 - epsilon
            expected -= share @ log_p_V
    assert found.nats.item() == pytest.approx(expected, rel=FLOAT32_RTOL)
    found.nats.backward()
    assert all(p.grad is not None for p in model.decoder.adaptive_softmax.parameters())


def test_a_prefix_has_no_loss_and_counts_in_what_it_is_divided_by() -> None:
    model = small_model(PLAIN).eval()
    without = TARGET_BT.clone()
    without[:, :3] = PAD
    found = loss_of(model, label_smoothing=0.1, ignore_prefix_size=3)
    assert found.nats.item() == pytest.approx(loss_of(model, without, label_smoothing=0.1).nats.item())
    assert (found.num_targets, found.sample_size) == (45, 45)


@pytest.mark.parametrize(("sentence_avg", "size"), [(False, 45), (True, 6)])
def test_loss_is_divided_by_targets_or_blocks_and_likelihood_by_targets(sentence_avg: bool, size: int) -> None:
    model = small_model(PLAIN).eval()
    smoothed = criterion(sentence_avg=sentence_avg, label_smoothing=0.3, report_accuracy=True)
    totals = Totals()
    found = smoothed(model, SOURCE_BT, TARGET_BT, torch.arange(6))
    totals.add(found, 6)
    assert found.sample_size == size
    values = totals.readings(smoothed).values()
    logits = (model(SOURCE_BT).features_BSC @ model.decoder.embed_out.t()).flatten(0, 1)
    targets = TARGET_BT.flatten()
    nll = F.cross_entropy(logits, targets, ignore_index=PAD, reduction="sum").item() / 45
    hits = int(((logits.argmax(1) == targets) & (targets != PAD)).sum())
    assert values == pytest.approx(
        {
            "loss": found.nats.item() / size / math.log(2),
            "nll_loss": nll / math.log(2),
            "total": 45,
            "n_correct": hits,
            "ppl": math.exp(nll),
            "accuracy": 100 * hits / 45,
        },
        rel=FLOAT32_RTOL,
    )


def test_what_a_subclass_computes_is_the_loss() -> None:
    class Doubled(LabelSmoothedCrossEntropyCriterion):
        def compute_loss(self, model: Any, net_output: Any, sample: Any, reduce: bool = True) -> Any:
            loss, nll = super().compute_loss(model, net_output, sample, reduce=reduce)
            return 2 * loss, nll

    model, config = small_model(PLAIN).eval(), SimpleNamespace(label_smoothing=0.1, sentence_avg=False)
    doubled = build_criterion(Doubled, config, None, torch.device("cpu"), sentence_avg=False)
    once = loss_of(model, label_smoothing=0.1)
    twice = doubled(model, SOURCE_BT, TARGET_BT, torch.arange(6))
    assert twice.nats.item() == pytest.approx(2 * once.nats.item())
    assert twice.logged["nll_loss"] == once.logged["nll_loss"]


@pytest.mark.parametrize("shape", [PLAIN, ADAPTIVE], ids=["full softmax", "adaptive softmax"])
def test_the_accuracy_needs_no_second_look_at_every_word(shape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, whole = [], ModelView.get_normalized_probs

    def counted(*arguments: Any, **more: Any) -> torch.Tensor:
        calls.append(1)
        return whole(*arguments, **more)

    monkeypatch.setattr(ModelView, "get_normalized_probs", counted)
    found = loss_of(small_model(shape).eval(), label_smoothing=0.1, report_accuracy=True)
    assert found.logged["total"] == 45
    assert len(calls) == 1
