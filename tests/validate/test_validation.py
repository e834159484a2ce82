"""A validation: the loss without dropout, summed over processes."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fairseq.config.common import DeviceConfig
from fairseq.criterions.cross_entropy import Loss, cross_entropy
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.runtime.distributed import ProcessGroup, SingleProcess
from fairseq.runtime.precision import Precision
from fairseq.validate import validation
from fairseq.validate.config import ValidationConfig
from fairseq.validate.splits import ValidationSplit
from fairseq.validate.validation import ValidationResult, validate, validate_on, validation_seed
from tests.builders.small_model import BANDS, small_blocks, small_model

FLOAT32_RTOL = 1e-5
MODEL = replace(BANDS, decoder_layers=1, dropout=0.5, max_target_positions=8)


def result_of(model: TransformerLanguageModel, group: ProcessGroup) -> ValidationResult:
    batches = [small_blocks().collate(np.array([i])) for i in range(6)]
    precision = Precision(DeviceConfig(cpu=True), torch.device("cpu"))
    return validate(model, cross_entropy, precision, group, batches, 1)


def test_it_is_the_loss_without_dropout_and_leaves_weights_and_random_numbers() -> None:
    model = small_model(MODEL)
    before, random = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    result = result_of(model, SingleProcess())
    assert torch.equal(random, torch.get_rng_state())
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


class Drawing:
    """A loss that is a random number."""

    def __call__(self, model: object, source_BT: torch.Tensor, target_BT: torch.Tensor) -> Loss:
        return Loss(torch.rand(()), 1)


def drawn(seed: int, rank: int = 0, world_size: int = 1) -> float:
    """Returns the sum of the random numbers of a process's share of a validation."""
    group = SingleProcess()
    group.rank, group.world_size = rank, world_size
    split = ValidationSplit("valid", small_blocks(), [np.array([i]) for i in range(6)][rank::world_size], 6)
    precision = Precision(DeviceConfig(cpu=True), torch.device("cpu"))
    return validate_on(split, torch.nn.Identity(), Drawing(), precision, group, seed).nats


def test_random_numbers_of_a_validation_are_its_own() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = drawn(3)
    assert torch.equal(before, torch.get_rng_state()), "training goes on with its own"
    torch.manual_seed(6)
    seeds = [3 + number * 1_000_003 for number in range(6)]
    expected = sum(torch.rand((), generator=torch.Generator().manual_seed(seed)).item() for seed in seeds)
    assert drawn(3) == first == pytest.approx(expected, rel=FLOAT32_RTOL)
    assert first != drawn(4)


@pytest.mark.parametrize("world_size", [2, 3])
def test_random_numbers_of_a_validation_do_not_depend_on_the_number_of_processes(world_size: int) -> None:
    shares = [drawn(3, rank, world_size) for rank in range(world_size)]
    assert sum(shares) == pytest.approx(drawn(3), rel=1e-12)


@pytest.mark.parametrize(("fixed", "seeds"), [(None, [11, 12]), (7, [7, 7])])
def test_which_seed_a_validation_has(fixed: int | None, seeds: list[int]) -> None:
    config = ValidationConfig(fixed_validation_seed=fixed)
    assert [validation_seed(config, 10, num_updates) for num_updates in (1, 2)] == seeds


def test_speed_is_told_by_fairseqs_names() -> None:
    result = validation.ValidationResult(nats=1.0, num_targets=120, num_rows=6, num_batches=3, seconds=2.0)
    assert result.speed() == {"wps": 60, "wpb": 40, "bsz": 2}
