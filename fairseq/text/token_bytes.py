"""Where each token begins in its text, in bytes.

A token's own bytes are known where its tokenizer is of bytes, or marks spaces by ``▁``. If the tokens' bytes, one after
another, are the text, then where each begins is a sum. If not (lower-cased, normalised or stripped text), it is what
the tokenizer says in characters: a token begins where the one before has ended, so that what lies between two tokens
belongs to the second, and of several tokens that share a character the first has it.

N tokens.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fairseq.arrays import Int64s

SPACE_MARK = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """The bytes that tokens stand for.

    Args:
        tokenizer: of the package ``tokenizers``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._of: dict[int, bytes] = {}
        self._tokenizer = tokenizer
        self._added = {idx: token.content for idx, token in tokenizer.get_added_tokens_decoder().items()}
        self._is_of_bytes = "ByteLevel" in repr(tokenizer.decoder) or "ByteLevel" in repr(tokenizer.pre_tokenizer)
        self._alphabet = _alphabet() if self._is_of_bytes else {}

    def of(self, idx: int) -> bytes:
        """Returns the bytes of the tokenizer's id."""
        found = self._of.get(idx)
        if found is None:
            found = self._of[idx] = self._bytes(idx)
        return found

    def _bytes(self, idx: int) -> bytes:
        if idx in self._added:
            return str(self._added[idx]).encode()
        token = str(self._tokenizer.id_to_token(idx))
        if self._is_of_bytes:
            return b"".join(self._alphabet.get(letter) or letter.encode() for letter in token)
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE_MARK, " ").encode()

    def starts(self, ids: Sequence[int], data: bytes) -> Int64s | None:
        """Returns where the tokens of a text begin, and its end, int64 ``[N + 1]``; None if they are not its bytes."""
        parts = [self.of(idx) for idx in ids]
        joined = b"".join(parts)
        before = 1 if joined == b" " + data else 0  # a space that the tokenizer put in front
        if not before and joined != data:
            return None
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum(sizes, out=starts[1:])
        return np.maximum(starts - before, 0)


def starts_of_spans(spans: Sequence[tuple[int, int]], text: str, data: bytes) -> Int64s:
    """Returns where tokens begin in a text's bytes, and its end, int64 ``[N + 1]``, by their characters.

    Args:
        spans: first character of each, and the one after its last.
        text: as it was.
        data: its bytes.
    """
    ends = np.array([end for _, end in spans], np.int64)
    starts = np.zeros(len(spans) + 1, np.int64)
    np.maximum.accumulate(ends, out=starts[1:])
    starts[-1:] = len(text)
    if len(data) == len(text):
        return starts
    leading = np.frombuffer(data, np.uint8) & 0xC0 != 0x80  # the first byte of each character
    byte_of = np.append(np.flatnonzero(leading), len(data))
    in_bytes: Int64s = byte_of[starts].astype(np.int64)
    return in_bytes


def _alphabet() -> dict[str, bytes]:
    """Returns the byte that each letter of a byte-level tokenizer stands for: printable ones for themselves."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    letters = {chr(byte): bytes([byte]) for byte in own}
    return letters | {chr(256 + number): bytes([byte]) for number, byte in enumerate(others)}
