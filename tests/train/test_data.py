"""The data of a training run: what is said of it."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from fairseq.data.block_dataset import BlockDataset
from fairseq.data.config import BatchConfig
from fairseq.runtime.distributed import SingleProcess
from fairseq.train.data import load_epoch
from fairseq.validate.config import ValidationConfig
from fairseq.validate.splits import load_splits


@pytest.mark.pitfall(32)
def test_the_word_pad_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    splits = {"train": [4, 1, 0, 3, 1, 1, 2], "valid": [4, 5, 2, 6, 7, 1, 2]}
    task = SimpleNamespace(load_split=lambda name, **_: BlockDataset(np.array(splits[name]), np.array([7]), "none", 4))
    trainer = SimpleNamespace(max_positions=8, group=SingleProcess())
    with caplog.at_level(logging.WARNING):
        load_epoch(task, trainer, BatchConfig(max_tokens=8), 1, 1)
        load_splits(task, ValidationConfig(), 8, None, 8, SingleProcess())
    said = [record.getMessage() for record in caplog.records]
    assert [message.split(";")[0] for message in said] == [
        "'train': the word <pad> stands there 3 times",
        "'valid': the word <pad> stands there 1 times",
    ]


def test_processes_take_turns_at_all_batches() -> None:
    """Five blocks of four tokens, one in each batch, among two processes: the second has none in the last update."""
    dataset = BlockDataset(np.arange(4, 24), np.array([20]), "none", 4)
    task, batching = SimpleNamespace(load_split=lambda name, **_: dataset), BatchConfig(max_tokens=4)
    epochs, validation = [], []
    for rank in range(2):
        group = SingleProcess()
        group.rank, group.world_size = rank, 2
        trainer = SimpleNamespace(max_positions=8, group=group)
        epoch = load_epoch(task, trainer, batching, 1, 1)
        epochs.append([[b.block_idx_B.tolist() for b in epoch.of_update(at, 1, group)] for at in (0, 2, 4)])
        (valid,) = load_splits(task, ValidationConfig(), 4, None, 8, group)
        validation.append([batch.tolist() for batch in valid.batches])
    alone = load_epoch(task, SimpleNamespace(max_positions=8, group=SingleProcess()), batching, 1, 1)
    first, second, third, fourth, fifth = ([int(idx) for idx in batch] for batch in alone.batches)
    assert sorted([*first, *second, *third, *fourth, *fifth]) == [0, 1, 2, 3, 4]
    assert epochs == [[[first], [third], [fifth]], [[second], [fourth], []]]
    assert [b.block_idx_B.tolist() for b in alone.of_update(1, 3, SingleProcess())] == [second, third, fourth]
    assert validation == [[[0], [2], [4]], [[1], [3]]]
