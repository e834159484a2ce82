"""Checkpoints as safetensors and back: every setting and every weight."""

import json
import struct
from pathlib import Path

import pytest
import torch

from fairseq.checkpoints.config import ConvertConfig
from fairseq.checkpoints.format import load_checkpoint, save_checkpoint
from fairseq.checkpoints.safetensors import convert
from fairseq.errors import CheckpointError

FIELDS = {
    "arch": "transformer_lm",
    "decoder_layers": 2,
    "adaptive_softmax_cutoff": (10, 30),
    "adaptive_input_cutoff": (),
    "adam_betas": (0.9, 0.98),
    "lr": [0.1, 0.2],
    "dropout": 0.1,
    "no_decoder_final_norm": False,
    "user_dir": None,
    "criterion": "cross_entropy",
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    words = torch.randn(40, 8)
    state = {
        "decoder.version": torch.tensor([3.0]),
        "decoder.embed_tokens.weight": words,
        "decoder.adaptive_softmax.head.word_proj.weight": words,  # tied: the same memory
        "decoder.embed_out": words[:20].clone(),
        "decoder.layer_norm.weight": torch.randn(8),  # would be dropped, were the layout taken for an older one
        "decoder.layer_norm.bias": torch.randn(8).half(),
        "decoder.fc.weight": torch.randn(8, 4).T,  # not contiguous
    }
    save_checkpoint(
        tmp_path / "m.pt",
        fields=FIELDS,
        model_state=state,
        optimizer_state={"state": {}},
        optimizer_name="adam",
        num_updates=12,
        extra_state={"dictionary_sha256": "d" * 64},
    )
    return tmp_path / "m.pt"


def test_there_and_back(checkpoint: Path, tmp_path: Path) -> None:
    weights, back = tmp_path / "m.safetensors", tmp_path / "back.pt"
    convert(ConvertConfig(str(checkpoint), str(weights)))
    convert(ConvertConfig(str(weights), str(back)))
    one, two = load_checkpoint(checkpoint), load_checkpoint(back)
    assert dict(one.fields) == dict(two.fields)
    assert set(one.state) == set(two.state)
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    assert two.num_updates == 12 and two.extra_state == {"dictionary_sha256": "d" * 64}


def test_a_tied_weight_is_stored_once(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    convert(ConvertConfig(str(checkpoint), str(path)))
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    metadata = header.pop("__metadata__")
    assert json.loads(metadata["tied"]) == {
        "decoder.adaptive_softmax.head.word_proj.weight": "decoder.embed_tokens.weight"
    }
    assert sum(entry["shape"] == [40, 8] for entry in header.values()) == 1
    assert metadata["num_updates"] == "12" and json.loads(metadata["settings"])["decoder_layers"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": "["},
        {"settings": "[]"},
        {"tied": '{"a": "gone"}'},
        {"tied": '{"a": []}'},
        {"num_updates": "many"},
        {"version": "2"},
        {"format": "pt"},
    ],
)
def test_fields_that_are_not_ours_are_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    from safetensors.torch import save_file

    fields = {"format": "fairseq-knnlm", "version": "1", "settings": "{}", "num_updates": "1", "tied": "{}"}
    save_file({"w": torch.zeros(1)}, tmp_path / "m.safetensors", metadata={**fields, **changes})
    with pytest.raises(CheckpointError):
        convert(ConvertConfig(str(tmp_path / "m.safetensors"), str(tmp_path / "m.pt")))
    assert not (tmp_path / "m.pt").exists()
