"""What ``--help`` shows: usage, the text of each flag, its word for a value, its default, and examples.

Text is wrapped to the width of the terminal, 110 columns at most. A line of a flag's text that begins with blanks is a
choice with its explanation, and stays a line of its own.
"""

import argparse
import dataclasses
import re
import shutil
import textwrap
import typing
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from fairseq.config.fairseq_fields import REFERENCE, title
from fairseq.config.flags import flag_fields, flag_name, positional_metavar
from fairseq.config.kinds import kind_of

_WIDEST, _NARROWEST = 110, 60
_SHORT_CHOICES = 24
_LONGEST_NAME = 17  # of choices whose explanations stand in a column
_TIED = "\xa0"  # a blank at which no line ends
WITHOUT_EFFECT = "Accepted without effect, for old command lines"


class Formatter(argparse.HelpFormatter):
    """argparse's layout; choices keep their lines, and a flag's several names share one word for the value."""

    def __init__(self, prog: str) -> None:
        width = max(min(shutil.get_terminal_size().columns, _WIDEST), _NARROWEST) - 2
        super().__init__(prog, max_help_position=min(34, width // 3), width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False)

    def _split_lines(self, text: str, width: int) -> list[str]:
        lines: list[str] = []
        for part in text.split("\n"):
            line = part
            head = re.match(r" +\S+ +|", line)
            assert head is not None
            hanging = " " * (len(head[0]) if len(head[0]) <= _LONGEST_NAME + 4 else 6)
            default = re.search(r"\[default: .*\]", line)
            if default is not None and len(default[0]) <= width - len(hanging):
                line = line.replace(default[0], default[0].replace(" ", _TIED))
            lines += textwrap.wrap(line, width, subsequent_indent=hanging, break_on_hyphens=False)
        return [line.replace(_TIED, " ") for line in lines]

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, str(action.metavar))}"


def usage(groups: Sequence[type]) -> str:
    """Returns what a command needs: positional arguments and required flags; two lines where three are required."""
    words: list[str] = []
    needed: list[str] = []
    for cls in dict.fromkeys(groups):
        kinds = typing.get_type_hints(cls, include_extras=True)
        for name, field in flag_fields(cls).items():
            if field.metadata["positional"]:
                words.append(positional_usage(name, field, kinds[name]))
            elif field.metadata["required"]:
                value = "" if kinds[name] is bool else f" {metavar(name, field, kinds[name])}"
                needed.append(flag_name(name) + value + " …" * field.metadata["several"])
    needed = list(dict.fromkeys(needed))
    if len(needed) > 2:
        needed[1] = f"\n    {needed[1]}"
    return " ".join(["%(prog)s", *dict.fromkeys(words), *needed, "[FLAGS]"]).replace(" \n", "\n")


def positional_usage(name: str, field: dataclasses.Field[Any], annotation: Any) -> str:
    """Returns how a positional argument is shown: ``DATA``, ``[DATA]``, ``FILE …``."""
    word = positional_metavar(name, annotation)
    if typing.get_origin(annotation) is tuple:
        word = f"{word} …"
    return word if field.metadata["required"] else f"[{word}]"


def metavar(name: str, field: dataclasses.Field[Any], annotation: Any) -> str:
    """Returns the word for a flag's value."""
    if field.metadata["several"]:
        return _word(typing.get_args(annotation)[0])
    choices = choices_of(field)
    if choices:
        return _braced(choices) if _are_short(choices) else "NAME"
    if typing.get_origin(annotation) is tuple:
        word = _word(typing.get_args(annotation)[0])
        return f"{word},{word},…"
    parts = [part for part in typing.get_args(annotation) if typing.get_origin(part) is tuple]
    return metavar(name, field, parts[0]) if parts else _word(annotation)


def _word(annotation: Any) -> str:
    """Returns the word for one value: ``X|auto`` where several types will do."""
    if (kind := kind_of(annotation)) is not None:
        return kind.metavar
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(typing.get_args(annotation))
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    return "|".join(map(_word, parts)) if parts else {int: "N", float: "X"}.get(annotation, "TEXT")


def choices_of(field: dataclasses.Field[Any]) -> Collection[str]:
    """Returns the values that a flag takes, with words on them where it is a mapping; empty where any will do."""
    choices: Any = field.metadata["choices"]
    found: Collection[str] = choices() if callable(choices) else choices or ()
    return found


def _braced(choices: Iterable[str]) -> str:
    return f"{{{','.join(choices)}}}"


def _are_short(choices: Collection[str]) -> bool:
    return len(_braced(choices)) <= _SHORT_CHOICES and not isinstance(choices, Mapping)


def flag_text(field: dataclasses.Field[Any], default: str, no_effect: str | None = None) -> str:
    """Returns what ``--help`` says of a flag: its text, whether it is required, its default once, its choices.

    Of a flag without effect, in every command or for the reason that is given, the text and the reason.
    """
    meta = field.metadata
    text: str = meta["help"]
    if reason := no_effect or meta["no_effect"]:
        return f"{text}; no effect: {reason}".replace("%", "%%")
    choices = choices_of(field)
    if choices and not isinstance(choices, Mapping) and not _are_short(choices):
        text += f": {', '.join(choices)}"
    if meta["required"]:
        text += " [required]"
    elif default and "[default: " not in text:
        text += f" [default: {default}]"
    if isinstance(choices, Mapping):
        width = max(map(len, choices)) + 1
        for name, words in choices.items():
            text += f"\n  {f'{name}:':<{width if width <= _LONGEST_NAME else 0}} {words}" if words else f"\n  {name}"
    return text.replace("%", "%%")


def defaults(groups: Sequence[type]) -> dict[str, str]:
    """Returns each flag's default as text; where groups share a flag but not its default, whose is another."""
    by_flag: dict[str, dict[str, str]] = {}
    for cls in groups:
        for name, field in flag_fields(cls).items():
            by_flag.setdefault(name, {})[title(cls)] = _default_text(field.default)
    found = {}
    for name, by_group in by_flag.items():
        usual = Counter(by_group.values()).most_common(1)[0][0]
        others = [f"{value or 'none'} ({group})" for group, value in by_group.items() if value != usual]
        found[name] = "; ".join([usual or "none", *others]) if others else usual
    return found


def _default_text(value: Any) -> str:
    if value in (dataclasses.MISSING, None, "") or value is False:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(_default_text, value))
    if value is True:
        return "on"
    if isinstance(value, str) and (match := REFERENCE.fullmatch(value)):
        return f"that of {flag_name(match[1])}"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
