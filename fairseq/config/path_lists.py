r"""Lists of paths in one flag: ``A:B``; a colon in a name is written ``\:``.

Every flag that takes several checkpoints, data directories, datastores or indexes is read by ``split_paths``.
"""

import re
from collections.abc import Iterable
from pathlib import Path


def split_paths(text: str) -> list[str]:
    r"""Returns the names in ``A:B``, at least one, empty ones included: ``a\:b:c`` names ``a:b`` and ``c``."""
    return [unescaped(name) for name in re.split(r"(?<!\\):", text)]


def join_paths(names: Iterable[str | Path]) -> str:
    r"""Returns what ``split_paths`` reads as these names."""
    return ":".join(str(name).replace(":", r"\:") for name in names)


def unescaped(name: str) -> str:
    r"""Returns a single name that was written as in a list: ``\:`` is a colon."""
    return name.replace(r"\:", ":")


def colon_hint(text: str) -> str:
    r"""Returns a hint at ``\:`` where a list, taken for one name, is there; else an empty string."""
    return f"; for a name that has a colon, write '{join_paths([text])}'" if ":" in text and Path(text).exists() else ""
