"""A split as people read it: the text around a token, its line and its document.

    words of the dictionary      … the cat [sat] on the …       a space between words, lines and documents found in them
    source text (tokenized)      … def f(x):↵    [return] x …   as it stands in the files, which are the documents

Which of the two, the split's files decide: those that were tokenized have their source text beside them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.passages.documents import Documents, find_documents, line_text, title_of
from fairseq.data.passages.places import characters_in, letters_of, places_of
from fairseq.data.source_text import SourceText
from fairseq.errors import ConfigError, MismatchError

_IN_ONE_LINE = str.maketrans({"\n": "↵", "\r": "␍", "\t": "⇥", "\v": "␋", "\f": "␌", "\x1b": "␛", "\0": "␀"})


@dataclass(frozen=True)
class Passage:
    """A token with the text around it.

    Attributes:
        before: the text before it.
        value: its own.
        after: the text after it.
        joint: what stands between the three: a space, or nothing where they hold the white space themselves.
    """

    before: str
    value: str
    after: str
    joint: str

    @property
    def line(self) -> str:
        """All of it in one line, the token in brackets."""
        return self.joint.join(map(one_line, (self.before, f"[{self.value}]", self.after)))


def one_line(text: str) -> str:
    """Returns a text whose line breaks and tabs are marks."""
    return text.translate(_IN_ONE_LINE)


class SplitText(ABC):
    """A split as people read it.

    Args:
        text: its tokens.

    Attributes:
        joint: what stands between two tokens that are shown one by one.
        rule: how it has documents, in words.
    """

    joint: str

    def __init__(self, text: MMapIndexedDataset) -> None:
        self._text = text

    def around(self, position: int, before: int, after: int) -> Passage:
        """Returns a token with up to so many tokens before it and after it."""
        first, last = max(position - before, 0), min(position + 1 + after, len(self._text.tokens))
        value, rest = self.passage(position, position + 1), self.passage(position + 1, last)
        return Passage(self.passage(first, position), value, rest, self.joint)

    @abstractmethod
    def passage(self, first: int, last: int) -> str:
        """Returns the text of the tokens [first, last)."""

    @property
    @abstractmethod
    def documents(self) -> Documents:
        """The documents."""

    @abstractmethod
    def name_of(self, document: int) -> str:
        """Returns what a document is called."""

    @abstractmethod
    def is_called(self, document: int, name: str) -> bool:
        """Returns whether a name that was typed is a document's."""

    def fits(self, document: int, pattern: str) -> bool:
        """Returns whether a pattern of paths (``src/*.py``) fits a document; never where documents are no files."""
        return False

    @abstractmethod
    def line_of(self, position: int) -> tuple[int, int]:
        """Returns the number of a token's line, and which token of it that is, from 0."""


class WordText(SplitText):
    """A split whose tokens are words of a dictionary.

    Args:
        text: its tokens.
        dictionary: of them.
        document_start: pattern of a document's first line; what the text looks like decides without.
    """

    joint = " "

    def __init__(self, text: MMapIndexedDataset, dictionary: Dictionary, document_start: str | None) -> None:
        super().__init__(text)
        self._dictionary, self._document_start = dictionary, document_start

    def passage(self, first: int, last: int) -> str:
        """Returns the words of the tokens [first, last)."""
        return " ".join(self._dictionary[idx] for idx in self._text.tokens[first:last].tolist())

    @cached_property
    def documents(self) -> Documents:
        """The documents, found by their lines."""
        return find_documents(self._text, self._dictionary, self._document_start)

    def name_of(self, document: int) -> str:
        """Returns a document's title."""
        return title_of(self._text, self._dictionary, int(self.documents.line_D[document]))

    def is_called(self, document: int, name: str) -> bool:
        """Returns whether a name is a document's title or first line."""
        first_line = line_text(self._text, self._dictionary, int(self.documents.line_D[document]))
        return name in (self.name_of(document), first_line)

    def line_of(self, position: int) -> tuple[int, int]:
        """Returns the number of a token's line, from 0, and which token of it that is."""
        line = int(np.searchsorted(self._text.offsets, position, side="right")) - 1
        return line, position - int(self._text.offsets[line])


