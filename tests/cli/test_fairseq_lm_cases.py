"""The command lines of fairseq's own tests of language models, unchanged, on a small text of letters.

Every transformer runs through all commands; convolutions, LSTMs and Transformer-XL are named as not there.
"""

import io
import math
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.builders.tiny_lm import Command

TRANSFORMERS = {
    "plain": "--add-bos-token --nval 1",
    "normformer": "--add-bos-token --nval 1 --scale-fc --scale-heads --scale-attn --scale-fc",
    "adaptive": "--add-bos-token --adaptive-softmax-cutoff 5,10,15",
}
NOT_THERE = {
    'fconv_lm --decoder-layers "[(850, 3)] * 2 + [(1024,4)]" --decoder-embed-dim 280 --nval 1': "convolutional",
    "lightconv_lm --adaptive-softmax-cutoff 5,10,15 --nval 1": "language models of lightweight convolutions",
    "lstm_lm": "LSTM language models",
    "lstm_lm --residuals": "LSTM language models",
    "transformer_xl --user-dir examples/truncated_bptt --task truncated_bptt_lm": "Transformer-XL",
}
LINES = 60  # some 650 tokens: a full block of 500, and another one
GENERATED = (
    "--beam 3 --batch-size 64 --max-len-b 5 --gen-subset valid --no-progress-bar --task language_modeling"
    " --sample-break-mode eos --max-tokens 500"
)
QUIET = "--no-progress-bar --num-workers 0"


def write_texts(directory: Path) -> int:
    """Writes lines of random letters; returns the tokens of ``test``, ``</s>`` counted."""
    rng, tokens = np.random.default_rng(0), 0
    for split in ("train", "valid", "test"):
        lines = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(1, 21))) for _ in range(LINES)]
        (directory / f"{split}.out").write_text("".join(" ".join(line) + "\n" for line in lines), encoding="utf-8")
        tokens = sum(len(line) + 1 for line in lines)
    return tokens


def preprocess(command: Command, directory: Path) -> None:
    prefixes = " ".join(f"--{split}pref {directory}/{split}.out" for split in ("train", "valid", "test"))
    assert command("fairseq-preprocess", *f"--only-source {prefixes} --destdir {directory}".split()).code == 0


def train_words(directory: Path, arch_and_more: str) -> list[str]:
    fixed = (
        f"--optimizer adam --lr 0.0001 --max-tokens 500 --tokens-per-sample 500 --save-dir {directory} --max-epoch 1"
        " --no-progress-bar --distributed-world-size 1 --ddp-backend no_c10d --num-workers 0"
    )
    return shlex.split(f"--task language_modeling {directory} {fixed} --arch {arch_and_more}")


def kinds(out: str) -> Counter[str]:
    return Counter(line[0] for line in out.splitlines() if re.match(r"[A-Z]-\d+\t", line))


@pytest.mark.slow
@pytest.mark.parametrize("case", TRANSFORMERS)
def test_a_transformer_runs_through_every_command(
    command: Command, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, num_tokens = tmp_path, write_texts(tmp_path)
    preprocess(command, data)
    done = command("fairseq-train", *train_words(data, f"transformer_lm {TRANSFORMERS[case]}"))
    assert done.code == 0, done.err
    # Letters at random: log2 26 at best, but for line ends; hardly trained, it is between that and twice as much.
    [loss] = done.floats(r"\| valid \| loss ([\d.]+)")
    assert math.log2(26) - 1 < loss < 2 * math.log2(26)

    checkpoint = f"--path {data}/checkpoint_last.pt"
    words = f"--task language_modeling {data} {checkpoint} --valid-subset valid --max-tokens 500 {QUIET}"
    validated = command("fairseq-validate", *words.split())
    assert validated.code == 0, validated.err
    match = re.search(r"loss ([\d.]+)", validated.out)
    assert match is not None
    assert float(match[1]) == pytest.approx(loss, abs=0.5 if "--nval" in TRANSFORMERS[case] else 2e-3)

    losses = []
    for context in ("", "--context-window 25"):
        evaluated = command("fairseq-eval-lm", *f"{data} {checkpoint} {QUIET} {context}".split())
        assert evaluated.code == 0, evaluated.err
        assert f"Evaluated {num_tokens} tokens" in evaluated.out
        match = re.search(r"Loss \(base 2\): ([\d.]+)", evaluated.out)
        assert match is not None
        losses.append(float(match[1]))
    assert losses == pytest.approx([loss, loss], abs=0.5)

    generated = command("fairseq-generate", *f"{data} {checkpoint} {GENERATED}".split())
    assert generated.code == 0, generated.err
    assert kinds(generated.out) == dict.fromkeys("STHDP", LINES)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"h e l l o\n")))
    continued = command("fairseq-interactive", *f"{data} {checkpoint} {GENERATED} --buffer-size 0 --input -".split())
    assert continued.code == 0, continued.err
    assert kinds(continued.out) == dict.fromkeys("SHDP", 1)
    assert "S-0\th e l l o" in continued.out


@pytest.mark.parametrize("arch_and_more", NOT_THERE)
def test_another_architecture_is_named(
    command: Command, tmp_path: Path, arch_and_more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path)
    preprocess(command, tmp_path)
    monkeypatch.chdir(tmp_path)  # where there is no such plugin
    error = command("fairseq-train", *train_words(tmp_path, arch_and_more)).error
    assert f"--arch {arch_and_more.split()[0]} is not here: it is for {NOT_THERE[arch_and_more]}" in error
    assert ("there are transformer_lm, " in error) != ("--user-dir must be" in error)
    assert "\n" not in error
