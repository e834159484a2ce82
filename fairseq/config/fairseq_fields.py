"""Fields of the dataclasses of fairseq's plugins, as flags of ours.

Three of them, in a dataclass:

    eps: float = field(default=0.1, metadata={"help": "…", "argparse_alias": "-e"})
    beta: float = 0.1
    sentence_avg: bool = II("optimization.sentence_avg")      # "${optimization.sentence_avg}": the value of that flag
"""

import copy
import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

from fairseq.errors import ConfigError, did_you_mean

REFERENCE = re.compile(r"\$\{(?:\w+\.)*(\w+)\}")


def title(cls: type) -> str:
    """Returns the title of a config's flags: the first line of its docstring, if it is more than Python's own of it."""
    text = (cls.__doc__ or "").strip()
    if not text or text.startswith(f"{cls.__name__}("):
        return f"Settings of {cls.__name__}"
    return text.partition("\n")[0].rstrip(".")


def is_flag(field: dataclasses.Field[Any]) -> bool:
    """Returns whether a field is a flag: not one that only refers to another flag, nor one that is not to be given."""
    refers = isinstance(field.default, str) and REFERENCE.fullmatch(field.default) is not None
    return "help" in field.metadata or (field.init and not refers and not field.name.startswith("_"))


def as_flag(field: dataclasses.Field[Any], own: Mapping[str, Any]) -> dataclasses.Field[Any]:
    """Returns a field with metadata and a default such as ``flag`` gives, which ours has already.

    Args:
        field: of any dataclass.
        own: the metadata of a flag of which nothing is said but its help.
    """
    if own.keys() <= field.metadata.keys():
        return field
    made, given = copy.copy(field), field.metadata
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        made.default, made.default_factory = tuple(value) if isinstance(value, list) else value, dataclasses.MISSING
    choices = tuple(map(str, given.get("argparse_choices") or ())) or words_of(field.type)
    alias = given.get("argparse_alias")
    found = {"help": str(given.get("help", "")), "aliases": (alias,) if alias else (), "choices": choices}
    required = {"required": made.default is dataclasses.MISSING}
    made.metadata = types.MappingProxyType({**own, **found, **required})
    return made


def words_of(annotation: Any) -> tuple[str, ...] | None:
    """Returns the values of a type that is an enumeration, or may be None beside it; None for any other type."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Enum):
            return tuple(str(member.value) for member in kind)
    return None


def defaults_of(cls: type) -> dict[str, Any]:
    """Returns the defaults of a dataclass by name: plain words for enumerated ones, and references as they are."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default.value if isinstance(field.default, Enum) else field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def filled_in(config: Any, settings: Mapping[str, Any]) -> Any:
    """Returns a config with the values of other flags where it refers to them, and plain words for enumerated ones.

    Raises:
        ConfigError: a reference to a flag that there is not.
    """
    if config is None:
        return None
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Enum):
            values[field.name] = value.value
            continue
        match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            continue
        if match[1] not in settings:
            raise ConfigError(
                f"{type(config).__name__}.{field.name} must name a flag, but names {value}, which is none"
                f"{did_you_mean(match[1], settings)}"
            )
        values[field.name] = settings[match[1]]
    return dataclasses.replace(config, **values) if values else config
