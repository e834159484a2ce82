"""What is at a path, told from files of each kind; what cannot be told has no name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq.storage.file_kinds import is_instead, kind_at

FILES = {
    "a dictionary": ("words", b"the 12\ncat 3\n"),
    "a text": ("x.tokens", "the caf\u00e9 \u2026\n".encode()),
    "a JSON file": ("a.json", b"{}"),
    "the JSON record of an index": ("b.json", json.dumps({"kind": "index"}).encode()),
    "binarised text": ("c.idx", b"MMIDIDX\0\0" + bytes(9)),
    "a file of a datastore": ("d_keys.npy", np.ones(8, np.float32).tobytes()),
    "a FAISS index": ("e", b"IwFl\x10\0\0\0" + bytes(40)),
    "weights in safetensors": ("f.safetensors", (2).to_bytes(8, "little") + b"{}"),
    "": ("g", b"\0\1\2\3"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file(tmp_path: Path, kind: str) -> None:
    name, data = FILES[kind]
    (tmp_path / name).write_bytes(data)
    assert kind_at(tmp_path / name) == kind


def test_a_checkpoint_and_what_is_not_one(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "m.pt")
    assert kind_at(tmp_path / "m.pt") == "a checkpoint"
    assert is_instead(tmp_path / "m.pt", "a checkpoint") == ""
    assert is_instead(tmp_path / "m.pt", "a FAISS index") == " is a checkpoint, not a FAISS index"
    assert is_instead(tmp_path / "gone", "a checkpoint") == ""


def test_a_word_that_begins_like_an_index_is_text(tmp_path: Path) -> None:
    (tmp_path / "story").write_text("Isaac went up into the mountain\n", encoding="utf-8")
    assert kind_at(tmp_path / "story") == "a text"


def test_a_directory(tmp_path: Path) -> None:
    kinds = {
        "a directory of binarised data": "dict.txt",
        "a directory of checkpoints": "checkpoint_best.pt",
        "a directory of texts that are not binarised": "wiki.train.tokens",
        "a directory": "other",
    }
    for number, (kind, name) in enumerate(kinds.items()):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).touch()
        assert kind_at(tmp_path / str(number)) == kind
    (tmp_path / "x_vals.npy").touch()
    assert kind_at(tmp_path) == f"a directory with the datastore {tmp_path / 'x'}"
