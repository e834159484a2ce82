"""Flags that a class adds by ``add_args(parser)``, as a config dataclass.

@staticmethod
def add_args(parser):
parser.add_argument("--my-width", type=int, default=64, help="…")
"""

import dataclasses
from typing import Any

from fairseq.config.flags import flag, flag_fields
from fairseq.errors import ConfigError

_KNOWN = {"type", "default", "choices", "help", "metavar", "action", "dest", "required"}
_SWITCHES = {"store_true": False, "store_false": True}


class _Recorder:
    """Stands for argparse's parser, and makes a field of each flag that is added."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.fields: dict[str, tuple[Any, Any]] = {}

    def add_argument(self, *names: str, **given: Any) -> None:
        """Notes a flag; raises ConfigError for a positional one, and for what a flag cannot do here."""
        longest = max(names, key=len, default="")
        action = given.get("action")
        if not longest.startswith("--") or set(given) - _KNOWN or action not in (None, "store", *_SWITCHES):
            raise ConfigError(
                f"{self.owner}.add_args adds {longest or 'an argument'} in a way that is not supported here; make it a"
                " field of a dataclass (fairseq.config.flags.flag)"
            )
        name = given.get("dest") or longest.lstrip("-").replace("-", "_")
        aliases = tuple(other for other in names if other != longest)
        text = " ".join(str(given.get("help") or "").split())
        if action in _SWITCHES:
            self.fields[name] = (bool, flag(given.get("default", _SWITCHES[str(action)]), text, aliases=aliases))
            return
        kind: Any = given.get("type", str)
        kind = kind if kind in (int, float, bool) else str
        default = given.get("default")
        if isinstance(default, str) and kind is not str:
            default = kind(default)
        choices = None if given.get("choices") is None else tuple(map(str, given["choices"]))
        annotation = kind | None if default is None else kind
        self.fields[name] = (annotation, flag(default, text, aliases=aliases, choices=choices if kind is str else None))

    def add_argument_group(self, *_: Any, **__: Any) -> "_Recorder":
        """Returns itself: groups of flags are those of the config."""
        return self


def with_added_flags(owner: type, config: type) -> type:
    """Returns ``config`` with what ``owner.add_args`` adds; a flag that is there already stays as it is."""
    recorder = _Recorder(owner.__name__)
    owner.add_args(recorder)  # type: ignore[attr-defined]
    own = flag_fields(config)
    fields = [(name, kind, field) for name, (kind, field) in recorder.fields.items() if name not in own]
    if not fields:
        return config
    made = dataclasses.make_dataclass(f"{owner.__name__}Config", fields, bases=(config,), frozen=True)
    made.__doc__, made.__module__ = f"Settings of {owner.__name__}.", owner.__module__
    return made
