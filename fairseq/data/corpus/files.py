"""The documents of a text file, or of a directory of them.

    file          a file is a document
    blank-line    documents are what stands between empty lines (or lines of white space alone)
    jsonl         every line is a JSON object with a document's text in one of its fields

In a directory, files are taken in the order of their paths, those below it included; names that begin with a dot are
left out, and so are files that are no text (a zero byte, or no UTF-8). Of a file alone, these are errors.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from fairseq.data.encoding import decoded, warn_of_mark
from fairseq.errors import ConfigError, DataError, shown
from fairseq.storage.files import file_sha256


@dataclass(frozen=True)
class Document:
    """A document.

    Attributes:
        name: its file's, within the directory that was given; of JSON, with its line.
        first_line: the line of the file that is its first; of JSON, 1: lines are those of its text.
        text: the whole of it.
    """

    name: str
    first_line: int
    text: str


@dataclass(frozen=True)
class Corpus:
    """The files of a text.

    Args:
        path: a file, or a directory.
        documents: ``file``, ``blank-line`` or ``jsonl``; None for what the names say.
        field: of JSON that has the text.
        globs: of names, or of paths within the directory; all files if empty.
        flag: that named the path, for messages.
        left_out: a directory within it that is no part of it: where the results go.
    """

    path: Path
    documents: str | None = None
    field: str = "text"
    globs: Sequence[str] = ()
    flag: str = "--trainpref"
    left_out: Path | None = None

    def files(self) -> list[Path]:
        """Returns the files, sorted by their paths within the directory.

        Raises:
            DataError: there is none.
        """
        if not self.path.is_dir():
            return [self.path]
        found: list[Path] = []
        own = os.path.realpath(self.left_out) if self.left_out is not None else ""
        if os.path.realpath(self.path) == own:
            raise ConfigError(f"{self.flag}: {self.path} is where the results go; give --destdir another directory")
        for directory, below, names in os.walk(self.path, onerror=_raise):
            below[:] = [b for b in below if not b.startswith(".") and os.path.realpath(Path(directory, b)) != own]
            found += [Path(directory, name) for name in names if not name.startswith(".")]
        found = sorted((path for path in found if path.is_file() and self._is_wanted(path)), key=self._key)
        if not found:
            which = f" that matches {','.join(self.globs)}" if self.globs else ""
            raise DataError(f"{self.flag}: the directory {self.path} has no file{which}; give one with texts")
        return found

    def name_of(self, path: Path) -> str:
        """Returns a file's path within the directory, its name where the file alone was given."""
        return path.relative_to(self.path).as_posix() if path != self.path else path.name

    def read(self, path: Path) -> list[Document] | None:
        """Returns the documents of a file, None where it is no text and one of a directory.

        Raises:
            DataError: the file, if it was given alone, is no UTF-8; a line is no JSON with the field.
        """
        data, alone = path.read_bytes(), path == self.path
        try:
            text = decoded(data, str(path), lambda position: data.count(b"\n", 0, position) + 1)
        except DataError:
            if alone:
                raise
            return None
        if b"\0" in data and not alone:
            return None
        warn_of_mark(data, str(path))
        name = self.name_of(path)
        rule = self.documents or ("jsonl" if path.suffix == ".jsonl" else "file")
        if rule == "jsonl":
            return list(self._of_json(text, path))
        if rule == "blank-line":
            return [Document(name, line, part) for line, part in _paragraphs(text)]
        return [Document(name, 1, text)] if text else []

    def sha256(self, paths: Sequence[Path]) -> str:
        """Returns the hash of the file, or of the names and hashes of those of a directory, in hexadecimal."""
        if list(paths) == [self.path]:
            return file_sha256(self.path)
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{file_sha256(path)} {self.name_of(path)}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _is_wanted(self, path: Path) -> bool:
        name = self.name_of(path)
        return not self.globs or any(fnmatch(name if "/" in glob else path.name, glob) for glob in self.globs)

    def _key(self, path: Path) -> tuple[str, ...]:
        return path.relative_to(self.path).parts

    def _of_json(self, text: str, path: Path) -> Iterator[Document]:
        name = self.name_of(path)
        for line, row in enumerate(text.split("\n"), 1):
            if row.strip():
                yield Document(f"{name}:{line}", 1, self._field(row, f"{path}:{line}"))

    def _field(self, row: str, place: str) -> str:
        try:
            record = json.loads(row)
        except (ValueError, RecursionError) as err:
            raise DataError(f"{place}: a line must be a JSON object, but is {shown(row)} ({err}); mend it") from err
        found = record.get(self.field) if isinstance(record, dict) else None
        if not isinstance(found, str):
            has = f"has {', '.join(map(str, record))[:160]}" if isinstance(record, dict) else f"is {shown(row)}"
            raise DataError(
                f"{place}: a line must be a JSON object with a text named {self.field!r}, but {has}; name another by"
                " --jsonl-field, or mend it"
            )
        try:
            found.encode()
        except UnicodeEncodeError as err:
            raise DataError(
                f"{place}: the text must be Unicode, but holds half a character ({found[err.start]!a}); mend it"
            ) from err
        return found


def _raise(err: OSError) -> None:
    raise err


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yields what stands between blank lines, and the number of the line that each begins on."""
    first, lines = 0, list[str]()
    for line, row in enumerate(text.split("\n"), 1):
        if row.strip():
            first = first if lines else line
            lines.append(row)
        elif lines:
            yield first, "\n".join(lines) + "\n"
            lines = []
    if lines:
        yield first, "\n".join(lines)
