"""From config dataclasses to a command line, and from a command line to ``Flags``.

One argument group per dataclass, titled by the first line of its docstring. argparse records only what was typed
(``default=SUPPRESS``); the defaults stay in the dataclasses. ``--dstore_mmap`` and ``--dstore-mmap`` are one flag.
"""

import argparse
import dataclasses
import re
import textwrap
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from fairseq import __version__
from fairseq.config.fairseq_fields import title
from fairseq.config.flags import Flags, flag_fields, flag_name, positional_metavar
from fairseq.config.foreign.names import NOT_BUILT, not_built
from fairseq.config.foreign.reading import foreign_flags, in_help, take_foreign
from fairseq.config.foreign.reading import without_effect as without_effect_of
from fairseq.config.help import (
    WITHOUT_EFFECT,
    Formatter,
    choices_of,
    defaults,
    flag_text,
    metavar,
    usage,
)
from fairseq.errors import ConfigError, UnknownFlagError, did_you_mean
from fairseq.plugins.user_dir import import_user_dir

# Flags of one meaning: of our own commands, of fairseq, and of other tools.
SYNONYMS = (
    ("--dstore-filename", "--dstore-mmap", "--prefix", "--dstore", "--datastore"),
    ("--indexfile", "--faiss-index", "--index", "--index-file"),
    ("--path", "--checkpoint", "--model", "--ckpt"),
    ("--gen-subset", "--split", "--subset", "--valid-subset"),
    ("--k", "--num-neighbors", "--num-neighbours", "--neighbors", "--topk"),
    ("--probe", "--nprobe"),
    ("--lmbda", "--lambda", "--knn-lambda"),
    ("--knn-temp", "--knn-temperature"),
    ("--lr", "--learning-rate"),
    ("--max-update", "--max-steps", "--max-updates", "--steps"),
    ("--max-epoch", "--epochs", "--max-epochs", "--num-train-epochs"),
    ("--save-dir", "--output-dir", "--out", "--destdir"),
    ("--tokens-per-sample", "--seq-len", "--block-size", "--context-length"),
    ("--index-spec", "--factory"),
    ("--max-len-b", "--max-new-tokens", "--max-length"),
    ("--sampling-topp", "--top-p"),
    ("--sampling-topk", "--top-k"),
    ("--beam", "--num-beams"),
)


class _Parser(argparse.ArgumentParser):
    """argparse with errors of ours, one line each, and paragraphs at the end of its help that stand as written."""

    endings: Sequence[tuple[str, Sequence[str]]] = ()

    def format_help(self) -> str:
        """Returns the help, with the paragraphs under their titles."""
        text = super().format_help()
        for name, paragraphs in self.endings:
            shown = "\n\n".join(textwrap.indent(paragraph.strip("\n"), "  ") for paragraph in paragraphs)
            text += f"\n{name}:\n{shown}\n" if shown else ""
        return text

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def parse(
    prog: str,
    description: str,
    groups: Sequence[type],
    argv: Sequence[str],
    examples: Sequence[str] = (),
    output: str = "",
    without_effect: Mapping[str, str] | None = None,
    remarks: Mapping[str, str] | None = None,
) -> Flags:
    """Returns the flags that ``argv`` spells for the config dataclasses ``groups``.

    ``--help`` and ``--version`` print and exit. The former ends in what the command prints, and examples; the flags of
    ``without_effect`` stand among those that do nothing, each with its reason; those of ``remarks`` have one more.

    Raises:
        ConfigError: an unknown flag (the nearest known one is suggested), or a flag without its value.
    """
    parser = make_parser(prog, description, groups, without_effect, remarks)
    known = [option for action in parser._actions for option in action.option_strings]
    more = in_help(prog, known)
    ends = (("more flags", more), ("output", output))
    parser.endings = (*((name, (text,) if text else ()) for name, text in ends), ("examples", examples))
    words, foreign, refused = take_foreign(prog, [hyphens(word) for word in argv], known)
    namespace, unknown = parser.parse_known_args(words)
    if refused:
        raise refused
    if unknown:
        _refuse_absent(vars(namespace), groups)
        see = f"(see {prog} --help)"
        raise _choice_as_flag(unknown[0], groups, see) or _unknown(unknown[0], known, foreign_flags(prog), see)
    return Flags(vars(namespace), tuple(groups), without_effect_of(foreign))


def _refuse_absent(typed: Mapping[str, Any], groups: Sequence[type]) -> None:
    """Raises ConfigError for an architecture, … that is not built here; flags of its own are then unknown as well."""
    for cls in groups:
        for name, field in flag_fields(cls).items():
            value = typed.get(name)
            known = choices_of(field)
            if isinstance(value, str) and value not in known and (message := not_built(flag_name(name), value, known)):
                raise ConfigError(message)


