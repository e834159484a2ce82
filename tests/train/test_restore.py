"""A checkpoint's loss scale, which a run on a CPU does not use."""

import pytest
import torch

from fairseq.checkpoints.format import Checkpoint
from fairseq.errors import CheckpointError
from fairseq.train.restore import restore_loss_scale


def checkpoint(**scale: float) -> Checkpoint:
    return Checkpoint("x.pt", {}, {}, None, {"loss_scaler": scale}, 3, "adam")


def test_a_loss_scale_that_was_saved_is_restored() -> None:
    saved, restored = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (64.0, 2.0))
    restore_loss_scale(checkpoint(**saved.state_dict()), restored)
    assert restored.state_dict() == saved.state_dict()


def test_a_loss_scale_of_which_a_part_is_missing() -> None:
    with pytest.raises(CheckpointError, match=r"of x\.pt is damaged \('scale' is missing\); --reset-optimizer"):
        restore_loss_scale(checkpoint(growth_factor=2.0), torch.amp.GradScaler("cpu"))
