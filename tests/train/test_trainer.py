"""One update: how its batches are cut does not matter, what it clips, and at which rate it runs."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fairseq.config.common import DeviceConfig
from fairseq.criterions.cross_entropy import Loss, cross_entropy
from fairseq.errors import FairseqError
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.optim.optimizers import NAG
from fairseq.runtime.distributed import SingleProcess
from fairseq.runtime.precision import Precision
from fairseq.train.trainer import Trainer
from tests.builders.small_model import BANDS, SMALL, small_blocks, small_model

FLOAT32_RTOL = 1e-5
PLAIN = replace(SMALL, decoder_layers=1, dropout=0.0, max_target_positions=8)
ADAPTIVE = replace(BANDS, decoder_layers=1, dropout=0.0, max_target_positions=8)


def whole_batch() -> tuple[torch.Tensor, torch.Tensor]:
    batch = small_blocks().collate(np.arange(6))
    return torch.from_numpy(batch.source_BT), torch.from_numpy(batch.target_BT)


def trainer(model: TransformerLanguageModel, clip_norm: float = 0.0, lr: float = 0.5, **place: int) -> Trainer:
    """Returns a trainer; ``place`` may have its seed, the updates made, and the rank of its process among how many."""
    precision = Precision(DeviceConfig(cpu=True), torch.device("cpu"))
    optimizer = NAG(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.0)
    group = SingleProcess()
    group.rank, group.world_size = place.pop("rank", 0), place.pop("world_size", 1)
    seed, num_updates = place.pop("seed", 1), place.pop("num_updates", 0)
    return Trainer(model, cross_entropy, optimizer, lambda n, epoch: lr, precision, group, clip_norm, seed, num_updates)


@pytest.mark.parametrize("cut", [[[0], [1, 2], [3, 4, 5]], [[5], [0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4], [5]]])
def test_an_update_of_many_batches_equals_one_of_a_big_batch(cut: list[list[int]]) -> None:
    big, small = small_model(ADAPTIVE), small_model(ADAPTIVE)
    data = small_blocks()
    one = trainer(big).update([data.collate(np.arange(6))], epoch=1)
    many = trainer(small).update([data.collate(np.array(rows)) for rows in cut], epoch=1)
    assert (one.num_targets, one.num_rows) == (many.num_targets, many.num_rows) == (45, 6)
    assert many.nats == pytest.approx(one.nats, rel=FLOAT32_RTOL)
    assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=FLOAT32_RTOL)
    for expected, found in zip(big.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=FLOAT32_RTOL, atol=1e-6)


def test_gradients_are_the_mean_over_targets_and_clipped_after_that() -> None:
    model, reference = small_model(PLAIN), small_model(PLAIN)
    source_BT, target_BT = whole_batch()
    (cross_entropy(reference, source_BT, target_BT).nats / 45).backward()
    expected = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.01).item()
    stats = trainer(model, clip_norm=0.01).update([small_blocks().collate(np.arange(6))], epoch=1)
    assert stats.gradient_norm == pytest.approx(expected, rel=FLOAT32_RTOL)
    assert stats.clipped
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-8)


def test_the_first_update_runs_at_the_rate_of_update_0() -> None:
    model = small_model(PLAIN)
    learner = trainer(model)
    seen: list[tuple[int, int]] = []
    learner.schedule = lambda num_updates, epoch: seen.append((num_updates, epoch)) or 0.1
    for _ in range(2):
        learner.update([small_blocks().collate(np.arange(6))], epoch=3)
    assert seen == [(0, 3), (1, 3)]


def test_training_lowers_the_loss() -> None:
    learner = trainer(small_model(ADAPTIVE), clip_norm=1.0)
    batch = small_blocks().collate(np.arange(6))
    losses = [learner.update([batch], epoch=1).nats for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    model = small_model(PLAIN)
    torch.nn.init.constant_(model.decoder.embed_out, float("nan"))
    with pytest.raises(FairseqError, match="the loss of update 1 is nan; lower --lr"):
        trainer(model).update([small_blocks().collate(np.arange(6))], epoch=1)


def masked_losses(count: int, **place: int) -> list[float]:
    """Returns the losses of updates that change nothing: dropout alone makes them differ."""
    learner = trainer(small_model(replace(ADAPTIVE, dropout=0.5)), lr=0.0, **place)
    batch = small_blocks().collate(np.arange(6))
    return [learner.update([batch], epoch=1).nats for _ in range(count)]


def test_dropout_is_another_in_every_update_process_and_seed() -> None:
    losses = masked_losses(4) + masked_losses(4, rank=1) + masked_losses(4, rank=2) + masked_losses(4, seed=1000)
    assert len(set(losses)) == 16


def losses_of_batches(rank: int, world_size: int, count: int) -> list[float]:
    """Returns the losses of a process's micro-batches of update 7, all of the same blocks: dropout alone differs."""
    learner = trainer(small_model(replace(ADAPTIVE, dropout=0.5)), num_updates=7, rank=rank, world_size=world_size)
    found: list[float] = []

    def criterion(*batch: object) -> Loss:
        loss = cross_entropy(*batch)
        found.append(loss.nats.item())
        return loss

    learner.criterion = criterion
    learner.update([small_blocks().collate(np.arange(6))] * count, epoch=1)
    return found


