"""The losses, against sums in float64 and torch's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fairseq.criterions.cross_entropy import adaptive_loss, cross_entropy
from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError
from tests.builders.small_model import BANDS, SMALL, small_blocks, small_model
from tests.oracles.adaptive_softmax import log_softmax

FLOAT32_RTOL = 1e-5
PLAIN = replace(SMALL, decoder_layers=1, dropout=0.0, max_target_positions=8)
ADAPTIVE = replace(BANDS, decoder_layers=1, dropout=0.0, max_target_positions=8)


def whole_batch() -> tuple[torch.Tensor, torch.Tensor]:
    batch = small_blocks().collate(np.arange(6))  # the last row has 5 tokens, the others 8
    return torch.from_numpy(batch.source_BT), torch.from_numpy(batch.target_BT)


def test_adaptive_loss_is_the_sum_of_head_and_tails() -> None:
    model = small_model(ADAPTIVE).eval()
    source_BT, target_BT = whole_batch()
    softmax = {k: v.double().numpy() for k, v in model.decoder.adaptive_softmax.state_dict().items()}
    features = model(source_BT).features_BSC.detach().double().numpy()
    head = tails = 0.0
    for x_C, target in zip(features.reshape(-1, 16), target_BT.flatten().tolist(), strict=True):
        if target == PAD:
            continue
        tail = sum(target >= cut for cut in (8, 16)) - 1
        head -= log_softmax(softmax["head.weight"] @ x_C)[target if tail < 0 else 8 + tail]
        if tail >= 0:
            narrow = softmax[f"tail.{tail}.0.weight"] @ x_C
            tails -= log_softmax(softmax[f"tail.{tail}.2.weight"] @ narrow)[target - (8, 16)[tail]]
    loss = adaptive_loss(model, source_BT, target_BT)
    assert loss.nats.item() == pytest.approx(head + tails, rel=FLOAT32_RTOL)
    assert loss.num_targets == 45


def test_adaptive_loss_counts_the_word_at_index_1_of_a_tail() -> None:
    model = small_model(ADAPTIVE).eval()
    loss = adaptive_loss(model, torch.tensor([[4]]), torch.tensor([[9]]))
    assert loss.nats.item() == pytest.approx(
        -model.target_log_prob(model(torch.tensor([[4]])).features_BSC[0], torch.tensor([9])).item()
    )
    assert loss.num_targets == 1


def test_adaptive_loss_and_cross_entropy_are_one() -> None:
    model = small_model(ADAPTIVE).eval()
    assert adaptive_loss(model, *whole_batch()).nats.item() == cross_entropy(model, *whole_batch()).nats.item()


def test_adaptive_loss_needs_an_adaptive_softmax() -> None:
    with pytest.raises(ConfigError, match="--criterion adaptive_loss needs --adaptive-softmax-cutoff"):
        adaptive_loss(small_model(PLAIN), *whole_batch())


def test_cross_entropy_equals_torchs_over_targets_that_are_not_padding() -> None:
    model = small_model(PLAIN).eval()
    source_BT, target_BT = whole_batch()
    logits = model(source_BT).features_BSC @ model.decoder.embed_out.t()
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), target_BT.flatten(), ignore_index=PAD, reduction="sum"
    )
    assert cross_entropy(model, source_BT, target_BT).nats.item() == pytest.approx(expected.item(), rel=FLOAT32_RTOL)
