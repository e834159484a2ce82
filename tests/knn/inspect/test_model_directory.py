"""``fairseq-knnlm info`` and ``check`` of a Hugging Face model's directory."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fairseq.errors import FairseqError
from fairseq.knn.inspect.config import CheckConfig
from fairseq.knn.inspect.findings import Finding, Findings
from fairseq.knn.inspect.info import describe
from fairseq.knn.inspect.inputs import check_inputs
from fairseq.knn.inspect.model_directory import check_model
from fairseq.models.protocol import ModelIdentity
from fairseq.text.model_tokenizer import ModelTokenizer


def found(path: Path, known: ModelIdentity = ModelIdentity()) -> tuple[dict[str, str], ModelIdentity]:  # noqa: B008
    """Returns the status of each finding, and what is known of the model then."""
    shown: list[Finding] = []
    identity = check_model(Findings(shown.append), str(path), known)
    return {finding.what: finding.status for finding in shown}, identity


def test_info_tells_what_the_files_hold(tiny_llama: Path) -> None:
    what, lines = describe(str(tiny_llama))
    told = dict(lines)
    tensors = load_file(tiny_llama / "model.safetensors")
    assert what == "Hugging Face model"
    assert (told["family"], told["layers"], told["width"], told["positions"]) == ("llama", 2, 16, 128)
    assert told["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert told["stored as"] == "F32"
    assert told["tokenizer sha256"] == ModelTokenizer(tiny_llama).sha256
    assert told["a text begins with"] == "<|endoftext|>"


def test_a_check_loads_the_model_and_knows_it_then(tiny_llama: Path) -> None:
    statuses, identity = found(tiny_llama, ModelIdentity(vocabulary_size=304))
    assert statuses == dict.fromkeys(
        ("model settings", "model tokenizer", "model", "model weights", "model vocabulary"), "ok"
    )
    assert identity.key_dimension == 16
    assert identity.tokenizer_sha256 == ModelTokenizer(tiny_llama).sha256
    assert identity.weights_sha256 == dict(describe(str(tiny_llama))[1])["weights sha256"]


def test_a_dictionary_of_more_ids_than_are_scored_is_a_failure(tiny_llama: Path) -> None:
    assert found(tiny_llama, ModelIdentity(vocabulary_size=305))[0]["model vocabulary"] == "FAILED"
    assert found(tiny_llama, ModelIdentity(vocabulary_size=200))[0]["model vocabulary"] == "ok"


def test_a_torn_model_is_a_failure(tiny_llama: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-1])
    (path / "tokenizer.json").unlink()
    statuses, identity = found(path)
    assert statuses == {"model settings": "ok", "model tokenizer": "skipped", "model": "FAILED"}
    assert identity == ModelIdentity()
    with pytest.raises(FairseqError, match="bytes long by its header"):
        describe(str(path))


def test_a_models_directory_stands_for_a_checkpoint(tiny_llama: Path) -> None:
    shown: list[Finding] = []
    config = CheckConfig(path=str(tiny_llama))
    inputs = check_inputs(config, Findings(shown.append))
    assert inputs.model.key_dimension == 16
    assert "FAILED" not in {finding.status for finding in shown}