@pytest.mark.parametrize("world_size", [2, 3])
def test_dropout_of_a_batch_is_that_of_its_number_within_the_update(world_size: int) -> None:
    alone = losses_of_batches(0, 1, 6)
    assert len(set(alone)) == 6
    for rank in range(world_size):
        assert losses_of_batches(rank, world_size, 6 // world_size) == alone[rank::world_size]


def test_dropout_of_an_update_does_not_depend_on_what_was_before() -> None:
    assert masked_losses(2, num_updates=2) == masked_losses(4)[2:]
    assert masked_losses(2, num_updates=2, rank=3) == masked_losses(4, rank=3)[2:]


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change() -> None:
    model = small_model(PLAIN)
    learner = trainer(model)
    next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FairseqError, match="the gradient of update 1 is not finite; lower --lr"):
        learner.update([small_blocks().collate(np.arange(6))], epoch=1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert learner.num_updates == 0


class Two(SingleProcess):
    """A process among two, of which the other one has the same share; it may be asked to stop."""

    world_size = 2
    other_stops = other_is_late = False

    def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor *= 2
            if tensor.dtype == torch.float64:  # the sums of an update: the last two say whose time is over, and who
                tensor[-2:] += torch.tensor([self.other_is_late, self.other_stops])  # was asked to stop


def test_sums_of_all_processes_are_the_updates() -> None:
    """Twice the same share is twice the loss, and the same mean gradient."""
    one, two = trainer(small_model(PLAIN)), trainer(small_model(PLAIN))
    two.group = Two()
    batch = small_blocks().collate(np.arange(6))
    alone, together = one.update([batch], epoch=1), two.update([batch], epoch=1)
    assert (together.num_targets, together.num_rows) == (2 * alone.num_targets, 2 * alone.num_rows) == (90, 12)
    assert together.nats == pytest.approx(2 * alone.nats, rel=FLOAT32_RTOL)
    assert together.gradient_norm == pytest.approx(alone.gradient_norm, rel=FLOAT32_RTOL)
    assert (alone.stop, together.stop) == (False, False)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=FLOAT32_RTOL, atol=1e-7)


def test_a_process_learns_that_it_or_another_was_asked_to_stop() -> None:
    batch = small_blocks().collate(np.arange(6))
    assert trainer(small_model(PLAIN)).update([batch], epoch=1, stop=True).stop
    learner = trainer(small_model(PLAIN))
    learner.group = Two()
    learner.group.other_stops = True
    assert learner.update([batch], epoch=1).stop


def test_a_process_learns_that_its_time_or_that_of_another_is_over() -> None:
    batch = small_blocks().collate(np.arange(6))
    stats = trainer(small_model(PLAIN)).update([batch], epoch=1, late=True)
    assert (stats.late, stats.stop) == (True, False)
    learner = trainer(small_model(PLAIN))
    learner.group = Two()
    assert not learner.update([batch], epoch=1).late
    learner.group.other_is_late = True
    stats = learner.update([batch], epoch=1)
    assert (stats.late, stats.stop) == (True, False)


@pytest.mark.parametrize("size", [0.25, 3.0, 0.0])
def test_the_sample_size_divides_whatever_it_is(size: float) -> None:
    """A quarter of a sample size is four times the gradient; 0 divides by nothing."""
    model, reference = small_model(PLAIN), small_model(PLAIN)
    cross_entropy(reference, *whole_batch()).nats.backward()
    learner = trainer(model)
    learner.criterion = lambda *batch: replace(cross_entropy(*batch), sample_size=size)
    stats = learner.update([small_blocks().collate(np.arange(6))], epoch=1)
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad * (size or 1.0), theirs.grad, rtol=FLOAT32_RTOL, atol=1e-6)
    if size:
        assert stats.readings.values()["loss"] == pytest.approx(stats.nats / size / math.log(2), rel=1e-12)


@pytest.mark.parametrize("size", [-1.0, math.nan, math.inf])
def test_a_sample_size_that_is_no_count_stops_the_run(size: float) -> None:
    learner = trainer(small_model(PLAIN))
    learner.criterion = lambda *batch: replace(cross_entropy(*batch), sample_size=size)
    with pytest.raises(FairseqError, match=f"a sample size that is 0 or more, but gives {size:g}"):
        learner.update([small_blocks().collate(np.arange(6))], epoch=1)


def test_a_process_without_a_batch_steps_along() -> None:
    learner = trainer(small_model(PLAIN), clip_norm=1.0)
    stats = learner.update([], epoch=1)
    assert (stats.nats, stats.num_targets, stats.num_rows, stats.gradient_norm) == (0.0, 0, 0, 0.0)
    assert learner.num_updates == 1


@pytest.mark.parametrize(("clip_norm", "clipped"), [(0.0, False), (1e6, False), (1e-3, True)])
def test_what_is_clipped(clip_norm: float, clipped: bool) -> None:
    learner = trainer(small_model(PLAIN), clip_norm=clip_norm, lr=0.25)
    stats = learner.update([small_blocks().collate(np.arange(6))], epoch=1)
    assert stats.clipped == clipped
    assert stats.lr == 0.25
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in learner.model.parameters()])).item()
    assert norm == pytest.approx(min(stats.gradient_norm, clip_norm or math.inf), rel=2e-3)  # … / (norm + 1e-6)
