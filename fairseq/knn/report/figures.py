"""The figures of a sweep, as images inside the page."""

import base64
from pathlib import Path

SUFFIXES = {".svg": "image/svg+xml", ".png": "image/png"}  # the better first
LARGEST_BYTES = 2 << 20


def sweep_figures(directory: Path) -> list[tuple[str, str]]:
    """Returns (name, data URL) of every figure in ``directory``, sorted by name; nothing where there is none.

    A figure that is there as SVG and as PNG is taken once, as SVG. An image element runs no script of an SVG.
    """
    found: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for path in sorted(directory.glob(f"*{suffix}")):
            if path.stat().st_size <= LARGEST_BYTES:
                found.setdefault(path.stem, path)
    return [
        (stem, f"data:{SUFFIXES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}")
        for stem, path in sorted(found.items())
    ]
