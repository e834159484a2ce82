"""Datastores of more texts than run_clm joins at once: what fills no block behind each group is in no window."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from fairseq.knn.maintain import windows, windows_origin
from tests.builders.tiny_llama import TEXT, write_tiny_llama
from tests.builders.tiny_lm import Command

BLOCK, TOGETHER = 16, 5


@pytest.mark.parametrize("stride", [BLOCK, BLOCK // 2])
def test_rows_begin_anew_behind_every_group_of_texts(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    for module in (windows, windows_origin):
        monkeypatch.setattr(module, "TEXTS_TOGETHER", TOGETHER)
    model, texts = write_tiny_llama(tmp_path / "model"), [line for line in TEXT.splitlines(True) if line.strip()] * 2
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["--only-source", "--tokenizer", model, "--trainpref", tmp_path / "train.jsonl", "--destdir"]
    assert command("fairseq-preprocess", *words, tmp_path / "data").code == 0
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    llama, caught = AutoModelForCausalLM.from_pretrained(model).eval(), list[torch.Tensor]()
    llama.model.layers[-1].mlp.register_forward_pre_hook(lambda _, args: caught.append(args[0][0]))
    keys, values, positions, begin = list[np.ndarray](), list[int](), list[int](), 0
    for first in range(0, len(texts), TOGETHER):
        ids = [idx for text in texts[first : first + TOGETHER] for idx in tokenizer.encode(text).ids]
        for start in range(0, len(ids) // BLOCK * BLOCK, stride):
            opens = max(start + stride - BLOCK, 0)
            with torch.inference_mode():
                llama(torch.tensor([ids[opens : start + stride]]))
            scored = range(max(start, opens + 1), start + stride)
            key_TC = caught.pop().numpy()
            keys += [key_TC[at - opens - 1] for at in scored]
            values += [ids[at] for at in scored]
            positions += [begin + at for at in scored]
        begin += len(ids)
    assert len(texts) > 2 * TOGETHER
    prefix = tmp_path / f"dstore_llama_{len(values)}_16"
    np.array(keys).astype("<f2").tofile(f"{prefix}_keys.npy")
    np.array(values, "<i4").tofile(f"{prefix}_vals.npy")
    flags = ["--data", tmp_path / "data", "--tokens-per-sample", BLOCK, "--stride", stride, "--path", model, "--cpu"]
    outcome = command("fairseq-knnlm", "adopt", prefix, "--dstore-mmap", tmp_path / "new", *flags)
    assert outcome.code == 0, outcome.err
    assert "what filled no block behind them was dropped" in outcome.out
    assert (np.fromfile(tmp_path / "new_vals.npy", "<i8") == np.array(values) + 4).all()
    assert json.loads((tmp_path / "new.json").read_text())["settings"]["keys_computed_again"] > 1
    command("fairseq-knnlm", "rows", tmp_path / "new", str(len(values) - 1), "--json", tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text())["found"][0]["position"] == positions[-1]
