"""Plugins as files, and registries that forget them."""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fairseq import models
from fairseq.criterions import CRITERIONS
from fairseq.models import MODELS
from fairseq.optim import LR_SCHEDULERS, OPTIMIZERS
from fairseq.tasks import TASKS

BUILT_IN_ARCHITECTURES = dict(models._ARCHITECTURES)
REGISTRIES = (MODELS, TASKS, CRITERIONS, OPTIMIZERS, LR_SCHEDULERS)


@contextmanager
def own_registries() -> Iterator[None]:
    """Keeps what plugins register, and the modules that they are, from other tests."""
    entries, modules = [dict(registry._entries) for registry in REGISTRIES], set(sys.modules)
    architectures = dict(models._ARCHITECTURES)
    try:
        yield
    finally:
        for registry, before in zip(REGISTRIES, entries, strict=True):
            registry._entries = before
        models._ARCHITECTURES = architectures
        for name in set(sys.modules) - modules:
            if name.split(".")[0].startswith("a_plugin"):
                del sys.modules[name]


def forget_plugins() -> None:
    """Takes the architectures and models that are not ours out of the registries."""
    models._ARCHITECTURES = dict(BUILT_IN_ARCHITECTURES)
    MODELS._entries = {name: entry for name, entry in MODELS._entries.items() if isinstance(entry.factory, str)}


def write_plugin(root: Path, files: Mapping[str, str]) -> Path:
    """Writes a package ``a_plugin`` of files, each by its path in there, and returns its directory."""
    directory = root / "a_plugin"
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return directory
