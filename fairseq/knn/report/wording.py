"""The words of a page, and the files and lines that its tokens stand in.

Of texts that were tokenized whole, a word is what the token was in the source text, white space and all, and words are
shown without a space between them. Else words are the dictionary's.

Legend: N tokens of the scored text · M tokens of the datastores' texts · V words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Array, Int64s
from fairseq.data.passages.split_text import FileText, SplitText
from fairseq.knn.report.texts import Texts


def words_of(texts: Texts, at_N: Int64s, source_at_M: Int64s) -> Sequence[str]:
    """Returns the words by id; of a source text, those of the tokens at some places are what stands at the first."""
    if not is_source_text(texts):
        return texts.dictionary.symbols
    words = list(texts.dictionary.symbols)
    for split, start, at in _by_split(texts, at_N, source_at_M):
        tokens = texts.text if split is texts.split else texts.source
        for token, first in zip(*np.unique(tokens[at], return_index=True), strict=True):
            position = int(at[first]) - start
            words[token] = split.passage(position, position + 1)
    return words


@dataclass(frozen=True)
class Vocabulary:
    """The words of a page, numbered anew.

    Attributes:
        words: W of them.
        id_W: of the dictionary.
        word_L: the number of each token's word.
    """

    words: list[str]
    id_W: Int64s
    word_L: Int64s

    @property
    def facts(self) -> dict[str, Any]:
        """What the page has to know: the words, and of each the first one that is the same in the dictionary."""
        known, same = np.unique(self.id_W, return_inverse=True)
        return {"words": self.words, **({"same": same.tolist()} if len(known) < len(self.id_W) else {})}


def vocabulary_of(texts: Texts, at_N: Int64s, source_at_M: Int64s) -> Vocabulary:
    """Returns the words of tokens of the scored text, and then of the datastores', N + M of them.

    Of a source text they are what stands there, so that a token may have several words. A character that several tokens
    share is shown at the first of them.
    """
    id_L = np.concatenate([texts.text[at_N], texts.source[source_at_M]])
    if not is_source_text(texts):
        id_W, word_L = np.unique(id_L, return_inverse=True)
        return Vocabulary([texts.dictionary[idx] for idx in id_W], id_W.astype(np.int64), word_L)
    letters: list[bytes] = []
    for split, start, at in _by_split(texts, at_N, source_at_M):
        assert isinstance(split, FileText)
        letters += split.letters_of(at - start)
    number_of: dict[tuple[int, bytes], int] = {}
    word_L = np.array([number_of.setdefault(word, len(number_of)) for word in zip(id_L.tolist(), letters, strict=True)])
    words = [text.decode(errors="replace") for _, text in number_of]
    return Vocabulary(words, np.array([idx for idx, _ in number_of], np.int64), word_L)


def is_source_text(texts: Texts) -> bool:
    """Whether every text has its source text."""
    return all(isinstance(split, FileText) for split in (texts.split, *texts.sources))


def places_of(texts: Texts, at_N: Int64s, source_at_M: Int64s) -> tuple[list[str], dict[str, Array]]:
    """Returns names of files, and arrays: the file of each token, a number among them, and its line from 1.

    ``file`` and ``line`` are of the scored text's tokens, ``source_file`` and ``source_line`` of the datastores'. All
    are empty where there are no files.
    """
    if not is_source_text(texts):
        return [], {}
    number_of: dict[str, int] = {}
    file_N, line_N = np.zeros((2, len(at_N)), np.uint32)
    file_M, line_M = np.zeros((2, len(source_at_M)), np.uint32)
    for split, start, at in _by_split(texts, at_N, source_at_M):
        assert isinstance(split, FileText)
        document, line = split.places_of(at - start)
        for one in np.unique(document).tolist():
            number_of.setdefault(split.name_of(one), len(number_of))
        known, which = np.unique(document, return_inverse=True)
        file = np.array([number_of[split.name_of(one)] for one in known.tolist()], np.uint32)[which]
        if split is texts.split:
            file_N, line_N = file, line.astype(np.uint32)
        else:
            within = (source_at_M >= at[0]) & (source_at_M <= at[-1])
            file_M[within], line_M[within] = file, line
    return list(number_of), {"file": file_N, "line": line_N, "source_file": file_M, "source_line": line_M}


def pieces_of(texts: Texts) -> list[tuple[int, int]]:
    """Returns begin and end in ``texts.source`` of every text, or of its documents where it is of files."""
    pieces: list[tuple[int, int]] = []
    for part, split in zip(texts.parts, texts.sources, strict=True):
        if isinstance(split, FileText):
            bounds = (split.documents.start_D + part.start, split.documents.stop_D + part.start)
            pieces += zip(*(bound.tolist() for bound in bounds), strict=True)
        else:
            pieces.append((part.start, part.stop))
    return pieces


def facts_of(texts: Texts, files: Sequence[str]) -> dict[str, Any]:
    """Returns what the page has to know: what words are called, what stands between two, and the files."""
    return {"unit": unit_of(texts), "joint": "" if is_source_text(texts) else " ", "files": files}


def unit_of(texts: Texts) -> str:
    """Returns what one of a text's tokens is called: ``token`` where it is tokenized, else ``word``."""
    return "token" if isinstance(texts.split, FileText) else "word"


def _by_split(texts: Texts, at_N: Int64s, source_at_M: Int64s) -> Iterator[tuple[SplitText, int, Int64s]]:
    """Yields each split that has tokens, where it begins among its kind, and the places of them, ascending."""
    if len(at_N):
        yield texts.split, 0, at_N
    for part, split in zip(texts.parts, texts.sources, strict=True):
        at = source_at_M[(source_at_M >= part.start) & (source_at_M < part.stop)]
        if len(at):
            yield split, part.start, at
