"""Stand-ins for names of fairseq's that a plugin imports and that are not here.

Plugins import more than they use. While one is imported, such a name is a ``StandIn``; its use is the error, in the
line where it is used.
"""

import sys
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from fairseq.errors import ConfigError


class NotHereError(ConfigError, ImportError):
    """A name of fairseq's that is not here; Python would drop the text of an AttributeError in an import."""

    def __init__(self, text: str, name: str) -> None:
        ImportError.__init__(self, text, name=name)


class StandIn(ModuleType):
    """A name, which may be a module, a class or a function; whatever it has is a stand-in as well.

    Args:
        name: of fairseq's, in full.
        instead: what to use in its place.
    """

    __path__: MutableSequence[str] = []  # noqa: RUF012

    def __init__(self, name: str, instead: str) -> None:
        super().__init__(name)
        self._instead = instead

    def __getattr__(self, name: str) -> "StandIn":
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(f"{self.__name__}.{name}", self._instead)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotHereError(f"{self.__name__} is not here; {self._instead}", name=self.__name__)

    def _in_a_type(self, _: Any) -> Any:
        return Any

    __call__ = __mro_entries__ = __instancecheck__ = __subclasscheck__ = __iter__ = _refuse
    __or__ = __ror__ = __getitem__ = _in_a_type  # annotations name types that nobody makes


class _Finder(MetaPathFinder, Loader):
    """Finds stand-ins for modules, behind all others."""

    def __init__(self, advice: dict[str, str]) -> None:
        self._advice = advice

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Returns a module that the table names, or that is part of a stand-in."""
        parent = sys.modules.get(fullname.rpartition(".")[0])
        is_module = fullname.rpartition(".")[2].islower() and fullname in self._advice
        known = is_module or any(name.startswith(f"{fullname}.") for name in self._advice)
        if not fullname.startswith("fairseq.") or not (known or isinstance(parent, StandIn)):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> StandIn:
        """Returns the stand-in."""
        parent = sys.modules.get(spec.name.rpartition(".")[0])
        if isinstance(parent, StandIn):
            return getattr(parent, spec.name.rpartition(".")[2])  # type: ignore[no-any-return]
        return StandIn(spec.name, self._advice.get(spec.name) or self._advice["fairseq"])

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: a stand-in has no code."""


in_plugin = False


@contextmanager
def stand_ins(advice: dict[str, str]) -> Iterator[None]:
    """Names of fairseq's that are not here can be imported while the block runs.

    Args:
        advice: what to use instead of each; the longest name that begins one has its advice.
    """
    global in_plugin
    finder, in_plugin = _Finder(advice), True
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        in_plugin = False
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, StandIn)]:
            parent, _, last = name.rpartition(".")
            vars(sys.modules.get(parent, sys)).pop(last, None)
            del sys.modules[name]
