"""Configuration: frozen dataclasses whose fields declare their flags once.

    @dataclass(frozen=True)
    class BatchConfig:
        '''Batching.'''                                   # the group's title in --help
        max_tokens: int | None = flag(None, "padded tokens in a batch", minimum=1)

A value comes from the strongest layer that has one. Weakest first: the dataclass default, the ``--arch`` preset, the
checkpoint's own config, ``--model-overrides``, a flag that the user typed. ``Flags`` holds what was typed, and
remembers what was used, so that a flag without effect can be named instead of being ignored.
"""

import ast
import dataclasses
import logging
import math
import types
import typing
from argparse import Namespace as Namespace  # checkpoints hold one; argparse itself stays here
from collections.abc import Callable, Collection, Iterable, Mapping
from string import digits
from typing import Any, TypeVar

from fairseq.config.fairseq_fields import as_flag, is_flag, title, words_of
from fairseq.config.foreign.names import not_built
from fairseq.config.kinds import kind_of
from fairseq.errors import ConfigError, did_you_mean, shown, some_of

T = TypeVar("T")
logger = logging.getLogger(__name__)

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
SMALL = 1e-3  # a bound below it only keeps numbers from 0
LARGEST_INT = 2**53  # beyond, a float no longer tells neighbours apart, and sums of two leave 64 bits


def flag(
    default: Any,
    help: str,
    *,
    aliases: tuple[str, ...] = (),
    choices: Collection[str] | Callable[[], Collection[str]] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    positional: bool = False,
    optional_value: str | None = None,
    no_effect: str | None = None,
    required: bool = False,
    several: bool = False,
) -> Any:
    """Returns a dataclass field that is also a command-line flag.

    Args:
        default: the value when no layer has one; ``dataclasses.MISSING`` makes the field required.
        help: one line for ``--help``, with the unit.
        aliases: further spellings, with their dashes.
        choices: the allowed values, or a function that returns them (a registry's); a mapping gives each a word of
            explanation.
        minimum: the least value allowed.
        maximum: the greatest value allowed.
        positional: the flag is a positional argument.
        optional_value: what the flag means when it is typed without a value.
        no_effect: the flag is accepted for old command lines but does nothing, for this reason; typing it warns.
        required: ``--help`` shows the flag as required: its config refuses the default.
        several: values stand behind the flag with spaces between them.
    """
    metadata = dict(
        help=help,
        aliases=aliases,
        choices=choices,
        minimum=minimum,
        maximum=maximum,
        positional=positional,
        optional_value=optional_value,
        no_effect=no_effect,
        required=required or default is dataclasses.MISSING,
        several=several,
    )
    return dataclasses.field(default=default, metadata=metadata)


_PLAIN = flag(None, "").metadata


def positional_metavar(name: str, annotation: Any) -> str:
    """Returns the word for a positional argument: its name, one of several in the singular."""
    word = name.upper()
    return word.removesuffix("S") if typing.get_origin(annotation) is tuple else word


def flag_name(field_name: str) -> str:
    """Returns the flag of a field: ``max_tokens`` → ``--max-tokens``."""
    return "--" + field_name.replace("_", "-")


def flag_fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """Returns the fields of a config dataclass that are flags, by name; one in fairseq's manner is completed."""
    return {f.name: as_flag(f, _PLAIN) for f in dataclasses.fields(cls) if is_flag(f)}


