"""From strings to token ids and back: words between white space, ``</s>`` at the end of each line."""

from collections.abc import Iterable

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.dictionary import BOS, EOS, Dictionary
from fairseq.data.encoding import MARK, warn_of_mark
from fairseq.errors import ConfigError, shown
from fairseq.evaluate.texts import split_lines


def encode(dictionary: Dictionary, text: str) -> Int64s:
    """Returns the ids of a text's words, ``</s>`` after each line; a text without words is one ``</s>``."""
    if not isinstance(text, str):
        raise ConfigError(f"a text must be a string, or several a list of strings, but is {shown(text)}")
    warn_of_mark(text, "a text")
    return np.concatenate([dictionary.encode_line(line) for line in split_lines(text.removeprefix(MARK))])


def decode(dictionary: Dictionary, ids: Iterable[int]) -> str:
    r"""Returns the words of ``ids``, a line for each ``</s>``, without ``<s>``; what ``encode`` gave comes back.

    The last line has no ``\n`` behind it unless it is empty, for ``encode`` takes that one for the end of a line.
    """
    tokens = [idx for idx in map(int, ids) if idx != BOS]
    for idx in tokens:
        if not 0 <= idx < len(dictionary):
            raise ConfigError(f"a token must be an id from 0 to {len(dictionary) - 1}, but is {idx}")
    if tokens and tokens[-1] == EOS:
        del tokens[-1]
    lines: list[list[str]] = [[]]
    for idx in tokens:
        if idx == EOS:
            lines.append([])
        else:
            lines[-1].append(dictionary[idx])
    text = "\n".join(" ".join(line) for line in lines)
    return f"{text}\n" if text.endswith("\n") else text
