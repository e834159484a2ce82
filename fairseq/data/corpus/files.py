"""The documents of a text file, or of a directory of them.

    file          a file is a document
    blank-line    documents are what stands between empty lines (or lines of white space alone)
    jsonl         every line is a JSON object with a document's text in one of its fields

In a directory, files are taken in the order of their paths, those below it included; names that begin with a dot are
left out, and so are files that are no text (a zero byte, or no UTF-8). Of a file alone, these are errors.
"""

import codecs
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

_CHUNK_BYTES = 1 << 16


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

    def read(self, path: Path) -> Iterator[Document] | None:
        """Returns the documents of a file, read one by one; None where it is no text and one of a directory.

        Raises:
            DataError: while they are read: the file, if it was given alone, is no UTF-8; a line is no JSON with the
                field.
        """
        return self._documents(path) if path == self.path or _is_text(path) else None

    def _documents(self, path: Path) -> Iterator[Document]:
        with path.open("rb") as file:
            warn_of_mark(file.read(len(codecs.BOM_UTF8)), str(path))
        name = self.name_of(path)
        rule = self.documents or ("jsonl" if path.suffix == ".jsonl" else "file")
        if rule == "jsonl":
            yield from self._of_json(path)
        elif rule == "blank-line":
            yield from (Document(name, line, part) for line, part in _paragraphs(path))
        else:
            data = path.read_bytes()
            text = decoded(data, str(path), lambda position: data.count(b"\n", 0, position) + 1)
            if text:
                yield Document(name, 1, text)

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

    def _of_json(self, path: Path) -> Iterator[Document]:
        name = self.name_of(path)
        for line, row in _lines(path):
            if row.strip():
                yield Document(f"{name}:{line}", 1, self._field(row.removesuffix("\n"), f"{path}:{line}"))

    def _field(self, row: str, place: str) -> str:
        try:
            record = json.loads(row)
        except (ValueError, RecursionError) as err:
            raise DataError(f"{place}: a line must be a JSON object, but is {shown(row)} ({err}); mend it") from err
        found = record.get(self.field) if isinstance(record, dict) else None
        if not isinstance(found, str):
            has = f"is {shown(row)}"
            if isinstance(record, dict):
                has = f"has {', '.join(map(str, record))[:160]}"
            if isinstance(record, dict) and self.field in record:
                has = f"that is {shown(found)}"
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


def _is_text(path: Path) -> bool:
    """Returns whether a file is UTF-8 without a zero byte; of one that is not, no more is read than shows it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while data := file.read(_CHUNK_BYTES):
                if b"\0" in data:
                    return False
                decoder.decode(data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a file, with their ends, and their numbers."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, decoded(line, str(path), number, start=start)
            start += len(line)


def _paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    """Yields what stands between blank lines, and the number of the line that each begins on."""
    first, lines = 0, list[str]()
    for line, row in _lines(path):
        if row.strip():
            first = first if lines else line
            lines.append(row)
        elif lines:
            yield first, "".join(lines)
            lines = []
    if lines:
        yield first, "".join(lines)
