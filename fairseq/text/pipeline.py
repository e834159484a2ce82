"""``TextPipeline``: raw text to the words of a dictionary, and back.

    text ── tokenize ──→ words ── apply_bpe ──→ subwords ──→ dictionary ids
    text ←─ detokenize ─ words ←─ remove_bpe ── subwords ←── dictionary ids

Each line is tokenised on its own; a new line ends it, as everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fairseq.config.flags import flag
from fairseq.text import BPES, TOKENIZERS


@dataclass(frozen=True)
class TextConfig:
    """Raw text (pip install 'fairseq-knnlm[subwords]')."""

    tokenizer: str | None = flag(None, "split text into words by this tokenizer", choices=TOKENIZERS.summaries)
    bpe: str | None = flag(None, "then split words into these subwords", choices=BPES.summaries)


class Encoder(Protocol):
    """One of the two steps, there and back."""

    def encode(self, line: str) -> str:
        """Returns the words of a line, a space between them."""
        ...

    def decode(self, line: str) -> str:
        """Returns the line that words were made of."""
        ...


class TextPipeline:
    """A tokenizer and subwords, either of which may be missing: then text passes as it is."""

    def __init__(self, tokenizer: Encoder | None = None, bpe: Encoder | None = None) -> None:
        self.tokenizer, self.bpe = tokenizer, bpe

    def __bool__(self) -> bool:
        return self.tokenizer is not None or self.bpe is not None

    def tokenize(self, line: str) -> str:
        """Returns the words of a line."""
        return line if self.tokenizer is None else self.tokenizer.encode(line)

    def detokenize(self, line: str) -> str:
        """Returns the line that words were made of."""
        return line if self.tokenizer is None else self.tokenizer.decode(line)

    def apply_bpe(self, line: str) -> str:
        """Returns the subwords of a line's words."""
        return line if self.bpe is None else self.bpe.encode(line)

    def remove_bpe(self, line: str) -> str:
        """Returns the words of a line of subwords."""
        return line if self.bpe is None else self.bpe.decode(line)

    def encode(self, line: str) -> str:
        """Returns a line as the dictionary has its words."""
        return self.apply_bpe(self.tokenize(line))

    def decode(self, line: str) -> str:
        """Returns the line that ``encode`` was given, as far as the tools tell."""
        return self.detokenize(self.remove_bpe(line))


def open_pipeline(tokenizer: str | None, bpe: str | None, settings: Callable[[type], Any]) -> TextPipeline:
    """Returns the pipeline of two names.

    Args:
        tokenizer: a name of ``TOKENIZERS``.
        bpe: a name of ``BPES``.
        settings: makes the config dataclass of each.

    Raises:
        ConfigError: an unknown name, a setting that is missing, or a package that is not installed.
        DataError: a file that cannot be read.
    """

    def opened(registry: Any, name: str | None) -> Any:
        if name is None:
            return None
        config = registry.config(name)
        return registry.get(name)(None if config is None else settings(config))

    return TextPipeline(opened(TOKENIZERS, tokenizer), opened(BPES, bpe))


def text_configs() -> tuple[type, ...]:
    """Returns the configs of every tokenizer and kind of subwords."""
    return tuple(dict.fromkeys([*TOKENIZERS.configs(), *BPES.configs()]))
