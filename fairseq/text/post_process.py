"""``--post-process``: subwords become words again, in what is printed and in what is counted.

subword_nmt, '@@ '   a subword whose word goes on ends in the mark: lo@@ w
sentencepiece        a subword that begins a word begins with ▁: ▁lo w
none                 as they are
"""

from fairseq.errors import ConfigError
from fairseq.text import BPES
from fairseq.text.characters import SPACE

BEGIN_MARKS = {"sentencepiece": SPACE}
_END_MARKS = {"subword_nmt": "@@", "none": ""}
_OTHERS = ("letter", "wordpiece", "silence", "_EOW")  # of fairseq's, for speech


def check_post_process(rule: str | None) -> None:
    """Raises ConfigError for a ``--post-process`` that names a kind of subwords without a mark."""
    if rule is not None and rule not in (*BEGIN_MARKS, *_END_MARKS) and rule in (*_OTHERS, *BPES.names()):
        raise ConfigError(
            f"--post-process {rule} is not here: give sentencepiece (▁ begins a word), subword_nmt or another mark that"
            " a subword ends in whose word goes on, such as '@@ ', or none"
        )


def end_mark(rule: str | None) -> str:
    """Returns what a subword ends in whose word goes on; empty where nothing is joined, or by another mark."""
    return "" if rule is None or rule in BEGIN_MARKS else _END_MARKS.get(rule, rule).rstrip()


def joined(text: str, rule: str | None) -> str:
    """Returns subwords between spaces as words."""
    if rule in BEGIN_MARKS:
        return text.replace(" ", "").replace(BEGIN_MARKS[rule], " ").strip()
    mark = end_mark(rule)
    return f"{text} ".replace(f"{mark} ", "").rstrip() if mark else text
