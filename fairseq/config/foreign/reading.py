"""Flags of fairseq's that a command of ours does not have: accepted without effect, or refused by name.

``accepted.py`` and ``refused.py`` are the tables; this is what reads them. A line of flags there is written as
``--device-id/--local-rank=0 --quiet --constraints[=]``: names of one flag, then nothing for a switch, ``=`` and the
value that changes nothing (several with ``|`` between them), or ``[=…]`` where the flag may stand without a value.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from fairseq.config.foreign.accepted import COMMANDS, NO_EFFECT, Family
from fairseq.config.foreign.refused import REFUSED
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class ForeignFlag:
    """A flag of fairseq's.

    Attributes:
        names: its spellings, with hyphens.
        takes: what follows it: ``""``, ``"VALUE"`` or ``"[VALUE]"``.
        harmless: the values that change nothing; typed with one of them, the flag is accepted in silence.
        family: why it has no effect, or is refused.
        refused: whether it is.
    """

    names: tuple[str, ...]
    takes: str
    harmless: tuple[str, ...]
    family: Family
    refused: bool


class Typed(NamedTuple):
    """A flag of fairseq's as it was typed, and why it has no effect."""

    text: str
    reason: str


def parse_flags(family: Family, *, refused: bool) -> list[ForeignFlag]:
    """Returns the flags of a family."""
    found = []
    for word in family.flags.split():
        match = re.fullmatch(r"([^=\[]+)(?:\[=([^\]]*)\]|=(.*))?", word)
        assert match is not None, word
        names, optional, value = match.groups()
        takes = "[VALUE]" if optional is not None else "VALUE" if value is not None else ""
        harmless = tuple((optional or value or "").split("|")) if takes else ()
        found.append(ForeignFlag(tuple(names.split("/")), takes, harmless, family, refused))
    return found


@cache
def foreign_flags(command: str) -> Mapping[str, ForeignFlag]:
    """Returns the flags of the table that a command takes, by each of their names."""
    letter = COMMANDS.get(command)
    flags = [
        flag
        for table, refused in ((NO_EFFECT, False), (REFUSED, True))
        for family in table
        if letter is not None and letter in family.commands
        for flag in parse_flags(family, refused=refused)
    ]
    return {name: flag for flag in flags for name in flag.names}


def take_foreign(
    command: str, words: Sequence[str], ours: Collection[str]
) -> tuple[list[str], list[Typed], ConfigError | None]:
    """Returns the words without the flags of the table, those without effect, and the error of the first refused one.

    Args:
        command: its name.
        words: that were typed, flags with hyphens.
        ours: flags that the command has itself.

    Raises:
        ConfigError: a value is missing, or is one too many.
    """
    table = foreign_flags(command)
    rest: list[str] = []
    idle: list[Typed] = []
    error, i = None, 0
    while i < len(words):
        word, i = words[i], i + 1
        if word == "--":
            rest += words[i - 1 :]
            break
        name, equals, value = word.partition("=")
        flag, off = table.get(name), False
        if flag is None and name.startswith("--no-"):
            flag = table.get(f"--{name.removeprefix('--no-')}")
            off = flag is not None and not flag.takes
        if name in ours or flag is None or (name not in flag.names and not off):
            rest.append(word)
            continue
        given = value if equals else None
        if equals and not flag.takes:
            raise ConfigError(f"{name} takes no value, but has {value!r}; leave that out (see {command} --help)")
        if flag.takes and given is None and i < len(words) and _is_value(words[i]):
            given, i = words[i], i + 1
        if flag.takes == "VALUE" and given is None:
            raise ConfigError(f"argument {name}: expected one argument (see {command} --help)")
        if off or (given is not None and any(_same(given, harmless) for harmless in flag.harmless)):
            continue
        text = name if given is None else f"{name} {given}"
        if flag.refused:
            error = error or ConfigError(f"{text} is not here: {flag.family.why}")
        else:
            idle.append(Typed(text, flag.family.why))
    return rest, idle, error


def _is_value(word: str) -> bool:
    """Whether a word behind a flag is its value: argparse's rule, with numbers below 0 among the values."""
    return (
        not word.startswith("-")
        or word == "-"
        or " " in word
        or re.fullmatch(r"-\d*\.?\d+(e[-+]?\d+)?", word) is not None
    )


def _same(value: str, other: str) -> bool:
    value, other = ("".join(text.split()).lower() for text in (value, other))
    try:
        return float(value) == float(other)
    except ValueError:
        return value == other


def without_effect(typed: Iterable[Typed]) -> str:
    """Returns the warning of all flags without effect, in one line; empty without any."""
    by_reason: dict[str, list[str]] = {}
    for text, reason in typed:
        by_reason.setdefault(reason, []).append(text)
    parts = [f"{', '.join(dict.fromkeys(texts))} ({reason})" for reason, texts in by_reason.items()]
    return f"no effect here: {'; '.join(parts)}" if parts else ""


def in_help(command: str, ours: Collection[str]) -> str:
    """Returns the last line of a command's help: how many more flags are accepted; empty where none are."""
    more = {flag.names for name, flag in foreign_flags(command).items() if not flag.refused and name not in ours}
    if not more:
        return ""
    return f"{len(more)} flags of fairseq's are accepted as well, without effect (docs/flags.md)"
