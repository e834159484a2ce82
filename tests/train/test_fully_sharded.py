"""What cannot be trained in shares is refused, and which checkpoints in shards a run keeps, deletes and refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fairseq.config.common import DeviceConfig, LossScaleConfig
from fairseq.criterions.by_sample import SampleCriterion
from fairseq.errors import CheckpointError, ConfigError
from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.runtime.precision import Precision
from fairseq.storage.file_kinds import SHARDED_RECORD
from fairseq.train.checkpoint_files import delete_old, names_to_write
from fairseq.train.config import CheckpointConfig
from fairseq.train.fully_sharded import layers_of, require_one_pass, require_package
from fairseq.train.origin import Run
from fairseq.train.ownership import refuse_foreign
from tests.builders.tiny_lm import Command

SMALL = dict(decoder_layers=2, decoder_embed_dim=8, decoder_ffn_embed_dim=8, decoder_attention_heads=2)
CPU = torch.device("cpu")
RUN = Run("mine", None)


def model(**changes: Any) -> TransformerLanguageModel:
    return TransformerLanguageModel(TransformerConfig(**{**SMALL, **changes}), 20)


def precision(*, float16: bool = False) -> Precision:
    found = Precision(DeviceConfig(), CPU, LossScaleConfig())
    if float16:
        found.scaler = torch.amp.GradScaler("cpu", enabled=True)
    return found


def test_a_models_layers_are_shared_out_one_by_one() -> None:
    whole = model()
    assert layers_of(whole, "adam", precision()) == list(whole.decoder.layers)


@pytest.mark.parametrize(
    ("whole", "optimizer", "float16", "error"),
    [
        (nn.Linear(2, 2), "adam", False, "Linear, whose layers are not known; leave it out"),
        (model(decoder_layerdrop=0.1), "adam", False, "--decoder-layerdrop: each process would leave out other layers"),
        (model(), "adafactor", False, "--optimizer adafactor, which steps by more than a share of a weight; give adad"),
        (model(), "a_plugins", False, "--optimizer a_plugins, which steps by more than a share of a weight; give adad"),
        (model(), "nag", True, "float16: processes would not see each other's overflows; give --bf16"),
    ],
)
def test_what_would_be_wrong_is_refused(whole: Any, optimizer: str, float16: bool, error: str) -> None:
    with pytest.raises(ConfigError, match=f"^--ddp-backend fully_sharded does not go with {error}"):
        layers_of(whole, optimizer, precision(float16=float16))


def test_a_plugins_class_of_a_criterion_is_refused() -> None:
    class Twice(nn.Module):
        """Passes each batch through the model twice, for all that is known."""

    require_one_pass(lambda model, source, target: None, "mine")
    with pytest.raises(ConfigError, match="--criterion twice, a plugin's class; give one of this program"):
        require_one_pass(SampleCriterion(Twice()), "twice")


def test_without_safetensors_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    require_package()
    monkeypatch.setattr("fairseq.train.fully_sharded.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'fairseq-knnlm\[safetensors\]'$"):
        require_package()


def test_a_word_that_is_no_backend_is_refused(train: Command, tmp_path: Path) -> None:
    error = train(tmp_path / "run", "--ddp-backend", "fully-sharded").error
    assert error == (
        "--ddp-backend must be one of fully_sharded, legacy_ddp, c10d, no_c10d, pytorch_ddp, but is 'fully-sharded'"
        "; did you mean fully_sharded?"
    )


def write(save_dir: Path, name: str, run_id: str | None) -> Path:
    """Writes the least that is a checkpoint in shards."""
    path = save_dir / name
    path.mkdir()
    run = {} if run_id is None else {"run": {"id": run_id, "began": None}}
    parts: dict[str, Any] = dict(args={}, optimizer_history=[], extra_state=run, weights={}, param_groups=None)
    record = dict(kind="sharded checkpoint", version=1, numbers={}, files={}, **parts)
    (path / SHARDED_RECORD).write_text(json.dumps(record))
    return path


def test_names_end_in_dcp() -> None:
    config = CheckpointConfig(keep_best_checkpoints=1)
    names = names_to_write(config, epoch=3, num_updates=None, metric=4.25, is_best=True, suffix=".dcp")
    assert names == ["checkpoint3.dcp", "checkpoint_best.dcp", "checkpoint.best_loss_4.2500.dcp", "checkpoint_last.dcp"]


def test_old_ones_of_the_run_itself_are_deleted(tmp_path: Path) -> None:
    for epoch, run_id in enumerate(["mine", "another", "mine", "mine"], start=1):
        write(tmp_path, f"checkpoint{epoch}.dcp", run_id)
    (write(tmp_path, "checkpoint0.dcp", "mine") / "notes.txt").write_text("somebody's")
    (tmp_path / "checkpoint3.pt").write_text("of a plain run")
    (tmp_path / "checkpoint3.json").write_text("of a plain run")
    delete_old(CheckpointConfig(save_dir=str(tmp_path), keep_last_epochs=1), RUN, ".dcp")
    kept = ["checkpoint0.dcp", "checkpoint2.dcp", "checkpoint3.json", "checkpoint3.pt", "checkpoint4.dcp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


@pytest.mark.parametrize(
    ("run_id", "more", "error"),
    [
        ("mine", "", ""),
        ("another", "", "is of another run"),
        ("mine", "notes.txt", "holds notes.txt, which is no part"),
    ],
)
def test_what_is_not_the_runs_own_is_in_the_way(tmp_path: Path, run_id: str, more: str, error: str) -> None:
    path = write(tmp_path, "checkpoint_last.dcp", run_id)
    if more:
        (path / more).write_text("somebody's")
    write(tmp_path, "checkpoint_last.pt", "another")  # which a run in shards does not write
    config = CheckpointConfig(save_dir=str(tmp_path))
    if not error:
        refuse_foreign(config, RUN, 1, 0, ".dcp")
        return
    with pytest.raises(CheckpointError, match=f"checkpoint_last.dcp {error}"):
        refuse_foreign(config, RUN, 1, 0, ".dcp")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_another_thing_of_that_name_is_in_the_way(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "checkpoint_last.dcp")
    with pytest.raises(CheckpointError, match=r"checkpoint_last.dcp is a (directory|file), and this run would replace"):
        refuse_foreign(CheckpointConfig(save_dir=str(tmp_path)), RUN, 1, 0, ".dcp")
