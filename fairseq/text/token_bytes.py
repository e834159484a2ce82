"""Where each token begins in its text, in bytes.

A token's own bytes are known where its tokenizer is of bytes, or marks spaces by ``▁``. If the tokens' bytes, one after
another, are the text, then where each begins is a sum. If not (lower-cased, normalised or stripped text), they are
followed through the text, and where they are not what stands there, the tokenizer says in characters where a token
ends. A token begins where the one before has ended: what lies between two tokens belongs to the second.

N tokens.
"""

import re
from collections.abc import Callable, Sequence
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

    def starts(self, ids: Sequence[int], spans: Callable[[], Sequence[tuple[int, int]]], text: str) -> Int64s:
        """Returns where the tokens of a text begin in its bytes, and its end, int64 ``[N + 1]``.

        Args:
            ids: of the tokenizer.
            spans: returns the first character of each, and the one after its last; asked for where they are needed.
            text: as it was.
        """
        data, parts = text.encode(), [self.of(idx) for idx in ids]
        joined = b"".join(parts)
        before = 1 if joined == b" " + data else 0  # a space that the tokenizer put in front
        if not before and joined != data:
            return _followed(parts, spans(), text, data)
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum(sizes, out=starts[1:])
        return np.maximum(starts - before, 0)


def _followed(parts: Sequence[bytes], spans: Sequence[tuple[int, int]], text: str, data: bytes) -> Int64s:
    """Returns where tokens begin, from the first to the last: by their own bytes as far as these are the text."""
    is_first = np.frombuffer(data, np.uint8) & 0xC0 != 0x80  # of a character
    byte_of = np.append(np.flatnonzero(is_first), len(data)).tolist()
    starts, position = [], 0
    following = [*(first for first, _ in spans[1:]), len(text)]
    for part, (first, last), next_first in zip(parts, spans, following, strict=False):
        starts.append(position)
        end = position + len(part)
        is_within = byte_of[first] < end <= byte_of[last] or end == byte_of[last]
        if is_within and data.startswith(part, position):
            position = end
        elif part == b" " and (next_first < last or first == last):
            pass  # the tokenizer put it there: the next token has its character
        elif part[:1] == b" " and end - 1 == byte_of[last] and data.startswith(part[1:], position):
            position = end - 1  # the same with letters behind it
        else:
            position = max(position, byte_of[last])
    return np.array([*starts, len(data)], np.int64)


def _alphabet() -> dict[str, bytes]:
    """Returns the byte that each letter of a byte-level tokenizer stands for: printable ones for themselves."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    letters = {chr(byte): bytes([byte]) for byte in own}
    return letters | {chr(256 + number): bytes([byte]) for number, byte in enumerate(others)}
