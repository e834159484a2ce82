"""Files of subwords, small enough to work out by hand what they do to ``lower low``."""

import json
from argparse import Namespace
from pathlib import Path

import torch

from tests.builders.cases import Artefacts

# Joined in this order. At the end of a word w is another symbol than within: lower → low@@ er, low → lo@@ w.
PAIRS = ("l o", "lo w", "e r</w>")


def fastbpe_codes(path: Path) -> Path:
    """Returns the file of codes with counts, as fastBPE writes it."""
    path.write_text("".join(f"{pair} {9 - n}\n" for n, pair in enumerate(PAIRS)))
    return path


def subword_nmt_codes(path: Path) -> Path:
    """Returns the file of the same codes as subword-nmt writes it."""
    path.write_text("\n".join(["#version: 0.2", *PAIRS]) + "\n")
    return path


def byte_level_files(directory: Path) -> tuple[Path, Path]:
    """Returns ``encoder.json`` and ``vocab.bpe`` of byte-level subwords; Ġ is a space that begins a word."""
    subwords = ["l", "o", "w", "e", "r", "Ġ", "lo", "low", "er", "Ġlow"]
    vocab, merges = directory / "encoder.json", directory / "vocab.bpe"
    vocab.write_text(json.dumps({subword: number for number, subword in enumerate(subwords, 10)}))
    merges.write_text("#version: 0.2\nl o\nlo w\ne r\nĠ low\n", encoding="utf-8")
    return vocab, merges


def sentencepiece_model(prefix: Path) -> Path:
    """Returns a model of 20 pieces, trained on a few words."""
    import sentencepiece

    lines = [f"the lower {a} and the lowest {b} slower" for a in ("sea", "tree", "rose") for b in ("stone", "nest")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3), model_prefix=str(prefix), vocab_size=20, minloglevel=2, num_threads=1
    )
    return prefix.with_name(prefix.name + ".model")


# What the pairs make of a few words; more words fill the dictionary, and are never met.
SUBWORDS = ["low@@", "er", "lo@@", "w", "h@@", ",", ".", "&apos;t", "don", "l@@", "o"]


def subword_model(artefacts: Artefacts, directory: Path) -> Path:
    """Returns the directory of a model of subwords as fairseq publishes one: model.pt, dict.txt, bpecodes."""
    directory.mkdir()
    with torch.serialization.safe_globals([Namespace]):
        checkpoint = torch.load(artefacts.checkpoint, weights_only=True)
    del checkpoint["extra_state"]["dictionary_sha256"]
    torch.save(checkpoint, directory / "model.pt")
    symbols = [*SUBWORDS, *(f"other{n}" for n in range(36 - len(SUBWORDS)))]
    (directory / "dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols))
    fastbpe_codes(directory / "bpecodes")
    return directory
