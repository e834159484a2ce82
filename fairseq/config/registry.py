"""Registries: the models, tasks, criterions, optimizers and schedules that a flag can name.

A built-in is registered by the *path* of its factory, so that ``--help`` can list it without importing torch; a plugin
registers the object itself with a decorator. Either way a name may carry a config dataclass, whose fields become flags.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fairseq.config.foreign.names import not_built
from fairseq.errors import ConfigError, did_you_mean, some_of
from fairseq.plugins.classes import config_of, require_known

F = TypeVar("F", bound=Callable[..., Any])


def load(path: str) -> Callable[..., Any]:
    """Returns what ``"module:attribute"`` names, importing the module."""
    module, _, attribute = path.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return loaded


def first_line(thing: object) -> str:
    """Returns the first line of what a function or class says of itself, without the full stop."""
    return (thing.__doc__ or "").strip().partition("\n")[0].rstrip(".")


@dataclass(frozen=True)
class Entry:
    """A registered name: its factory (or ``"module:attribute"``), its config dataclass if it has one, what it is."""

    factory: Callable[..., Any] | str
    config: type | None
    summary: str = ""


class Registry:
    """Names of one kind, in the order in which they were registered.

    Args:
        kind: what the names are, for messages: ``"optimizer"``.
        flag: the flag that chooses between them: ``"--optimizer"``.
    """

    def __init__(self, kind: str, flag: str) -> None:
        self.kind = kind
        self.flag = flag
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, factory: Callable[..., Any] | str, config: type | None = None, summary: str = "") -> None:
        """Registers ``name``, with a few words for ``--help``; raises ConfigError when it is taken."""
        if name in self._entries:
            raise ConfigError(f"{self.kind} '{name}' is registered twice; give the second one another name")
        if not isinstance(factory, str):
            require_known(factory, self.kind)
            config, summary = config_of(factory, config), summary or first_line(factory)
        self._entries[name] = Entry(factory, config, summary)

    def register(
        self, name: str, config: type | None = None, summary: str = "", dataclass: type | None = None
    ) -> Callable[[F], F]:
        """Returns a decorator that registers a factory under ``name``.

        Without a summary, ``--help`` shows the first line of its docstring. ``dataclass`` is fairseq's word for
        ``config``.
        """

        def decorate(factory: F) -> F:
            self.add(name, factory, config or dataclass, summary)
            return factory

        return decorate

    def names(self) -> tuple[str, ...]:
        """Returns the registered names."""
        return tuple(self._entries)

    def summaries(self) -> dict[str, str]:
        """Returns a few words on each name."""
        return {name: entry.summary for name, entry in self._entries.items()}

    def config(self, name: str) -> type | None:
        """Returns the config dataclass of ``name``; raises ConfigError for an unknown name."""
        return self._entry(name).config

    def configs(self) -> tuple[type, ...]:
        """Returns every config dataclass once, in the order of registration."""
        return tuple(dict.fromkeys(e.config for e in self._entries.values() if e.config is not None))

    def get(self, name: str) -> Callable[..., Any]:
        """Returns the factory of ``name``, importing it if need be; raises ConfigError for an unknown name."""
        factory = self._entry(name).factory
        return load(factory) if isinstance(factory, str) else factory

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise ConfigError(
                not_built(self.flag, name, self._entries)
                or f"{self.flag} {name} is not a known {self.kind}{did_you_mean(name, self._entries)}"
                f" (known: {some_of(self._entries)}; a plugin's needs --user-dir)"
            )
        return self._entries[name]
