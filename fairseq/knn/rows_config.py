"""The flags of ``fairseq-knnlm rows`` and ``forget``; imports neither torch nor FAISS."""

import dataclasses
import re
from dataclasses import dataclass

from fairseq.config import flag
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class TextsConfig:
    """The texts that the rows were written from."""

    data: str | None = flag(None, "directory that holds them, where they have moved since")
    document_start: str | None = flag(
        None, "regular expression of a document's first line; without, headings = … = of WikiText, else empty lines"
    )


@dataclass(frozen=True)
class RowsConfig:
    """Which rows of which datastore."""

    prefix: str = flag(
        dataclasses.MISSING, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy", positional=True
    )
    rows: tuple[str, ...] = flag((), "rows: numbers, or ranges FIRST:STOP", positional=True)
    documents: bool = flag(False, "list the documents instead: number, rows, title")
    context: int = flag(12, "words that are shown before and after each row's", minimum=0, maximum=1000)
    json: str | None = flag(None, "write what is shown to this file as well")

    def __post_init__(self) -> None:
        if bool(self.rows) == self.documents:
            raise ConfigError("rows: give numbers such as 12345 or 100:120, or --documents, which lists the documents")


@dataclass(frozen=True)
class ForgetConfig:
    """What is forgotten of which datastore; without, what has been forgotten so far is told, or compacted."""

    prefix: str = flag(
        dataclasses.MISSING, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy", positional=True
    )
    document: str | None = flag(
        None, "a document: its title, or SPLIT#NUMBER, as fairseq-knnlm rows PREFIX --documents lists them"
    )
    rows: str | None = flag(None, "rows, from the first number to before the second: A:B")
    source: str | None = flag(None, "every row of a text: the name of its split, such as valid, or the end of its path")
    following: int = flag(
        0, "with --document: the rows of so many tokens after it as well, whose contexts reach back into it",
        minimum=0,
    )  # fmt: skip
    dry_run: bool = flag(False, "say what would be forgotten, and change nothing")
    compact: bool = flag(False, "take the forgotten rows out of the files as well; rows are numbered anew")
    indexfile: tuple[str, ...] = flag((), "with --compact: indexes of the datastore, comma-separated")
    save_interval_s: float = flag(60.0, "seconds of writing between two states to resume from", minimum=0)

    def __post_init__(self) -> None:
        given = [name for name in ("document", "rows", "source") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"--{given[0]} and --{given[1]} exclude each other; run the command once for each")
        if self.following and self.document is None:
            raise ConfigError("--following names rows after a document; give --document")
        if self.indexfile and not self.compact:
            raise ConfigError("--indexfile is for --compact: until then, searches pass over what is forgotten")
        if self.compact and given:
            # One command for both, given again after it was stopped, would forget what has got these numbers since.
            raise ConfigError(
                f"--{given[0]} and --compact are two commands: forget first, then compact what is forgotten"
            )
        if self.dry_run and not given:
            raise ConfigError("--dry-run says what would be forgotten; give --document, --rows or --source")
        if self.rows is not None:
            parse_rows(self.rows)


def parse_rows(word: str) -> tuple[int, int]:
    """Returns the rows that ``A:B`` or a single number names: the first, and the one after the last.

    Raises:
        ConfigError: it names none.
    """
    match = re.fullmatch(r"(\d{1,18})(?::(\d{1,18}))?", word)
    if match is None:
        raise ConfigError(f"rows must be a number or a range FIRST:STOP of numbers, but are {word[:80]!r}")
    start = int(match[1])
    stop = int(match[2]) if match[2] is not None else start + 1
    if start >= stop:
        raise ConfigError(f"rows {word}: the second number, after the last row, must be greater than the first")
    return start, stop