class FileText(SplitText):
    """A split whose tokens were made of whole documents, which are mostly files.

    Args:
        text: its tokens.
        source: their source text.

    Raises:
        MismatchError: the source text is of other tokens.
    """

    joint = ""

    def __init__(self, text: MMapIndexedDataset, source: SourceText) -> None:
        super().__init__(text)
        self._source = source
        if source.num_tokens != len(text.tokens):
            raise MismatchError(
                f"{text.tokens_path} has {len(text.tokens)} tokens, but the source text beside it is of"
                f" {source.num_tokens}; tokenize it again with fairseq-preprocess --overwrite"
            )

    def around(self, position: int, before: int, after: int) -> Passage:
        """Returns a token with tokens of its own document around it; characters are whole, also the token's own."""
        source, document = self._source, self._source.document_of(position)
        first = max(position - before, source.first_token(document))
        last = min(position + 1 + after, source.first_token(document + 1))
        begin, end = (int(source.bytes_before_N[at]) for at in (first, last))
        own = (int(source.bytes_before_N[at]) for at in (position, position + 1))
        (begin, end), (start, stop) = characters_in(source, begin, end), characters_in(source, *own)
        left, value, right = (
            bytes(source.utf8[one:two]).decode(errors="replace") for one, two in pairwise((begin, start, stop, end))
        )
        return Passage(left, value, right, self.joint)

    def passage(self, first: int, last: int) -> str:
        """Returns the source text of the tokens [first, last); a character that is cut is U+FFFD."""
        return self._source.text(first, last)

    @cached_property
    def documents(self) -> Documents:
        """The documents that were tokenized."""
        numbers = range(self._source.num_documents + 1)
        start_D: Int64s = np.array([self._source.first_token(number) for number in numbers], np.int64)
        line_D = np.searchsorted(self._text.offsets, start_D[:-1], side="right") - 1
        return Documents("as they were tokenized", line_D, start_D[:-1], start_D[1:])

    def name_of(self, document: int) -> str:
        """Returns a document's file, or its name in it."""
        return self._source.name_of(document)

    def is_called(self, document: int, name: str) -> bool:
        """Returns whether a name is a document's, or the end of its path."""
        own = self.name_of(document)
        return own == name or own.endswith(f"/{name.lstrip('/')}")

    def fits(self, document: int, pattern: str) -> bool:
        """Returns whether a pattern of paths fits a document's."""
        return fnmatchcase(self.name_of(document), pattern)

    def line_of(self, position: int) -> tuple[int, int]:
        """Returns the number of a token's line in its file, from 1, and which token of it that is."""
        return self._source.line_of(position), position - self._source.line_range(position)[0]

    def letters_of(self, position_N: Int64s) -> list[bytes]:
        """Returns the characters that begin in each token, UTF-8."""
        return letters_of(self._source, position_N)

    def places_of(self, position_N: Int64s) -> tuple[Int64s, Int64s]:
        """Returns the document of each token, and its line in its file, from 1."""
        return places_of(self._source, position_N)


def open_split(
    prefix: str | Path, text: MMapIndexedDataset, dictionary: Dictionary, document_start: str | None = None
) -> SplitText:
    """Returns a split as people read it.

    Args:
        prefix: of its files.
        text: its tokens.
        dictionary: of them.
        document_start: pattern of a document's first line, where lines are all that is known.

    Raises:
        ConfigError: a pattern for documents that are known.
        DataError: the source text cannot be read.
        MismatchError: it is of other tokens.
    """
    source = SourceText.open(prefix)
    if source is None:
        return WordText(text, dictionary, document_start)
    if document_start is not None:
        raise ConfigError(
            f"--document-start {document_start} finds documents in lines, but those of {prefix} are known: they were"
            " tokenized one by one; leave it out"
        )
    return FileText(text, source)
