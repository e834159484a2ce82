"""Models with LayerNorm after each part: fairseq 0.12's losses, and our own training, datastores and generation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.checkpoints.format import load_checkpoint
from tests.builders.tiny_lm import ADAPTIVE, BATCHING, EOS, MODEL, OPTIMIZATION, Command
from tests.oracles.transformer import decode, under

# Base 2, as fairseq 0.12 printed them (shared/golden/postnorm/README.md): (checkpoint, split, window) → loss.
LOSSES = {
    ("tied", "valid", 0): 9.5557,
    ("tied", "test", 0): 9.3803,
    ("tied", "valid", 32): 9.5550,
    ("tied", "test", 32): 9.3797,
    ("adaptive", "valid", 0): 9.3665,
    ("adaptive", "test", 0): 9.2048,
    ("adaptive", "valid", 32): 9.3680,
    ("adaptive", "test", 32): 9.2079,
}
PRINTED = 1.1e-4  # four decimals of sums in float32
FLOAT32_ATOL = 2e-5  # two layers in float32, keys of order 1


@pytest.mark.slow
@pytest.mark.pitfall(26)
@pytest.mark.parametrize("case", LOSSES, ids=str)
def test_losses_are_those_that_fairseq_printed(
    case: tuple[str, str, int], shared_dir: Path, tmp_path: Path, command: Command
) -> None:
    name, split, window = case
    golden = shared_dir / "golden"
    words = ("--gen-subset", split, "--context-window", window, "--max-tokens", 4096, "--cpu", "--log-format", "none")
    path = golden / "postnorm" / f"{name}.pt"
    outcome = command(
        "fairseq-eval-lm", golden / "knnlm" / "data-bin", "--path", path, *words, "--results-path", tmp_path / "r.json"
    )
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "r.json").read_text())["loss_base2"] == pytest.approx(LOSSES[case], abs=PRINTED)


def train(command: Command, data_dir: Path, save_dir: Path, *more: object) -> dict[str, Any]:
    """Trains the tiny model with LayerNorm after each part; returns its weights for the oracle."""
    words = (*MODEL, *BATCHING, *OPTIMIZATION, "--max-update", 20, "--no-epoch-checkpoints", *more)
    outcome = command("fairseq-train", data_dir, "--save-dir", save_dir, "--no-decoder-normalize-before", *words)
    assert outcome.code == 0, outcome.err
    checkpoint = load_checkpoint(save_dir / "checkpoint_last.pt")
    assert checkpoint.fields["decoder_normalize_before"] is False
    assert not any(name.startswith("decoder.layer_norm.") for name in checkpoint.state)
    return under({name: value.double().numpy() for name, value in checkpoint.state.items()}, "decoder.")


@pytest.mark.pitfall(26)
@pytest.mark.parametrize("more", [(), ADAPTIVE], ids=["plain", "adaptive"])
def test_keys_of_a_datastore_are_the_oracles(
    more: tuple[str, ...], tmp_path: Path, data_dir: Path, command: Command
) -> None:
    state = train(command, data_dir, tmp_path, *more)
    prefix = tmp_path / "dstore"
    words = ("--gen-subset", "train", "--save-knnlm-dstore", "--dstore-mmap", prefix, "--max-tokens", 128, "--cpu")
    outcome = command("fairseq-eval-lm", data_dir, "--path", tmp_path / "checkpoint_last.pt", *words)
    assert outcome.code == 0, outcome.err
    keys_ND = np.fromfile(f"{prefix}_keys.npy", np.float32).reshape(-1, 16)
    tokens = np.fromfile(data_dir / "train.bin", "<u2")[:16].tolist()
    _, expected_TC = decode(state, [2, *tokens[:-1]], [0, 10, 30, 40], 2, post_norm=True)
    np.testing.assert_allclose(keys_ND[:16], expected_TC, atol=FLOAT32_ATOL, rtol=0)
    assert abs(expected_TC.mean(1)).max() < 0.1  # the output of a LayerNorm that has hardly learnt: means near 0


def test_generation_and_a_second_run_go_on_from_such_a_model(tmp_path: Path, data_dir: Path, command: Command) -> None:
    state = train(command, data_dir, tmp_path)
    path = tmp_path / "checkpoint_last.pt"
    words = ("--prefix-size", 4, "--max-len-b", 5, "--min-len", 5, "--beam", 1, "--cpu", "--log-format", "none")
    outcome = command("fairseq-generate", data_dir, "--path", path, "--num-shards", 8, *words)
    lines = dict(line.split("\t", 1) for line in outcome.out.splitlines())
    text = [4 + int(word.strip("w@")) for word in lines["H-0"].split("\t")[1].split()]
    prompt = np.fromfile(data_dir / "test.bin", "<u2")[:4].tolist()
    assert len(text) == 5
    for length in range(len(text)):  # each word is the likeliest one behind those before it, says the oracle
        features_TC, _ = decode(state, [2, *prompt, *text[:length]], [], 2, post_norm=True)
        scores_V = state["embed_out"] @ features_TC[-1]
        scores_V[: EOS + 1] = -np.inf  # five words first
        assert text[length] == int(scores_V.argmax())
    again = command("fairseq-train", data_dir, "--save-dir", tmp_path, *MODEL, *BATCHING, *OPTIMIZATION)
    assert "decoder-normalize-before False instead of True" in again.error
    torch.load(path, weights_only=False)  # the run that was refused has left it whole
