"""Tokenizers: a line of text becomes words between spaces, and comes back."""

import re

from fairseq.text.config import MosesConfig
from fairseq.text.packages import package


class Moses:
    """The tokenizer of the Moses toolkit, by the package sacremoses."""

    def __init__(self, config: MosesConfig) -> None:
        sacremoses = package("sacremoses", "--tokenizer moses")
        self._tokenizer = sacremoses.MosesTokenizer(config.source_lang)
        self._detokenizer = sacremoses.MosesDetokenizer(config.target_lang)
        self._splits_dashes, self._escapes = not config.moses_no_dash_splits, not config.moses_no_escape

    def encode(self, line: str) -> str:
        """Returns the words of a line, a space between them."""
        text: str = self._tokenizer.tokenize(
            line, aggressive_dash_splits=self._splits_dashes, return_str=True, escape=self._escapes
        )
        return text

    def decode(self, line: str) -> str:
        """Returns words as a person writes them: ``Hello , world`` → ``Hello, world``."""
        text: str = self._detokenizer.detokenize(line.split())
        return text


class Space:
    """Words between white space, as they are."""

    def encode(self, line: str) -> str:
        """Returns the line with one space wherever there is white space."""
        return re.sub(r"\s+", " ", line)

    def decode(self, line: str) -> str:
        """Returns the line as it is."""
        return line


def space(config: None) -> Space:
    """Returns the tokenizer that changes nothing but white space."""
    return Space()
