"""A tiny text, binarised by hand, the flags of a tiny model, and what a command did with them."""

import importlib
import re
import shlex
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

EOS = 2
NUM_WORDS = 36  # + 4 specials = 40 ids
NUM_SENTENCES = {"train": 150, "valid": 30, "test": 30}
TOKENS_PER_SAMPLE = 16

# A model that trains in a second: 2 layers, d = 16, adaptive bands of 10, 20 and 10 ids.
MODEL = shlex.split(
    "--decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2"
    " --dropout 0.1 --attention-dropout 0.1"
)
ADAPTIVE = shlex.split(
    "--criterion adaptive_loss --adaptive-input --adaptive-input-cutoff 10,30"
    " --adaptive-softmax-cutoff 10,30 --adaptive-input-factor 2 --adaptive-softmax-factor 2"
    " --tie-adaptive-weights --tie-adaptive-proj --no-decoder-final-norm"
)
BATCHING = f"--tokens-per-sample {TOKENS_PER_SAMPLE} --max-tokens 128 --required-batch-size-multiple 1".split()
OPTIMIZATION = shlex.split("--optimizer adam --lr 0.01 --log-format simple --log-interval 5 --cpu")
TRAINED = [*MODEL, *ADAPTIVE, *BATCHING, *OPTIMIZATION]


def write_split(prefix: Path, sentences: Sequence[Sequence[int]]) -> None:
    """Writes PREFIX.bin and PREFIX.idx, 16-bit ids, as the format's table says."""
    sizes = [len(sentence) for sentence in sentences]
    offsets = np.cumsum([0, *sizes[:-1]]) * 2
    prefix.with_suffix(".bin").write_bytes(b"".join(np.array(s, "<u2").tobytes() for s in sentences))
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, 8, len(sizes))
    prefix.with_suffix(".idx").write_bytes(
        header + np.array(sizes, "<i4").tobytes() + np.array(offsets, "<i8").tobytes()
    )


def make_sentences(count: int, seed: int) -> list[list[int]]:
    """Returns sentences in which a word is mostly followed by its neighbour, so that there is something to learn."""
    random = np.random.default_rng(seed)
    sentences = []
    for _ in range(count):
        word, sentence = int(random.integers(NUM_WORDS)), []
        for _ in range(int(random.integers(0, 14))):
            sentence.append(4 + word)
            word = (word + 1) % NUM_WORDS if random.random() < 0.8 else int(random.integers(NUM_WORDS))
        sentences.append([*sentence, EOS])
    return sentences


def write_data(directory: Path, symbols: Sequence[str]) -> Path:
    """Writes a data directory: a dictionary of NUM_WORDS words, and sentences of them for train, valid and test."""
    directory.mkdir()
    lines = (f"{symbol} {100 - i}\n" for i, symbol in enumerate(symbols))
    (directory / "dict.txt").write_text("".join(lines), encoding="utf-8")
    for seed, (split, count) in enumerate(NUM_SENTENCES.items()):
        write_split(directory / split, make_sentences(count, seed))
    return directory


def num_tokens(data_dir: Path, split: str) -> int:
    """Returns the tokens of a split, by the size of its file."""
    return (data_dir / f"{split}.bin").stat().st_size // 2


def batches_in_an_epoch(data_dir: Path) -> int:
    """Returns the batches of the training split: 8 blocks of 16 tokens are 128, the whole of --max-tokens."""
    blocks = -(-num_tokens(data_dir, "train") // TOKENS_PER_SAMPLE)
    return -(-blocks // 8)


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str
    log: list[str]
    warnings: list[str]

    @property
    def error(self) -> str:
        """The one line of a user error."""
        assert self.code == 2, self.err
        lines = [line for line in self.err.splitlines() if ": error: " in line]
        assert len(lines) == 1, self.err
        return lines[0].split(": error: ", 1)[1]

    def floats(self, pattern: str) -> list[float]:
        """Returns the first group of every line of the log that matches."""
        return [float(match[1]) for line in self.log if (match := re.search(pattern, line))]


Command = Callable[..., Outcome]


def main_of(prog: str) -> Callable[[Sequence[str]], None]:
    """Returns the function that a console script runs."""
    modules = {
        "fairseq-preprocess": "fairseq_cli.preprocess",
        "fairseq-train": "fairseq_cli.train",
        "fairseq-validate": "fairseq_cli.validate",
        "average_checkpoints": "fairseq_cli.average_checkpoints",
        "fairseq-eval-lm": "fairseq_cli.eval_lm",
        "fairseq-generate": "fairseq_cli.generate",
        "fairseq-interactive": "fairseq_cli.interactive",
        "fairseq-score-lm": "fairseq_cli.score_lm",
        "fairseq-knnlm": "fairseq_cli.knnlm",
        "fairseq-lm-eval": "fairseq_cli.lm_eval",
        "build_dstore.py": "build_dstore",
        "fairseq-build-dstore": "build_dstore",
    }
    main: Callable[[Sequence[str]], None] = importlib.import_module(modules[prog]).main
    return main


def token_log_probs(out: str) -> np.ndarray:
    """Returns every token's printed log-probability, in the order of the blocks."""
    lines = sorted((line for line in out.splitlines() if re.match(r"\d+ ", line)), key=lambda x: int(x.split()[0]))
    return np.array([float(p) for line in lines for p in re.findall(r"\[(-?[\d.]+|-inf)\]", line)])
