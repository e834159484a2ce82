"""Config dataclasses that a plugin may extend: ours are frozen, fairseq's are not, and neither can extend the other."""

import copy
import dataclasses
from typing import Any


def thawed(config: type, name: str) -> Any:
    """Returns a dataclass with the fields, properties and checks of a frozen one, whose instances may change."""
    fields = [(f.name, f.type, copy.copy(f)) for f in dataclasses.fields(config)]
    kept = {
        key: value
        for key, value in vars(config).items()
        if isinstance(value, property) or (callable(value) and not key.startswith("__")) or key == "__post_init__"
    }
    twin = dataclasses.make_dataclass(name, fields, namespace=kept)
    twin.__doc__, twin.__module__ = config.__doc__, config.__module__
    return twin
