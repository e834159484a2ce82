"""A validation: the loss without dropout, summed over processes."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fairseq.config.common import DeviceConfig
from fairseq.criterions.cross_entropy import cross_entropy
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.runtime.distributed import ProcessGroup, SingleProcess
from fairseq.runtime.precision import Precision
from fairseq.validate import validation
from fairseq.validate.validation import ValidationResult, validate
from tests.builders.small_model import BANDS, small_blocks, small_model

FLOAT32_RTOL = 1e-5
MODEL = replace(BANDS, decoder_layers=1, dropout=0.5, max_target_positions=8)


def result_of(model: TransformerLanguageModel, group: ProcessGroup) -> ValidationResult:
    batches = [small_blocks().collate(np.array([i])) for i in range(6)]
    precision = Precision(DeviceConfig(cpu=True), torch.device("cpu"))
    return validate(model, cross_entropy, precision, group, batches)


def test_it_is_the_loss_without_dropout_and_leaves_weights_and_random_numbers() -> None:
    model = small_model(MODEL)
    before, random = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    result = result_of(model, SingleProcess())
    assert torch.equal(random, torch.get_rng_state()), "--fixed-validation-seed would have an effect"
    batch = small_blocks().collate(np.arange(6))
    whole = torch.from_numpy(batch.source_BT), torch.from_numpy(batch.target_BT)
    assert result.nats == pytest.approx(cross_entropy(model.eval(), *whole).nats.item(), rel=FLOAT32_RTOL)
    assert (result.num_targets, result.num_rows, result.num_batches) == (45, 6, 6)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_it_is_summed_over_processes() -> None:
    class Two(SingleProcess):
        world_size = 2

        def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
            for tensor in tensors:
                tensor *= 2

    one, two = (result_of(small_model(MODEL), group) for group in (SingleProcess(), Two()))
    assert two.nats == 2 * one.nats
    assert (two.num_targets, two.num_rows, two.num_batches) == (90, 12, 12)
    assert two.values() == pytest.approx(one.values(), rel=1e-12)


def test_speed_is_told_by_fairseqs_names() -> None:
    result = validation.ValidationResult(nats=1.0, num_targets=120, num_rows=6, num_batches=3, seconds=2.0)
    assert result.speed() == {"wps": 60, "wpb": 40, "bsz": 2}
