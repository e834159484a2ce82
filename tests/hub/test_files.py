"""Which checkpoint and which dictionary ``from_pretrained`` takes where it is not told."""

import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.errors import CheckpointError, ConfigError, DataError
from fairseq.hub import from_pretrained
from fairseq.hub.files import find_checkpoints
from knnlm import KNN
from tests.builders.cases import Artefacts


def test_the_best_checkpoint_is_taken_else_the_last(tmp_path: Path) -> None:
    for name in ("checkpoint1.pt", "checkpoint_last.pt", "checkpoint_best.pt", "model.pt"):
        (tmp_path / name).touch()
        assert find_checkpoints(tmp_path, None) == (tmp_path, [tmp_path / name])
    assert find_checkpoints(tmp_path / "checkpoint1.pt", None) == (tmp_path, [tmp_path / "checkpoint1.pt"])
    assert find_checkpoints(str(tmp_path), "checkpoint1.pt:model.pt")[1] == [
        tmp_path / "checkpoint1.pt",
        tmp_path / "model.pt",
    ]
    with pytest.raises(ConfigError, match=r"model\.pt is a checkpoint, and checkpoint_file names checkpoint1\.pt"):
        find_checkpoints(tmp_path / "model.pt", "checkpoint1.pt")


def test_a_directory_that_is_another_argument(tmp_path: Path, artefacts: Artefacts) -> None:
    with pytest.raises(CheckpointError, match=r"data-bin is a data directory, .* data_name_or_path="):
        find_checkpoints(artefacts.checkpoint.parent, str(artefacts.data))
    with pytest.raises(CheckpointError, match=r"has a dictionary, but no checkpoint.* data_name_or_path="):
        find_checkpoints(artefacts.data, None)
    with pytest.raises(CheckpointError, match=r"has none of model\.pt, .*there: no \.pt file"):
        find_checkpoints(tmp_path, None)


def test_the_data_directory_of_the_training_is_remembered(artefacts: Artefacts, tmp_path: Path) -> None:
    run = artefacts.checkpoint.parent
    told = from_pretrained(run, data_name_or_path=artefacts.data)
    assert str(told).startswith(f"LanguageModelHub({run / 'checkpoint_best.pt'}, 40 words")
    for place in (run, artefacts.checkpoint):
        assert from_pretrained(place).score("w1 w2").total == told.score("w1 w2").total
    assert from_pretrained(artefacts.checkpoint, knn=KNN(artefacts.store, artefacts.index)).knn is not None


@pytest.fixture
def moved(artefacts: Artefacts, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Returns a run's directory without its data, and what its checkpoint holds."""
    run = tmp_path / "run"
    run.mkdir()
    with torch.serialization.safe_globals([Namespace]):
        checkpoint = torch.load(artefacts.checkpoint, weights_only=True)
    return run, checkpoint


def test_a_run_that_was_moved_with_its_data_finds_it(
    artefacts: Artefacts, tmp_path: Path, moved: tuple[Path, dict[str, Any]]
) -> None:
    """The checkpoint names its data as the training did, relative to where that ran."""
    run, checkpoint = moved
    checkpoint["args"].data = "data-bin"
    torch.save(checkpoint, run / "checkpoint_best.pt")
    with pytest.raises(DataError, match=r"no dict\.txt in .*run or data-bin or .*data-bin; give data_name_or_path="):
        from_pretrained(run)
    shutil.copytree(artefacts.data, tmp_path / "data-bin")
    assert len(from_pretrained(run).dictionary) == 40
    # Beside the checkpoint goes first.
    shutil.copy(artefacts.data / "dict.txt", run)
    shutil.rmtree(tmp_path / "data-bin")
    assert len(from_pretrained(run).dictionary) == 40


def test_a_checkpoint_that_does_not_know_its_dictionary_names_no_place(
    artefacts: Artefacts, moved: tuple[Path, dict[str, Any]]
) -> None:
    """Another program's: whatever lies at the place that it names could be another dictionary of the same size."""
    run, checkpoint = moved
    del checkpoint["extra_state"]["dictionary_sha256"]
    torch.save(checkpoint, run / "checkpoint_best.pt")
    with pytest.raises(DataError, match=r"no dict\.txt in [^ ]*run; give data_name_or_path="):
        from_pretrained(run)


def test_what_is_no_checkpoint_is_told_by_keyword(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_text("text\n")
    with pytest.raises(CheckpointError, match=r"is a text, not a checkpoint; give checkpoint_file \(or name_or_path\)"):
        from_pretrained(tmp_path)


def test_a_name_that_is_no_model_is_answered_with_the_nearest_or_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, kind, expect in (
        ("checkpoint", ConfigError, r"did you mean checkpoints\?"),
        (f"{tmp_path}/checkpoint", CheckpointError, f"did you mean {tmp_path}/checkpoints\\?"),
        ("transformer_lm.wiki103.adaptiv", ConfigError, r"did you mean transformer_lm\.wiki103\.adaptive\?"),
        ("transformer_lm.wmt19.fr", ConfigError, r"known: .*, transformer_lm\.wmt19\.ru, "),
    ):
        with pytest.raises(kind, match=expect):
            find_checkpoints(name, None)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_of_a_hugging_face_model_is_answered_with_its_directory(tiny_llama: Path, name: str) -> None:
    expected = f"{tiny_llama / name} is a file of a Hugging Face model; give its directory: {tiny_llama}"
    with pytest.raises(CheckpointError, match=f"^{re.escape(expected)}$"):
        from_pretrained(tiny_llama / name)
