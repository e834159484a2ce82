"""Plugins as files, and registries that forget them."""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq import models
from fairseq.config.registry import Registry
from fairseq.models import MODELS
from fairseq.plugins import user_dir

BUILT_IN_ARCHITECTURES = dict(models._ARCHITECTURES)


@contextmanager
def own_registries() -> Iterator[None]:
    """Keeps what plugins register, and the modules that they are, from other tests."""
    entries = {registry: dict(registry._entries) for registry in registries()}
    architectures, imported, modules = dict(models._ARCHITECTURES), len(user_dir._imported), set(sys.modules)
    try:
        yield
    finally:
        for registry in registries():
            registry._entries = entries[registry] if registry in entries else built_in(registry)
        models._ARCHITECTURES = architectures
        plugins = {path.stem for path in user_dir._imported[imported:]}
        for name in set(sys.modules) - modules:
            if name.partition(".")[0] in plugins:
                del sys.modules[name]
        del user_dir._imported[imported:]


def registries() -> set[Registry]:
    """Returns the registries of every module of fairseq's that is loaded."""
    own = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "fairseq"]
    return {thing for module in own for thing in list(vars(module).values()) if isinstance(thing, Registry)}


def built_in(registry: Registry) -> dict[str, Any]:
    """Returns what a registry has without plugins: our own names are registered by their paths."""
    return {name: entry for name, entry in registry._entries.items() if isinstance(entry.factory, str)}


def forget_plugins() -> None:
    """Takes the architectures and models that are not ours out of the registries."""
    models._ARCHITECTURES = dict(BUILT_IN_ARCHITECTURES)
    MODELS._entries = built_in(MODELS)


def write_plugin(root: Path, files: Mapping[str, str]) -> Path:
    """Writes a package ``a_plugin`` of files, each by its path in there, and returns its directory."""
    directory = root / "a_plugin"
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return directory
