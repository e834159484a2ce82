"""The data of a training run: what is said of it."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from fairseq.data.block_dataset import BlockDataset
from fairseq.data.config import BatchConfig
from fairseq.runtime.distributed import SingleProcess
from fairseq.train.config import CheckpointConfig
from fairseq.train.data import load_epoch, load_validation


@pytest.mark.pitfall(32)
def test_the_word_pad_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    splits = {"train": [4, 1, 0, 3, 1, 1, 2], "valid": [4, 5, 2, 6, 7, 1, 2]}
    task = SimpleNamespace(load_split=lambda name, **_: BlockDataset(np.array(splits[name]), np.array([7]), "none", 4))
    trainer = SimpleNamespace(max_positions=8, group=SingleProcess())
    with caplog.at_level(logging.WARNING):
        load_epoch(task, trainer, BatchConfig(max_tokens=8), 1, 1)
        load_validation(task, trainer, BatchConfig(max_tokens=8), CheckpointConfig())
    said = [record.getMessage() for record in caplog.records]
    assert [message.split(";")[0] for message in said] == [
        "'train': the word <pad> stands there 3 times",
        "'valid': the word <pad> stands there 1 times",
    ]
