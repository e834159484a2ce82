"""The way back: fairseq 0.12 reads the checkpoints that we write, unchanged, and prints our loss.

``make peer`` installs it. Here it evaluates a model of each kind that ``fairseq-train`` has trained a little.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

from fairseq_cli.shared.run import run
from tests.builders.peer import last_line_of, peer_python
from tests.builders.tiny_lm import BATCHING, MODEL, NUM_WORDS, OPTIMIZATION, TOKENS_PER_SAMPLE, main_of, write_data

ROOT = Path(__file__).resolve().parents[2]
CHILD = ROOT / "tests" / "builders" / "peer_child.py"
PRINTED = 1.1e-4  # both print four decimals, of sums in float32 there and float64 here

BANDS = (
    "--adaptive-input --adaptive-input-factor 2 --adaptive-softmax-cutoff 10,30 --adaptive-softmax-factor 2"
    " --criterion adaptive_loss"
)
POST = "--no-decoder-normalize-before"
KINDS = {
    "plain": "",
    "shared words": "--share-decoder-input-output-embed",
    "no final norm": "--no-decoder-final-norm",
    "learned positions": "--decoder-learned-pos",
    "more learned positions": "--decoder-learned-pos --max-target-positions 40",
    "no positions": "--no-token-positional-embeddings",
    "no scale": "--no-scale-embedding",
    "widths": "--decoder-input-dim 24 --decoder-output-dim 20",
    "shared widths": "--share-decoder-input-output-embed --decoder-input-dim 24 --decoder-output-dim 24",
    "begins with <s>": "--add-bos-token",
    "begins with <s>, learned positions": "--add-bos-token --decoder-learned-pos",
    "adaptive input": "--adaptive-input --adaptive-input-cutoff 10,30 --adaptive-input-factor 2",
    "adaptive softmax": "--adaptive-softmax-cutoff 10,30 --criterion adaptive_loss",
    "adaptive, nothing tied": BANDS,
    "adaptive, other bands": f"{BANDS} --adaptive-input-cutoff 8,20 --adaptive-input-factor 3",
    "adaptive, widths": f"{BANDS} --decoder-input-dim 32 --decoder-output-dim 24",
    "adaptive, words tied": f"{BANDS} --tie-adaptive-weights",
    "adaptive, all tied": f"{BANDS} --tie-adaptive-weights --tie-adaptive-proj",
    "the published model's kind": f"{BANDS} --arch transformer_lm_wiki103 --adaptive-input-cutoff 10,30",
    "gbw": "--arch transformer_lm_gbw",
    "gpt": "--arch transformer_lm_gpt",
    "gpt2": "--arch transformer_lm_gpt2_tiny",
    "gpt3": "--arch transformer_lm_gpt3_small",
    "LayerNorm of the words": "--layernorm-embedding",
    "post-norm, LayerNorm of the words": f"{POST} --layernorm-embedding --decoder-learned-pos",
    **{name: f"--activation-fn {name}" for name in ("gelu", "gelu_accurate", "gelu_fast", "tanh", "linear")},
    "post-norm": POST,
    "post-norm, shared, no final norm": f"{POST} --share-decoder-input-output-embed --no-decoder-final-norm",
    "post-norm, adaptive": f"{POST} {BANDS} --tie-adaptive-weights --tie-adaptive-proj",
    "post-norm, learned positions, <s>": f"{POST} --decoder-learned-pos --add-bos-token",
    "post-norm by another preset": f"{POST} --arch transformer_lm_gbw",
    "one file made of shards": "--ddp-backend fully_sharded",
}


def command(prog: str, *words: object) -> None:
    assert run(prog, main_of(prog), [str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def peer() -> Path:
    """Returns the Python that has fairseq 0.12."""
    return peer_python()


@pytest.fixture(scope="module")
def losses(peer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, str]]:
    """Returns our loss, and what fairseq 0.12 said, of each kind of model."""
    root = tmp_path_factory.mktemp("way-back")
    data = write_data(root / "data-bin", [f"w{i}" for i in range(NUM_WORDS)])
    jobs, ours = {}, {}
    for number, (kind, flags) in enumerate(KINDS.items()):
        directory = root / str(number)
        words = [*MODEL, *BATCHING, *OPTIMIZATION, "--max-update", 12, "--no-epoch-checkpoints"]
        command("fairseq-train", data, "--save-dir", directory, *words, *shlex.split(flags))
        if (shards := directory / "checkpoint_last.dcp").is_dir():
            command("fairseq-knnlm", "convert", shards, directory / "checkpoint_last.pt")
        job = [str(data), "--path", str(directory / "checkpoint_last.pt"), "--max-tokens", "128", "--cpu"]
        command("fairseq-eval-lm", *job, "--results-path", directory / "results.json")
        ours[kind] = json.loads((directory / "results.json").read_text())["loss_base2"]
        jobs[kind] = [
            *job,
            "--sample-break-mode",
            "none",
            "--tokens-per-sample",
            str(TOKENS_PER_SAMPLE),
            "--num-workers",
            "0",
        ]
        jobs[kind] += ["--add-bos-token"] if "--add-bos-token" in flags else []
    (root / "jobs.json").write_text(json.dumps(jobs))
    theirs = json.loads(last_line_of(peer, str(CHILD), str(root / "jobs.json"), cwd=root))
    return {kind: (ours[kind], theirs[kind]) for kind in KINDS}


@pytest.mark.slow
def test_fairseq_reads_what_we_write_and_finds_our_loss(losses: dict[str, tuple[float, str]]) -> None:
    wrong = {}
    for kind, (ours, said) in losses.items():
        printed = re.search(r"Loss \(base 2\): ([\d.]+)", said)
        if printed is None or abs(float(printed[1]) - ours) > PRINTED:
            wrong[kind] = (ours, printed[1] if printed is not None else said[-500:])
    assert not wrong
    # Losses that were all the same would agree whatever was read.
    assert len({round(ours, 3) for ours, _ in losses.values()}) > len(KINDS) - 8
