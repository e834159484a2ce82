"""A word for each character, or for each byte of UTF-8; ``▁`` stands for a space.

A byte that is a printable character of Latin-1 stands for itself, every other byte b is written as character 256 + b.
"""

import re

SPACE = "▁"
_ITSELF = {*range(0x20, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OF_BYTE = {byte: chr(byte if byte in _ITSELF else 0x100 + byte) for byte in range(256)}
_BYTE_OF = {character: byte for byte, character in _OF_BYTE.items()}


class Characters:
    """Characters as words."""

    def __init__(self, config: None = None) -> None:
        pass

    def encode(self, line: str) -> str:
        """Returns the characters of a line, a space between them: ``a b`` → ``a ▁ b``."""
        return " ".join(line.replace(" ", SPACE))

    def decode(self, line: str) -> str:
        """Returns characters as text."""
        return spaced(line)


class Bytes:
    """Bytes as words."""

    def __init__(self, config: None = None) -> None:
        pass

    def encode(self, line: str) -> str:
        """Returns the bytes of a line, a space between them: ``é b`` → ``Ã © ▁ b``."""
        return " ".join(spelled(line).replace(" ", SPACE))

    def decode(self, line: str) -> str:
        """Returns bytes as text."""
        return unspelled(spaced(line))


def spaced(line: str) -> str:
    """Returns characters or pieces of words between spaces as text: ``▁the ▁ca t`` → `` the cat``."""
    return line.replace(" ", "").replace(SPACE, " ")


def spelled(line: str) -> str:
    """Returns a line with a character for each of its bytes; white space becomes one space."""
    return "".join(_OF_BYTE[byte] for byte in re.sub(r"\s+", " ", line).encode())


def unspelled(line: str) -> str:
    """Returns the line that ``spelled`` was given; bytes that are no character are left out, as of a cut text."""
    parts = (bytes([_BYTE_OF[c]]) if c in _BYTE_OF else c.encode() for c in line)
    return b"".join(parts).decode(errors="ignore")
