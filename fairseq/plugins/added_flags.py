"""Flags that a class adds by ``add_args(parser)``, as a config dataclass.

As in fairseq:

    @staticmethod
    def add_args(parser):
        parser.add_argument("--my-width", type=int, default=64, help="…")
"""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from fairseq.config.flags import coerce, flag, flag_fields, flag_name
from fairseq.errors import ConfigError, shown

_KNOWN = {"type", "default", "choices", "help", "metavar", "action", "dest", "required"}
# What a text says of argparse's own default: ours stands behind every text.
_DEFAULT = re.compile(r"[ ;,]*[\[(]?(?:by )?default(?: is|:|=)? *%\(default\)\w[\])]?", re.IGNORECASE)


class _Recorder:
    """Stands for argparse's parser, and makes a field of each flag that is added."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.fields: dict[str, tuple[Any, Any]] = {}

    def add_argument(self, *names: str, **given: Any) -> None:
        """Notes a flag; raises ConfigError for a positional one, and for what a flag cannot do here."""
        longest = max(names, key=len, default="")
        action = given.get("action") or "store"
        name = given.get("dest") or longest.lstrip("-").replace("-", "_")
        if not longest.startswith("--"):
            self._refuse(longest or "an argument", "as a positional argument")
        if more := sorted(set(given) - _KNOWN):
            self._refuse(longest, f"with {more[0]}={shown(given[more[0]])}")
        if action not in ("store", "store_true", "store_false"):
            self._refuse(longest, f"with action={shown(getattr(action, '__name__', action))}")
        aliases = tuple(other for other in names if other.replace("_", "-") != flag_name(name))
        text = _DEFAULT.sub("", " ".join(str(given.get("help") or "").split())).replace("%%", "%")
        if action == "store_false":
            if longest.replace("_", "-") != flag_name(f"no_{name}") or given.get("default", True) is not True:
                self._refuse(longest, "with action='store_false', not as --no-… of its dest")
            self.fields[name] = (bool, flag(True, text))  # which has the --no-… of itself
        elif action == "store_true":
            self.fields[name] = (bool, flag(given.get("default", False), text, aliases=aliases))
        else:
            annotation, default, choices = self._value_of(longest, given)
            self.fields[name] = (annotation, flag(default, text, aliases=aliases, choices=choices))

    def _value_of(self, name: str, given: Mapping[str, Any]) -> tuple[Any, Any, tuple[str, ...] | None]:
        """Returns type, default and choices of a flag that has a value."""
        default, choices = given.get("default"), given.get("choices")
        kind: Any = given.get("type") or (type(default) if type(default) in (int, float) else str)
        if kind not in (str, int, float, bool):
            word = getattr(kind, "__name__", shown(kind))
            self._refuse(name, f"with type={word}, not str, int, float or bool")
        annotation = tuple[kind, ...] if isinstance(default, (list, tuple)) else kind
        try:
            words = None if choices is None else tuple(str(coerce(choice, kind, "a choice")) for choice in choices)
            if default is None:
                return kind | None, dataclasses.MISSING if given.get("required") else None, words
            return annotation, coerce(default, annotation, "its default"), words
        except ConfigError as err:
            self._refuse(name, f"of which {err}")

    def _refuse(self, name: str, how: str) -> NoReturn:
        raise ConfigError(
            f"{self.owner}.add_args adds {name} {how}, which is not supported here; make it a field of a"
            " dataclass (fairseq.config.flags.flag)"
        )

    def add_argument_group(self, *_: Any, **__: Any) -> "_Recorder":
        """Returns itself: groups of flags are those of the config."""
        return self

    add_mutually_exclusive_group = add_argument_group

    def set_defaults(self, **defaults: Any) -> NoReturn:
        """Raises ConfigError: defaults are those of the config's fields."""
        self._refuse(flag_name(next(iter(defaults), "defaults")), "by set_defaults")


def with_added_flags(owner: type, config: type) -> type:
    """Returns ``config`` with what ``owner.add_args`` adds; a flag that is there already stays as it is."""
    recorder = _Recorder(owner.__name__)
    add_args: Any = owner.add_args  # type: ignore[attr-defined]
    try:
        add_args(recorder)
    except NameError as err:
        if err.name != owner.__name__:
            raise
        # A decorator runs before the class has its name, by which super(MyLM, MyLM).add_args(parser) asks for it.
        inspect.unwrap(add_args).__globals__[owner.__name__] = owner
        recorder.fields.clear()
        add_args(recorder)
    own = flag_fields(config)
    fields = [(name, kind, field) for name, (kind, field) in recorder.fields.items() if name not in own]
    if not fields:
        return config
    frozen = config.__dataclass_params__.frozen  # type: ignore[attr-defined]
    made = dataclasses.make_dataclass(f"{owner.__name__}Config", fields, bases=(config,), frozen=frozen, kw_only=True)
    made.__doc__, made.__module__ = f"Settings of {owner.__name__}.", owner.__module__
    return made
