"""A model's directory of a GGUF file: whole or not there."""

import shutil
from pathlib import Path

import pytest
import torch

from fairseq.checkpoints import gguf
from fairseq.checkpoints.config import ConvertConfig
from fairseq.checkpoints.safetensors import convert
from fairseq.errors import CheckpointError, ConfigError
from fairseq.models.huggingface.loading import load_model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Returns a file that begins as GGUF does, and holds nothing."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    return path


def test_a_file_without_a_model_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.gguf cannot be read \(") as caught:
        convert(ConvertConfig(str(source), str(tmp_path / "out")))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(ConvertConfig(str(path), str(tmp_path / "out")))
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match="is not a GGUF file by its first bytes"):
        convert(ConvertConfig(str(path), str(tmp_path / "out")))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_is_there_stays(source: Path, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="out exists and is not empty"):
        convert(ConvertConfig(str(source), str(tmp_path / "out"), overwrite=overwrite))
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        convert(ConvertConfig(str(source), str(tmp_path / "out" / "thesis.tex"), overwrite=overwrite))
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_a_package_that_is_not_there_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "find_spec", lambda name: None if name == "accelerate" else object())
    with pytest.raises(ConfigError, match=r"needs accelerate, not installed here; pip install 'fairseq-knnlm\[gguf\]'"):
        convert(ConvertConfig(str(source), str(tmp_path / "out")))


def test_what_a_killed_run_has_left_is_taken_over(
    source: Path, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty directory is no obstacle; what is renamed is whole."""
    (tmp_path / ".out.knnlm.tmp").mkdir()
    (tmp_path / ".out.knnlm.tmp" / "half").write_text("x")
    (tmp_path / "out").mkdir()

    def write(source: Path, directory: Path) -> int:
        shutil.copytree(tiny_llama, directory, dirs_exist_ok=True)
        return 7

    monkeypatch.setattr(gguf, "_write", write)
    said = convert(ConvertConfig(str(source), str(tmp_path / "out")))
    assert "out: 7 tensors in float32 and the tokenizer" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in tiny_llama.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "out"]


def test_a_model_that_cannot_be_used_is_not_kept(
    source: Path, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(source: Path, directory: Path) -> int:
        shutil.copytree(tiny_llama, directory, dirs_exist_ok=True)
        (directory / "model.safetensors").unlink()
        return 7

    monkeypatch.setattr(gguf, "_write", write)
    with pytest.raises(CheckpointError, match="has no weights"):
        convert(ConvertConfig(str(source), str(tmp_path / "out")))
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.slow
def test_a_quantised_model_becomes_numbers(smollm2: Path) -> None:
    """The fixture converts it: no layer is left to be read as quantised, and the head is the table of words."""
    model = load_model(smollm2)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert (model.vocabulary_size, model.key_dimension, model.longest_row) == (49156, 576, 8192)
    assert "quantization" not in (smollm2 / "config.json").read_text()
