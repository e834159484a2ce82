"""Which files of ``--save-dir`` a run refuses to write over, by the names that it may come to write."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.errors import CheckpointError
from fairseq.train.config import CheckpointConfig
from fairseq.train.origin import Run
from fairseq.train.ownership import refuse_foreign

RUN = Run("mine", None)


def refused(tmp_path: Path, name: str, **flags: Any) -> bool:
    """Returns whether a run of epochs 3 to 6 refuses another run's checkpoint of a name."""
    torch.save({"model": {}, "extra_state": {"run": Run("other", None).record()}}, tmp_path / name)
    try:
        refuse_foreign(CheckpointConfig(save_dir=str(tmp_path), **flags), RUN, 3, 6)
    except CheckpointError as err:
        assert f"{tmp_path / name} is of another run" in str(err)
        return True
    return False


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("checkpoint_last.pt", {}, True),
        ("checkpoint_last.pt", {"no_last_checkpoints": True}, False),
        ("checkpoint_best.pt", {}, True),
        ("checkpoint_best.pt", {"disable_validation": True}, False),
        ("checkpoint2.pt", {}, False),
        ("checkpoint3.pt", {}, True),
        ("checkpoint6.pt", {}, True),
        ("checkpoint7.pt", {}, False),
        ("checkpoint4.pt", {"no_epoch_checkpoints": True}, False),
        ("checkpoint2.pt", {"save_interval": 2}, False),
        ("checkpoint4.pt", {"save_interval": 2}, True),
        ("checkpoint5.pt", {"save_interval": 2}, False),
        ("checkpoint8.pt", {"save_interval": 2}, False),
        ("checkpoint_3_10.pt", {}, False),
        ("checkpoint_2_10.pt", {"save_interval_updates": 5}, False),
        ("checkpoint_3_10.pt", {"save_interval_updates": 5}, True),
        ("checkpoint.best_loss_1.5000.pt", {}, False),
        ("checkpoint.best_loss_1.5000.pt", {"keep_best_checkpoints": 1}, True),
        ("checkpoint.best_ppl_1.5000.pt", {"keep_best_checkpoints": 1}, False),
        ("checkpoint.best_loss_1.5000.pt", {"keep_best_checkpoints": 1, "disable_validation": True}, False),
        ("checkpoint.best_a+b_1.5.pt", {"keep_best_checkpoints": 1, "best_checkpoint_metric": "a+b"}, True),
        ("checkpoint.best_aab_1.5.pt", {"keep_best_checkpoints": 1, "best_checkpoint_metric": "a+b"}, False),
        ("model.pt", {}, False),
    ],
)
def test_a_foreign_file_is_in_the_way_where_the_run_would_write_it(
    tmp_path: Path, name: str, flags: dict[str, Any], expected: bool
) -> None:
    assert refused(tmp_path, name, **flags) == expected


def test_a_run_without_a_last_epoch_may_write_every_later_one(tmp_path: Path) -> None:
    torch.save({"model": {}, "extra_state": {"run": Run("other", None).record()}}, tmp_path / "checkpoint99.pt")
    config = CheckpointConfig(save_dir=str(tmp_path))
    with pytest.raises(CheckpointError):
        refuse_foreign(config, RUN, 3, 0)
    refuse_foreign(config, RUN, 100, 0)
    refuse_foreign(config, Run("other", None), 3, 0)
