"""Subwords of a SentencePiece model: ``▁`` begins a word."""

from fairseq.text.characters import spaced, spelled, unspelled
from fairseq.text.config import ByteBPEConfig, SentencePieceConfig
from fairseq.text.packages import package, reading
from fairseq.text.post_process import joined


class SentencePiece:
    """A SentencePiece model, by the package sentencepiece."""

    def __init__(self, config: SentencePieceConfig) -> None:
        self._model = _Model("--bpe sentencepiece", "--sentencepiece-model", config.sentencepiece_model)

    def encode(self, line: str) -> str:
        """Returns the pieces of a line, a space between them: ``the cat`` → ``▁the ▁ca t``."""
        return self._model.pieces(line)

    def decode(self, line: str) -> str:
        """Returns pieces as text."""
        return joined(line, "sentencepiece")


class ByteBPE:
    """A SentencePiece model of a text whose characters are bytes (``characters.py``)."""

    def __init__(self, config: ByteBPEConfig) -> None:
        self._model = _Model("--bpe byte_bpe", "--sentencepiece-model-path", config.sentencepiece_model_path)

    def encode(self, line: str) -> str:
        """Returns the pieces of a line, a space between them."""
        return self._model.pieces(spelled(line))

    def decode(self, line: str) -> str:
        """Returns pieces as text."""
        return unspelled(spaced(line))


class _Model:
    def __init__(self, bpe: str, flag: str, path: str | None) -> None:
        module = package("sentencepiece", bpe)
        with reading(flag, path):
            self._processor = module.SentencePieceProcessor(model_file=path)

    def pieces(self, line: str) -> str:
        return " ".join(self._processor.encode(line, out_type=str))
