"""Subwords by pairs that are joined in the order in which they were learned: the codes of fastBPE and subword-nmt.

    subword-nmt   #version: 0.2      fastBPE   t h 51023
                  t h                          th e</w> 48210
                  th e</w>

The package subword-nmt applies both. fastBPE counts its pairs and has no line of a version; it joins as version 0.2.
"""

import io
from pathlib import Path

from fairseq.errors import DataError, shown
from fairseq.text.config import FastBPEConfig, SubwordNMTConfig
from fairseq.text.packages import package, reading
from fairseq.text.post_process import without_end_marks

_VERSION = "#version:"
_BYTE_SPACE = "Ġ"  # of GPT-2's merges, which else look like codes; ours have the end of a word, </w>


class PairCodes:
    """Subwords of a file of codes.

    Args:
        codes: the file.
        separator: what a subword ends in whose word goes on.
        flag: what asked for it, for messages.
        is_fastbpe: whether the codes are fastBPE's.
    """

    def __init__(self, codes: str, separator: str, flag: str, *, is_fastbpe: bool) -> None:
        apply_bpe = package("subword_nmt.apply_bpe", flag, "subword-nmt")
        self._mark = separator
        with reading("--bpe-codes", codes):
            text = Path(codes).read_text(encoding="utf-8")
            version, pairs, are_counted = _pairs(codes, text)
            if any(pair.startswith(_BYTE_SPACE) for pair in pairs) and not any("</w>" in p for p in pairs):
                raise DataError(
                    f"--bpe-codes: {codes} has pairs of bytes, with {_BYTE_SPACE} for a space; give --bpe gpt2 or --bpe"
                    " hf_byte_bpe and their files"
                )
            if is_fastbpe and version:
                raise DataError(
                    f"--bpe-codes: {codes} begins with {_VERSION}, as subword-nmt's codes do; give --bpe subword_nmt"
                )
            if are_counted and not is_fastbpe:
                raise DataError(f"--bpe-codes: {codes} has counts, as fastBPE's codes do; give --bpe fastbpe")
            head = f"{_VERSION} 0.2" if is_fastbpe else version
            self._bpe = apply_bpe.BPE(io.StringIO("\n".join([*([head] if head else []), *pairs])), separator=separator)

    def encode(self, line: str) -> str:
        """Returns the subwords of a line, a space between them: ``lower`` → ``low@@ er``.

        Words are what any white space separates, as in the dictionary; the package knows the space only.
        """
        text: str = self._bpe.process_line(" ".join(line.split()))
        return text

    def decode(self, line: str) -> str:
        """Returns a line with its subwords joined."""
        return without_end_marks(line, self._mark)


def _pairs(path: str, text: str) -> tuple[str, list[str], bool]:
    """Returns the line of the version, empty if there is none, the pairs, and whether counts stood behind them."""
    lines = text.rstrip("\n").split("\n")
    version = lines.pop(0).strip() if lines[0].startswith(_VERSION) else ""
    pairs, are_counted = [], False
    for number, line in enumerate(lines, 1 + bool(version)):
        parts = line.strip("\r\n ").split(" ")
        if len(parts) == 3 and parts[2].isdecimal():
            parts.pop()
            are_counted = True
        if len(parts) != 2:
            raise DataError(
                f"--bpe-codes: {path}:{number} must be two subwords with a space between them, but is {shown(line)};"
                " give the file that fastBPE or subword-nmt wrote when it learned"
            )
        pairs.append(" ".join(parts))
    return version, pairs, are_counted


def fastbpe(config: FastBPEConfig) -> PairCodes:
    """Returns fastBPE's subwords, whose mark is ``@@``."""
    assert config.bpe_codes is not None
    return PairCodes(config.bpe_codes, "@@", "--bpe fastbpe", is_fastbpe=True)


def subword_nmt(config: SubwordNMTConfig) -> PairCodes:
    """Returns subword-nmt's subwords."""
    assert config.bpe_codes is not None
    return PairCodes(config.bpe_codes, config.bpe_separator, "--bpe subword_nmt", is_fastbpe=False)
