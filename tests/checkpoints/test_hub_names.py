"""Names on the Hugging Face hub: what is one, and what becomes of it without a network."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairseq.checkpoints.hub_names import local_directory
from fairseq.errors import CheckpointError
from fairseq.storage.file_kinds import is_hub_name
from fairseq.storage.inputs import require_inputs
from fairseq.tasks.opening import open_checkpoint


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Returns the calls of a hub that has nothing in its cache and no network."""
    import huggingface_hub

    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot(name: str, **more: Any) -> str:
        calls.append((name, more))
        raise OSError("not there\nat all")

    def info(self: Any, name: str, **more: Any) -> Any:
        calls.append((name, more))
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    return calls


def test_what_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("HuggingFaceTB/SmolLM2-135M")
    assert is_hub_name("a.b/c_d-1.5")
    for path in ("model", "a/b/c", "/a/b", "a/b.pt", "a/model.safetensors", "a b/c", "../b", "a/b:c", ""):
        assert not is_hub_name(path), path
    (tmp_path / "checkpoints").mkdir()
    assert not is_hub_name("checkpoints/best")  # mistyped, and meant to be here
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert not is_hub_name("org/model")


def test_without_cache_and_network_the_error_is_one_line(hub: list[tuple[str, dict[str, Any]]]) -> None:
    with pytest.raises(CheckpointError, match=r"--path org/model: .* cannot be brought \(Name or service") as caught:
        open_checkpoint("org/model")
    assert "\n" not in str(caught.value)
    (_, cached), (_, asked) = hub
    assert cached["local_files_only"]
    assert asked["timeout"] <= 10


def test_the_cache_comes_before_the_network(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **more: str(tiny_llama))
    monkeypatch.delattr(huggingface_hub.HfApi, "model_info")
    assert local_directory("org/model") == str(tiny_llama)
    assert open_checkpoint("org/model").path == str(tiny_llama)


def test_torchs_files_are_brought_only_where_there_are_no_others(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    patterns: list[list[str]] = []

    def snapshot(name: str, *, local_files_only: bool = False, allow_patterns: list[str]) -> str:
        if local_files_only:
            raise OSError("not in the cache")
        patterns.append(allow_patterns)
        return str(tiny_llama)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for files in (["model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]):
        found = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, found=found, **more: found)
        assert local_directory("org/model") == str(tiny_llama)
    assert ["pytorch_model*.bin*" in found for found in patterns] == [False, True]


@pytest.mark.parametrize("lost", ["model-00002-of-00002.safetensors", "model.safetensors.index.json"])
def test_a_download_that_was_broken_off_goes_on(
    lost: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    for number in (1, 2):
        shutil.copy(tiny_llama / "model.safetensors", tmp_path / f"model-{number:05}-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    shutil.copy(tiny_llama / "config.json", tmp_path)
    asked: list[str] = []

    def snapshot(name: str, *, local_files_only: bool = False, **more: Any) -> str:
        return str(tmp_path if local_files_only else tiny_llama)

    def info(self: Any, name: str, **more: Any) -> Any:
        asked.append(name)
        return SimpleNamespace(siblings=[])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    assert local_directory("org/model") == str(tmp_path) and not asked
    (tmp_path / lost).unlink()
    assert local_directory("org/model") == str(tiny_llama) and asked == ["org/model"]


def test_a_name_passes_the_look_at_files_and_a_file_of_weights_is_told_from_its_directory(
    tiny_llama: Path, tmp_path: Path
) -> None:
    require_inputs("nobody/nothing", str(tmp_path))
    require_inputs(str(tiny_llama), str(tmp_path))
    for name in ("model.safetensors", "config.json"):
        with pytest.raises(CheckpointError, match=f"give --path the directory of the model: {tiny_llama}"):
            require_inputs(str(tiny_llama / name), str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(CheckpointError, match=r"is a model as GGUF, not a checkpoint; fairseq-knnlm convert .*m\.gguf"):
        require_inputs(str(tmp_path / "m.gguf"), str(tmp_path))
