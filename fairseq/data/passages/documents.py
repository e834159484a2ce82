r"""Documents: where each one begins in a binarised text, which is a stream of lines.

The files know lines only (the items of ``.idx``). What a document is, the text itself has to say; the first rule that
finds anything is taken:

    a pattern    a document begins with every line that matches it (``--document-start``)
    headings     of WikiText: a line ``= Title =``, with one ``=`` on either side, and an empty line before and after
    empty lines  a document is what stands between them
    nothing      the whole text is one

What stands before the first document belongs to none. A document's title is its first line. Lines hold the tokens of
the dictionary, so a pattern sees the words as they were binarised: single spaces, ``<unk>`` for the rare ones.

Legend: D documents · S lines.
"""

import re
from dataclasses import dataclass

import numpy as np

from fairseq.arrays import Bools, Int64s
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import ConfigError

HEADING_MARK = "="
LONGEST_TITLE = 120


@dataclass(frozen=True)
class Documents:
    """The documents of a text.

    Attributes:
        rule: what they were found by, in words.
        line_D: the first line of each.
        start_D: its first token, of the whole stream.
        stop_D: the token after its last one.
    """

    rule: str
    line_D: Int64s
    start_D: Int64s
    stop_D: Int64s

    def __len__(self) -> int:
        return len(self.start_D)

    def of(self, position: int) -> int | None:
        """Returns the number of the document that a token is in, None before the first."""
        number = int(np.searchsorted(self.start_D, position, side="right")) - 1
        return number if number >= 0 and position < self.stop_D[number] else None


def find_documents(text: MMapIndexedDataset, dictionary: Dictionary, pattern: str | None = None) -> Documents:
    """Returns the documents of a text, by a pattern if there is one.

    Raises:
        ConfigError: the pattern is no regular expression, or matches nothing.
    """
    if pattern is not None:
        lines = _matching(text, dictionary, pattern)
        if not len(lines):
            raise ConfigError(
                f"--document-start {pattern} matches no line of {text.tokens_path.with_suffix('')}; a line is, for"
                f" example, {line_text(text, dictionary, 0)!r}"
            )
        return _from_lines(text, f"lines that match {pattern}", lines)
    empty_S = text.sizes <= 1  # no words: nothing at all, or an end of line alone
    headings = _headings(text, dictionary, empty_S)
    if len(headings):
        return _from_lines(text, "headings = … =", headings)
    after_empty_S = np.concatenate([[True], empty_S[:-1]])
    if empty_S.any():
        return _from_lines(text, "empty lines between them", np.flatnonzero(after_empty_S & ~empty_S))
    return _from_lines(text, "the whole text is one", np.zeros(min(len(text), 1), np.int64))


def line_text(text: MMapIndexedDataset, dictionary: Dictionary, line: int) -> str:
    """Returns the words of a line, without its end."""
    ids = text[line].tolist()
    if ids[-1:] == [dictionary.eos()]:
        del ids[-1]
    return " ".join(dictionary[idx] for idx in ids)


def title_of(text: MMapIndexedDataset, dictionary: Dictionary, line: int) -> str:
    """Returns a document's title: its first line, without the marks of a heading, cut if it is long."""
    words = line_text(text, dictionary, line)
    match = re.fullmatch(r"= (.+) =", words)
    title = match[1] if match else words
    return title if len(title) <= LONGEST_TITLE else f"{title[:LONGEST_TITLE]}…"


def _from_lines(text: MMapIndexedDataset, rule: str, line_D: Int64s) -> Documents:
    start_D = text.offsets[line_D]
    return Documents(rule, line_D, start_D, np.append(start_D, text.offsets[-1])[1:])


def _headings(text: MMapIndexedDataset, dictionary: Dictionary, empty_S: Bools) -> Int64s:
    """Returns the lines ``= … =`` with one mark on either side that stand between empty lines."""
    mark = dictionary.index(HEADING_MARK)
    candidates = np.flatnonzero(text.sizes >= 4)  # mark, a word, mark, end of line
    if mark == dictionary.unk() or not len(candidates):
        return np.empty(0, np.int64)
    first, last = text.offsets[candidates], text.offsets[candidates + 1] - 1
    tokens = text.tokens
    inner = (tokens[first + 1] != mark) & (tokens[last - 2] != mark)
    lines = candidates[(tokens[first] == mark) & (tokens[last - 1] == mark) & inner]
    around_S = np.concatenate([[True], empty_S, [True]])
    found: Int64s = lines[around_S[lines] & around_S[lines + 2]]
    return found


def _matching(text: MMapIndexedDataset, dictionary: Dictionary, pattern: str) -> Int64s:
    try:
        wanted = re.compile(pattern)
    except re.error as err:
        raise ConfigError(f"--document-start {pattern} must be a regular expression, but is not ({err})") from err
    lines = (line for line in range(len(text)) if wanted.search(line_text(text, dictionary, line)))
    return np.fromiter(lines, np.int64)