def parse_literal_dict(text: str, what: str) -> dict[str, Any]:
    """Returns the dict that a Python literal such as ``"{'dropout': 0.1}"`` spells; nothing is evaluated.

    Raises:
        ConfigError: ``text`` is not a literal dict with string keys.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as err:
        raise ConfigError(
            f"{what} must be a Python literal such as \"{{'dropout': 0.1}}\", but is {shown(text)}"
        ) from err
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{what} must be a dict with string keys, but is {shown(text)}")
    return value


def coerce(value: Any, annotation: Any, what: str) -> Any:
    """Returns ``value`` as the annotated type: int, float, bool, str, a tuple of these, a word or None.

    ``float | Literal["auto"]`` is a number or that word, and ``int | None`` a number or None. Strings are parsed, a
    lone value becomes a tuple of one, and an int is taken for a float.

    Raises:
        ConfigError: the value is not of that type.
    """
    parts = typing.get_args(annotation)
    words = [word for part in parts if typing.get_origin(part) is typing.Literal for word in typing.get_args(part)]
    if (value is None and types.NoneType in parts) or (isinstance(value, str) and value in words):
        return value
    if words or types.NoneType in parts:
        annotation = parts[0]
    if words_of(annotation):
        annotation = str
    try:
        if typing.get_origin(annotation) is list:
            return [coerce(item, typing.get_args(annotation)[0], what) for item in _items(value)]
        if typing.get_origin(annotation) is tuple:
            return tuple(coerce(item, typing.get_args(annotation)[0], what) for item in _items(value))
        return _scalar(value, annotation)
    except ConfigError:
        raise
    except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError) as err:
        kind = " or ".join([_KINDS.get(annotation, "a comma-separated list of numbers"), *words])
        raise ConfigError(f"{what} must be {kind}, but is {shown(value)}") from err


def _items(value: Any) -> list[Any]:
    if not isinstance(value, str):
        return list(value) if isinstance(value, (list, tuple)) else [value]
    text = value.strip()
    return list(ast.literal_eval(text)) if text[:1] in ("(", "[") else [part for part in text.split(",") if part]


def _scalar(value: Any, kind: type) -> Any:
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and value in (0, 1):
        return bool(value)
    if kind in (bool, str) or isinstance(value, bool):
        raise ValueError
    number = kind(value)
    if number != number or (kind is int and float(value) != number):
        raise ValueError
    return number


def _check(value: Any, field: dataclasses.Field[Any], what: str) -> None:
    choices, minimum, maximum = (field.metadata[name] for name in ("choices", "minimum", "maximum"))
    if value is None:
        return
    if choices is not None:
        known = choices() if callable(choices) else choices
        if str(value) not in known:
            if message := not_built(what, str(value), known):
                raise ConfigError(message)
            hint = did_you_mean(str(value), known) or _by_ending(str(value), known)
            plugin = "; a plugin's needs --user-dir" if callable(choices) and not hint else ""
            raise ConfigError(f"{what} must be one of {some_of(known)}, but is {shown(value)}{hint}{plugin}")
    if value == () and field.default != ():
        raise ConfigError(f"{what} must have a value, but is empty")
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and math.isinf(item):
            raise ConfigError(f"{what} must be finite, but is {item}")
        if isinstance(item, int) and abs(item) > LARGEST_INT:
            raise ConfigError(f"{what} must be within ±2**53, but is {shown(item)}")
        if isinstance(item, str):
            continue
        if minimum is not None and item < minimum:
            raise ConfigError(f"{what} must be {at_least(minimum, item)}, but is {item}")
        if maximum is not None and item > maximum:
            share = f"; did you mean {item / 100:g}?" if maximum == 1 and 2 <= item <= 100 else ""  # given in percent
            raise ConfigError(f"{what} must be at most {maximum}, but is {item}{share}")


def _by_ending(word: str, known: Iterable[str]) -> str:
    """Returns a hint at the shortest name that ends in a word, numbers aside: ``gpt2`` for ``transformer_lm_gpt``."""
    endings = {name: name.rpartition("_")[2] for name in known}
    found = [name for name, ending in endings.items() if ending.rstrip(digits) == word.lower().rstrip(digits) != ""]
    return f"; did you mean {min(found, key=len)}?" if found else ""


def at_least(least: float, value: float) -> str:
    """Returns in words what a value that is too small must be: ``above 0`` where the least is next to nothing."""
    return "above 0" if value <= 0 < least < SMALL else f"at least {least}"


def resolve(cls: type[T], *layers: Mapping[str, Any]) -> T:
    """Returns ``cls`` filled from ``layers``, weakest first; keys that ``cls`` does not have are ignored.

    Raises:
        ConfigError: a value has the wrong type, is out of range, or a required one is missing.
    """
    kinds, annotated = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = {}
    for name, field in flag_fields(cls).items():
        what = positional_metavar(name, annotated[name]) if field.metadata["positional"] else flag_name(name)
        for layer in layers:
            if name in layer:  # a default of None is one whatever the annotation says
                is_none = layer[name] is None and field.default is None
                values[name] = None if is_none else coerce(layer[name], kinds[name], what)
        if name in values:
            _check(values[name], field, what)
            kind = kind_of(annotated[name])
            if kind is not None and kind.check is not None and values[name] is not None:
                kind.check(what, values[name])
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f"{what} is required: {field.metadata['help']}")
    return cls(**values)


def as_dict(*configs: Any) -> dict[str, Any]:
    """Returns the fields of several configs in one flat dict, as checkpoints store them; later ones win."""
    return {name: value for config in configs for name, value in dataclasses.asdict(config).items()}


class Flags:
    """The flags that the user typed, and which of them have been used.

    Args:
        typed: field name → value, only for flags that stood on the command line.
        known: every config dataclass that the parser was built from.
        foreign: the warning of flags of fairseq's that have no effect here, empty without any.
    """

    def __init__(self, typed: Mapping[str, Any], known: tuple[type, ...], foreign: str = "") -> None:
        self.typed = dict(typed)
        self._foreign = foreign
        self.known = known
        self._no_effect = {
            name: field.metadata["no_effect"]
            for cls in known
            for name, field in flag_fields(cls).items()
            if field.metadata["no_effect"]
        }
        self._owners: dict[str, list[str]] = {}
        for cls in known:
            for name in flag_fields(cls):
                self._owners.setdefault(name, []).append(title(cls))
        self._used: set[str] = set()
        self._switches: dict[str, str] = {}

    def build(self, cls: type[T], *weaker: Mapping[str, Any]) -> T:
        """Returns ``cls`` from the weaker layers and the typed flags, and marks its flags as used."""
        self._used |= set(flag_fields(cls))
        return resolve(cls, *weaker, self.typed)

    def given(self, cls: type) -> dict[str, Any]:
        """Returns what was typed of a config's fields, checked and marked as used, for whom resolves the config."""
        self.build(cls)
        return {name: self.typed[name] for name in flag_fields(cls) if name in self.typed}

    def build_if(self, cls: type[T], *switches: str, weaker: Mapping[str, Any] | None = None) -> T:
        """Returns ``cls``; its flags have an effect, and are not warned of, only with one of the switches."""
        layer = weaker or {}
        if any(self.typed.get(switch) for switch in switches):
            return self.build(cls, layer)
        needed = " or ".join(map(flag_name, switches))
        self._switches.update((name, f"it needs {needed}") for name in flag_fields(cls) if name not in switches)
        return resolve(cls, layer, self.typed)

    def warn_unused(self, reason: str = "") -> None:
        """Logs one warning for each typed flag that is accepted without effect or that nothing has used.

        Those of fairseq's that are not here at all have one together.

        Args:
            reason: why not; without, the switch that it needs, or what it belongs to, is named.
        """
        if self._foreign:
            logger.warning("%s", self._foreign)
        for name, value in self.typed.items():
            typed = flag_name(name if value is not False else f"no_{name}")
            typed += "" if isinstance(value, bool) else f" {value}"
            if name in self._no_effect:
                logger.warning("%s has no effect: %s", typed, self._no_effect[name])
            elif name not in self._used:
                owners = " or ".join(self._owners.get(name, ()))
                why = reason or self._switches.get(name) or f"it belongs to {owners}, which was not chosen"
                logger.warning("%s has no effect: %s", typed, why)
