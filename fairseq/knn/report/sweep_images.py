"""The figures of a sweep, as images inside the page."""

import base64
from pathlib import Path

SUFFIXES = {".png": "image/png", ".svg": "image/svg+xml"}  # the better last
LARGEST_BYTES = 2 << 20


def sweep_figures(directory: Path) -> list[tuple[str, str]]:
    """Returns (name, data URL) of every figure in ``directory``, sorted by name; nothing where there is none.

    A figure that is there as SVG and as PNG is taken once, as SVG. An image element runs no script of an SVG.
    """
    paths = [path for suffix in SUFFIXES for path in directory.glob(f"*{suffix}")]
    found = {path.stem: path for path in paths if path.stat().st_size <= LARGEST_BYTES}
    return [
        (stem, f"data:{SUFFIXES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}")
        for stem, path in sorted(found.items())
    ]
