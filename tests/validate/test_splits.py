"""The splits of a validation: which blocks, in which batches, and how they are told from others."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from fairseq.data.block_dataset import BlockDataset
from fairseq.runtime.distributed import SingleProcess
from fairseq.validate.config import ValidationConfig
from fairseq.validate.splits import ValidationSplit, load_splits

# Sentences of 3, 1, 2 and 4 tokens, a block each: by length they are the blocks 1, 2, 0, 3.
BLOCKS = BlockDataset(np.arange(4, 14), np.array([3, 1, 2, 4]), "eos", 8)
TASK = SimpleNamespace(load_split=lambda name, **_: BLOCKS)


def split_of(*, rank: int = 0, world_size: int = 1, max_sentences: int | None = 1, **flags: int) -> ValidationSplit:
    group = SingleProcess()
    group.rank, group.world_size = rank, world_size
    (split,) = load_splits(TASK, ValidationConfig(**flags), None, max_sentences, 8, group)
    return split


def blocks_of(split: ValidationSplit) -> list[list[int]]:
    return [batch.tolist() for batch in split.batches]


def test_batches_have_their_own_size_or_that_of_training() -> None:
    assert blocks_of(split_of()) == [[1], [2], [0], [3]]
    assert blocks_of(split_of(batch_size_valid=3)) == [[1, 2, 0], [3]]
    assert blocks_of(split_of(max_tokens_valid=4, batch_size_valid=9)) == [[1, 2], [0], [3]]


def test_the_first_batches_are_a_part_of_the_split_which_the_log_says(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        part = split_of(batch_size_valid=2, max_valid_steps=1)
    assert blocks_of(part) == [[1, 2]]
    assert caplog.messages == [
        "'valid': validation is on a part of the split, the 2 shortest of 4 blocks (--max-valid-steps 1)"
    ]
    assert part.identity != split_of().identity
    assert part.identity == split_of(max_valid_steps=2).identity, "the same two blocks in other batches"


def test_as_many_steps_as_batches_are_the_whole_split(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert split_of(max_valid_steps=4).identity == split_of().identity
    assert not caplog.messages


def test_the_part_does_not_depend_on_the_number_of_processes() -> None:
    shares = [split_of(rank=rank, world_size=2, max_valid_steps=3) for rank in range(2)]
    assert [blocks_of(share) for share in shares] == [[[1], [0]], [[2]]]
    assert len({share.identity for share in (*shares, split_of(max_valid_steps=3))}) == 1
