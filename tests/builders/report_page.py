"""What a page of ``fairseq-knnlm report`` holds, read as a browser does."""

import base64
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np


class Page(HTMLParser):
    """The scripts by id, what would be fetched, and the tags of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.dtypes: dict[str, str] = {}
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self._script: str | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.facts = json.loads(self.scripts["facts"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.fetched += [given[name] for name in ("src", "href", "srcset", "action") if given.get(name)]
        if tag == "script":
            self._script = given.get("id", "main")
            self.scripts[self._script] = ""
            self.dtypes[self._script] = given.get("data-dtype") or ""

    def handle_endtag(self, tag: str) -> None:
        self._script = None if tag == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data

    def array(self, name: str) -> np.ndarray:
        data = zlib.decompress(base64.b64decode(self.scripts[f"array-{name}"]))
        return np.frombuffer(data, np.dtype(self.dtypes[f"array-{name}"]).newbyteorder("<"))
