"""Letters, documents and lines of many tokens of a source text at once, as ``SourceText`` has those of one.

Legend: N tokens.
"""

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.source_text import BLANKS, SourceText

_BLANK = np.zeros(256, bool)
_BLANK[[*BLANKS]] = True


def letters_of(source: SourceText, position_N: Int64s) -> list[bytes]:
    """Returns the characters that begin in each token, UTF-8: one that several tokens share is the first one's."""
    start_N, end_N = source.bytes_before_N[position_N], source.bytes_before_N[position_N + 1]
    start_N = _at_letters(source, start_N, end_N)
    end_N = _at_letters(source, end_N, np.where(end_N > start_N, len(source.utf8), end_N))
    text = source.utf8.data
    return [bytes(text[start:end]) for start, end in zip(start_N.tolist(), end_N.tolist(), strict=True)]


def characters_in(source: SourceText, first_byte: int, last_byte: int) -> tuple[int, int]:
    """Returns the bytes [first, last) of all characters that have any of these bytes."""
    utf8 = source.utf8
    while 0 < first_byte < len(utf8) and utf8[first_byte] & 0xC0 == 0x80:
        first_byte -= 1
    while last_byte < len(utf8) and utf8[last_byte] & 0xC0 == 0x80:
        last_byte += 1
    return first_byte, last_byte


def places_of(source: SourceText, position_N: Int64s) -> tuple[Int64s, Int64s]:
    """Returns the document of each token, and its line as ``line_of`` has it."""
    document_N: Int64s = np.searchsorted(source.first_token_D, position_N, side="right") - 1
    start_N, end_N = source.bytes_before_N[position_N], source.bytes_before_N[position_N + 1]
    letter_N, left = start_N.copy(), np.flatnonzero(end_N > start_N)
    while len(left):  # as many turns as the longest run of white space has letters
        left = left[_BLANK[source.utf8[letter_N[left]]]]
        letter_N[left] += 1
        blank = letter_N[left] == end_N[left]
        letter_N[left[blank]] = start_N[left[blank]]
        left = left[~blank]
    begin_N = source.bytes_before_N[source.first_token_D[document_N]]
    before_N = np.searchsorted(source.line_ends, letter_N) - np.searchsorted(source.line_ends, begin_N)
    return document_N, np.array(source.table.first_lines, np.int64)[document_N] + before_N


def _at_letters(source: SourceText, byte_N: Int64s, stop_N: Int64s) -> Int64s:
    """Returns where the next characters begin, or ``stop_N`` where none does before it."""
    at_N, left = byte_N.copy(), np.flatnonzero(byte_N < stop_N)
    while len(left):  # three turns at the most: a character has four bytes
        left = left[source.utf8[at_N[left]] & 0xC0 == 0x80]
        at_N[left] += 1
        left = left[at_N[left] < stop_N[left]]
    return at_N
