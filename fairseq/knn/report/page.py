"""The page: one HTML file with everything in it, which asks no network for anything.

Its content security policy says so too: the browser loads nothing but images inside the file. Words come as JSON and
reach the document as text only, never as markup; ``<`` is escaped in the JSON, so that no word can end its element.
"""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

_HEAD_BYTES = 1 << 16
SCRIPTS = ("data.js", "text.js", "list.js", "details.js", "tables.js", "main.js")


def render(
    title: str,
    facts: Mapping[str, Any],
    arrays: Iterable[tuple[str, str, int, str]],
    settings: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> Iterable[str]:
    """Yields the pieces of the page.

    Args:
        title: of the document.
        facts: what is no array: settings, words, groups; ``unit`` is what the page calls one of them.
        settings: of the command, by which ``is_of`` knows it again.
        arrays: (name, dtype, length, base64 text), as ``pack.packed`` gives them.
        warnings: that stand above everything.
    """
    room = files("fairseq.knn.report")
    parts = {"title": html.escape(title), "css": room.joinpath("report.css").read_text(encoding="utf-8")}
    parts["unit"] = html.escape(facts["unit"])
    parts["settings"] = html.escape(json.dumps(settings, sort_keys=True))
    parts["banner"] = "".join(f'<p class="banner" role="alert">{html.escape(line)}</p>' for line in warnings)
    parts["js"] = "\n".join(room.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    template = room.joinpath("template.html").read_text(encoding="utf-8")
    for number, piece in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
        if number % 2 == 0:
            yield piece
        elif piece == "data":
            yield f'<script type="application/json" id="facts">{script_json(facts)}</script>\n'
            for name, dtype, length, text in arrays:
                yield f'<script type="text/plain" id="array-{name}" data-dtype="{dtype}" data-length="{length}">'
                yield f"{text}</script>\n"
        else:
            yield parts[piece]


def is_of(page: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a command with these settings wrote the page."""
    if not page.is_file():
        return False
    with page.open("rb") as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", errors="replace")
    found = re.search(r'<meta name="settings" content="([^"]*)">', head)
    return found is not None and html.unescape(found[1]) == json.dumps(settings, sort_keys=True)


def script_json(record: Any) -> str:
    """Returns JSON that can stand inside a script element, whatever its strings hold."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