def _choice_as_flag(word: str, groups: Sequence[type], see: str) -> ConfigError | None:
    """Returns the error for ``--adam``, the name of something registered that another flag chooses; else None."""
    for cls in groups:
        for name, field in flag_fields(cls).items():
            for choice in choices_of(field) if callable(field.metadata["choices"]) else ():
                if hyphens(f"--{choice}") == word:
                    return ConfigError(f"unrecognised argument {word}; write {flag_name(name)} {choice} {see}")
    return None


def _unknown(word: str, known: Sequence[str], foreign: Iterable[str], see: str) -> ConfigError:
    """Returns the error for an argument that is neither one of the command's own nor of fairseq's."""
    if not word.strip():
        return ConfigError(f"an argument is a space: write nothing behind the \\ that ends a line {see}")
    name, blank, value = word.partition(" ")
    if blank and name in known:
        return ConfigError(f"{word!r} is one argument: write {name} and {value} without quotes around both {see}")
    if not word.startswith("-"):
        return ConfigError(f"unexpected argument {word}: it stands after all that the command takes by place {see}")
    flag = word.split("=")[0]
    if meant := _meant(flag, known):
        return ConfigError(f"unrecognised argument {word}; here it is {meant} {see}")
    if hint := did_you_mean(flag, [*known, *foreign]):
        return ConfigError(f"unrecognised argument {word}{hint} {see}")
    return UnknownFlagError(f"unrecognised argument {word} {see}", flag)


def _meant(word: str, known: Sequence[str]) -> str:
    """Returns the flag of this command that means what ``word`` means elsewhere; empty where none does."""
    for names in SYNONYMS:
        if word in names:
            return next((name for name in names if name in known), "")
    return ""


def load_plugins(argv: Sequence[str]) -> None:
    """Imports the ``--user-dir`` that ``argv`` names, so that its names are known before the parser is built."""
    user_dir = early_value("--user-dir", argv)
    if not user_dir:
        return
    try:
        import_user_dir(user_dir)
    except ConfigError as err:
        for flag in NOT_BUILT:  # what the plugin would have brought
            if absent := not_built(flag, early_value(flag, argv) or ""):
                raise ConfigError(f"{absent} ({err})") from err
        raise


def early_value(name: str, argv: Sequence[str]) -> str | None:
    """Returns the value of a flag that is needed before the parser is built."""
    early = _Parser(add_help=False, allow_abbrev=False)
    early.add_argument(name, dest="value")
    return early.parse_known_args([hyphens(word) for word in argv])[0].value  # type: ignore[no-any-return]


def make_parser(
    prog: str,
    description: str,
    groups: Sequence[type],
    without_effect: Mapping[str, str] | None = None,
    remarks: Mapping[str, str] | None = None,
) -> _Parser:
    """Returns the argument parser of a command; a flag that two groups share is declared by the first.

    Args:
        prog: its name.
        description: what it does.
        groups: whose fields are the flags.
        without_effect: fields that do nothing in this command, each with the reason, for ``--help``.
        remarks: what ``--help`` says besides of fields in this command.
    """
    parser = _Parser(
        prog=prog,
        usage=usage(groups),
        description=description,
        allow_abbrev=False,
        formatter_class=Formatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    default_of, idle, reasons = defaults(groups), [], without_effect or {}
    for cls in dict.fromkeys(groups):
        group = parser.add_argument_group(title(cls))
        kinds = typing.get_type_hints(cls, include_extras=True)
        for name, field in flag_fields(cls).items():
            if name not in default_of:  # an earlier group has it
                continue
            text = flag_text(field, default_of.pop(name), reasons.get(name))
            if remarks and name in remarks:
                text += f"; {remarks[name]}"
            if field.metadata["no_effect"] or name in reasons:
                idle.append((name, field, kinds[name], text))
            else:
                _add_flag(group, name, field, kinds[name], text)
    last = parser.add_argument_group(WITHOUT_EFFECT)
    for flag in idle:
        _add_flag(last, *flag)
    return parser


def hyphens(word: str) -> str:
    """Returns ``--dstore_size=5`` as ``--dstore-size=5``; words that are not flags stay as they are."""
    if not word.startswith("--"):
        return word
    match = re.match("[^= ]*", word)
    assert match is not None
    return match[0].replace("_", "-") + word[match.end() :]


def _add_flag(group: Any, name: str, field: dataclasses.Field[Any], kind: Any, text: str) -> None:
    meta = field.metadata
    if meta["positional"]:
        nargs = "*" if typing.get_origin(kind) is tuple else "?"
        group.add_argument(name, help=text, nargs=nargs, metavar=positional_metavar(name, kind))
        return
    spellings = [flag_name(name), *meta["aliases"]]
    if kind is bool:
        action: Any = (
            argparse.BooleanOptionalAction if field.default is True else "store_true"
        )  # the former adds --no-…
        group.add_argument(*spellings, dest=name, action=action, help=text)
        return
    optional = {} if meta["optional_value"] is None else {"nargs": "?", "const": meta["optional_value"]}
    optional = {"nargs": "+"} if meta["several"] else optional
    group.add_argument(*spellings, dest=name, metavar=metavar(name, field, kind), help=text, **optional)
