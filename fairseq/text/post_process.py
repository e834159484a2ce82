"""``--post-process``: subwords become words again, in what is printed and in what is counted.

subword_nmt, '@@ '   a subword whose word goes on ends in the mark: lo@@ w
sentencepiece        a subword that begins a word begins with ▁: ▁lo w
none                 as they are
"""

import logging
from collections.abc import Sequence

from fairseq.errors import ConfigError
from fairseq.text import BPES
from fairseq.text.characters import SPACE, spaced

logger = logging.getLogger(__name__)

BEGIN_MARKS = {"sentencepiece": SPACE}
_END_MARKS = {"subword_nmt": "@@", "none": ""}
RARE = 100  # of so many words, one at least begins with the mark
_OTHERS = ("letter", "wordpiece", "silence", "_EOW")  # of fairseq's, for speech


def check_post_process(rule: str | None) -> None:
    """Raises ConfigError for a ``--post-process`` that names a kind of subwords without a mark."""
    if rule is not None and rule not in (*BEGIN_MARKS, *_END_MARKS) and rule in (*_OTHERS, *BPES.names()):
        raise ConfigError(
            f"--post-process {rule} is not here: give sentencepiece (▁ begins a word), subword_nmt or another mark that"
            " a subword ends in whose word goes on, such as '@@ ', or none"
        )


def rule_for(symbols: Sequence[str], rule: str | None) -> str | None:
    """Returns the rule; None, with a warning, where no symbol has its mark: all of a text would be one word."""
    end, begin = end_mark(rule), BEGIN_MARKS.get(rule or "", "")
    marked = sum(symbol.endswith(end) if end else symbol.startswith(begin) for symbol in symbols)
    if not marked:
        mark = f"begins with {begin}" if begin else f"ends in {end}"
        logger.warning("--post-process has no effect: no word of the dictionary %s", mark)
        return None
    if begin and marked * RARE < len(symbols):
        found = "1 word begins" if marked == 1 else f"{marked} words begin"
        logger.warning(
            "--post-process %s: %s with %s, and the other %d of the dictionary go on with the word before; is this"
            " dictionary one of %s?", rule, found, begin, len(symbols) - marked, rule
        )  # fmt: skip
    return rule


def end_mark(rule: str | None) -> str:
    """Returns what a subword ends in whose word goes on; empty where nothing is joined, or by another mark."""
    return "" if rule is None or rule in BEGIN_MARKS else _END_MARKS.get(rule, rule).rstrip()


def joined(text: str, rule: str | None) -> str:
    """Returns subwords between spaces as words."""
    if rule in BEGIN_MARKS:
        return spaced(text).strip()
    mark = end_mark(rule)
    return without_end_marks(text, mark) if mark else text


def without_end_marks(text: str, mark: str) -> str:
    """Returns subwords between spaces as words, where those end in a mark whose word goes on: ``lo@@ w`` → ``low``."""
    return f"{text} ".replace(f"{mark.rstrip()} ", "").rstrip()
