"""From config dataclasses to a command line, and from a command line to ``Flags``.

One argument group per dataclass, titled by the first line of its docstring. argparse records only what was typed
(``default=SUPPRESS``); the defaults stay in the dataclasses. ``--dstore_mmap`` and ``--dstore-mmap`` are one flag.
"""

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from fairseq import __version__
from fairseq.config.flags import Flags, flag_fields, flag_name
from fairseq.config.plugins import import_user_dir
from fairseq.errors import ConfigError, did_you_mean


class _Parser(argparse.ArgumentParser):
    """argparse with errors of ours, one line each."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def parse(prog: str, description: str, groups: Sequence[type], argv: Sequence[str]) -> Flags:
    """Returns the flags that ``argv`` spells for the config dataclasses ``groups``.

    ``--help`` and ``--version`` print and exit.

    Raises:
        ConfigError: an unknown flag (the nearest known one is suggested), or a flag without its value.
    """
    parser = make_parser(prog, description, groups)
    namespace, unknown = parser.parse_known_args([hyphens(word) for word in argv])
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        name = unknown[0].split("=")[0]
        raise ConfigError(f"unrecognised argument {unknown[0]}{did_you_mean(name, known)} (see {prog} --help)")
    return Flags(vars(namespace), tuple(groups))


def load_plugins(argv: Sequence[str]) -> None:
    """Imports the ``--user-dir`` that ``argv`` names, so that its names are known before the parser is built."""
    if user_dir := early_value("--user-dir", argv):
        import_user_dir(user_dir)


def early_value(name: str, argv: Sequence[str]) -> str | None:
    """Returns the value of a flag that is needed before the parser is built."""
    early = _Parser(add_help=False, allow_abbrev=False)
    early.add_argument(name, dest="value")
    return early.parse_known_args([hyphens(word) for word in argv])[0].value  # type: ignore[no-any-return]


def make_parser(prog: str, description: str, groups: Sequence[type]) -> argparse.ArgumentParser:
    """Returns the argument parser of a command; a flag that two groups share is declared by the first."""
    parser = _Parser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        formatter_class=partial(argparse.HelpFormatter, max_help_position=36, width=110),
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    defaults = _defaults(groups)
    for cls in dict.fromkeys(groups):
        group = parser.add_argument_group(_title(cls))
        kinds = typing.get_type_hints(cls)
        for name, field in flag_fields(cls).items():
            if name in defaults:  # else an earlier group has it
                _add_flag(group, name, field, kinds[name], defaults.pop(name))
    return parser


def _title(cls: type) -> str:
    return (cls.__doc__ or cls.__name__).strip().partition("\n")[0].rstrip(".")


def _defaults(groups: Sequence[type]) -> dict[str, str]:
    """Returns each flag's default as text; where groups share a flag but not its default, all of them by group."""
    by_flag: dict[str, dict[str, str]] = {}
    for cls in groups:
        for name, field in flag_fields(cls).items():
            by_flag.setdefault(name, {})[_title(cls)] = _default_text(field.default)
    return {
        name: next(iter(by_group.values()))
        if len(set(by_group.values())) == 1
        else "; ".join(f"{value or 'none'} ({title})" for title, value in by_group.items())
        for name, by_group in by_flag.items()
    }


def _default_text(value: Any) -> str:
    if value in (dataclasses.MISSING, None) or value is False:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def hyphens(word: str) -> str:
    """Returns ``--dstore_size=5`` as ``--dstore-size=5``; words that are not flags stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _add_flag(group: Any, name: str, field: dataclasses.Field[Any], kind: Any, default: str) -> None:
    meta = field.metadata
    text = meta["help"].replace("%", "%%")
    choices = meta["choices"]() if callable(meta["choices"]) else meta["choices"]
    if choices:
        text += f" ({', '.join(choices)})"
    if meta["no_effect"]:
        text += f" [accepted, no effect: {meta['no_effect']}]"
    if default:
        text += f" [default: {default}]"
    if meta["positional"]:
        group.add_argument(name, help=text, nargs="*" if typing.get_origin(kind) is tuple else "?")
        return
    spellings = [flag_name(name), *meta["aliases"]]
    if kind is bool:
        action: Any = (
            argparse.BooleanOptionalAction if field.default is True else "store_true"
        )  # the former adds --no-…
        group.add_argument(*spellings, dest=name, action=action, help=text)
    elif meta["optional_value"] is not None:
        group.add_argument(*spellings, dest=name, nargs="?", const=meta["optional_value"], help=text)
    else:
        group.add_argument(*spellings, dest=name, metavar=_metavar(name, kind), help=text)


def _metavar(name: str, kind: Any) -> str:
    inner = [a for a in typing.get_args(kind) if a not in (type(None), ...)]
    plain = inner[0] if inner else kind
    if typing.get_origin(kind) is tuple or typing.get_origin(plain) is tuple:
        return "N,N,…"
    return {int: "N", float: "X"}.get(plain, name.rsplit("_", 1)[-1].upper())
