"""Naive counting and binarising, character by character and word by word (formats.md sections 1 and 2)."""

import re
import struct

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]


def lines_of(data: bytes) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", data.decode("utf-8-sig"))
    return lines[:-1] if lines[-1] == "" else lines


def words_of(line: str) -> list[str]:
    return [word for word in re.sub(r"\s+", " ", line).strip().split(" ") if word]


def dictionary(data: bytes, threshold: int = 0, nwords: int = -1, padding: int = 8) -> list[tuple[str, int]]:
    """The lines of dict.txt."""
    words = [word for line in lines_of(data) for word in words_of(line) if word not in SPECIALS]
    counted = sorted(((word, words.count(word)) for word in set(words)), key=lambda pair: (-pair[1], pair[0]))
    kept = [pair for pair in counted if pair[1] >= threshold]
    kept = kept[: max(nwords - 4, 0)] if nwords > 0 else kept
    fillers = [f"madeupword{i:04d}" for i in range(2 * padding) if f"madeupword{i:04d}" not in dict(kept)]
    return kept + [(filler, 0) for filler in fillers[: -(4 + len(kept)) % padding]]


def special_words(data: bytes) -> dict[str, int]:
    """How often the words of a text equal a special other than <unk>."""
    words = [word for line in lines_of(data) for word in words_of(line)]
    return {special: words.count(special) for special in SPECIALS[:3] if special in words}


def binarised(data: bytes, lines: list[tuple[str, int]]) -> tuple[bytes, bytes, int]:
    """The bytes of a uint16 .bin, those of its .idx, and how many words <unk> replaced."""
    symbols = [*SPECIALS, *(word for word, _ in lines)]
    tokens, sizes, starts, replaced = b"", b"", b"", 0
    for line in lines_of(data):
        ids = [symbols.index(word) if word in symbols else None for word in words_of(line)]
        replaced += ids.count(None)
        starts += struct.pack("<q", len(tokens))
        sizes += struct.pack("<i", len(ids) + 1)
        tokens += b"".join(struct.pack("<H", 3 if i is None else i) for i in [*ids, 2])
    return tokens, b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, len(sizes) // 4) + sizes + starts, replaced
