"""WikiText-103 or WikiText-2, from a copy that you have.

    python prepare_wikitext.py --source PATH --dest DIR

The links of 2016 are dead. --source is one of

- the official archive, wikitext-103-v1.zip or wikitext-2-v1.zip;
- a directory with wiki.{train,valid,test}.tokens, at any depth, plain or .xz;
- a directory with the Parquet files of a hub's wikitext-103-v1 or wikitext-2-v1 (needs pyarrow),

and --mirror URL fetches an archive first. Tokens are counted, one end of line a line included, and a text with other
counts than these is refused, so that nobody measures on another one:

    WikiText-103   train 103,227,021   valid 217,646   test 245,569
    WikiText-2     train   2,088,628   valid 217,646   test 245,569

Writes DEST/wiki.{train,valid,test}.tokens, all of them or none.
"""

import argparse
import filecmp
import lzma
import os
import shutil
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SPLITS = ("train", "valid", "test")
TOKENS = {
    "WikiText-103": {"train": 103_227_021, "valid": 217_646, "test": 245_569},
    "WikiText-2": {"train": 2_088_628, "valid": 217_646, "test": 245_569},
}
PARQUET_NAMES = {"train": "train", "valid": "validation", "test": "test"}
PARQUET_ROWS = 10_000
TIMEOUT_S = 60


class PrepareError(Exception):
    """Something that the user can put right."""


def lines_of(source: Path, split: str) -> Iterator[bytes]:
    """Yields the lines of a split, with their ends, from an archive or a directory."""
    if source.is_file():
        return zip_lines(source, split)
    if not source.is_dir():
        raise PrepareError(f"--source {source} does not exist; give a wikitext archive or a directory")
    found = sorted(source.rglob(f"wiki.{split}.tokens")) or sorted(source.rglob(f"wiki.{split}.tokens.xz"))
    if len(found) > 1:
        raise PrepareError(f"--source {source} holds {found[0]} and {found[1]}; give the directory of one of them")
    if found:
        return text_lines(found[0])
    parquet = sorted(source.rglob(f"{PARQUET_NAMES[split]}-*.parquet"))
    if parquet:
        return parquet_lines(parquet)
    raise PrepareError(f"--source {source} must hold wiki.{split}.tokens or Parquet files, but has neither")


def text_lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of a plain or .xz file."""
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
        yield from file


def zip_lines(path: Path, split: str) -> Iterator[bytes]:
    """Yields the lines of a split in the official archive."""
    if not zipfile.is_zipfile(path):
        raise PrepareError(
            f"--source {path} must be a .zip file or a directory, but is neither; fetch the archive again"
        )
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == f"wiki.{split}.tokens"]
        if len(names) != 1:
            raise PrepareError(
                f"--source {path} must hold one wiki.{split}.tokens, but has {len(names)};"
                " the raw archives are another text"
            )
        with archive.open(names[0]) as file:
            yield from file


def parquet_lines(paths: Sequence[Path]) -> Iterator[bytes]:
    """Yields the lines of a split in a hub's Parquet files, which lost the space of the empty lines."""
    try:
        import pyarrow.parquet
    except ImportError as err:
        raise PrepareError(f"{paths[0]} needs pyarrow to be read; pip install pyarrow") from err
    for path in paths:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS, columns=["text"]):
            for text in batch.column(0).to_pylist():
                yield (text if text.endswith("\n") else f"{text or ' '}\n").encode()


def copy_lines(lines: Iterable[bytes], path: Path) -> tuple[int, int]:
    """Writes lines to a file; returns the number of tokens, line ends included, and of <unk> among them."""
    num_tokens = num_unknown = 0
    with path.open("wb") as file:
        for line in lines:
            words = line.decode().split()
            num_tokens += len(words) + len(line.splitlines())
            num_unknown += words.count("<unk>")
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return num_tokens, num_unknown


def check_counts(counts: dict[str, int], num_unknown: int) -> str:
    """Returns which data set has these counts; raises PrepareError when none has."""
    known = "; ".join(f"{name}: {describe(expected)}" for name, expected in TOKENS.items())
    for name, expected in TOKENS.items():
        if counts == expected:
            if num_unknown:
                return name
            raise PrepareError(f"the text must have rare words replaced by <unk>, but has no <unk>: the raw {name}?")
    raise PrepareError(f"the text must have the tokens of {known}, but has {describe(counts)}; find another copy")


def describe(counts: dict[str, int]) -> str:
    """Returns counts in words."""
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def prepare(source: Path, dest: Path) -> str:
    """Writes the three files to ``dest`` once their counts are right; returns the name of the data set."""
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wikitext-", dir=dest) as directory:
        copies = {split: Path(directory) / f"wiki.{split}.tokens" for split in SPLITS}
        totals = {split: copy_lines(lines_of(source, split), path) for split, path in copies.items()}
        name = check_counts({split: num_tokens for split, (num_tokens, _) in totals.items()}, totals["train"][1])
        for path in copies.values():
            there = dest / path.name
            if there.is_symlink() or (there.exists() and not (there.is_file() and filecmp.cmp(path, there, False))):
                raise PrepareError(f"{there} is there, and is not what would be written; give another --dest")
        for path in copies.values():
            path.replace(dest / path.name)
    return name


def fetch(url: str, path: Path) -> None:
    """Downloads an archive; raises PrepareError when that does not work."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply, path.open("wb") as file:
            shutil.copyfileobj(reply, file, 1 << 20)
    except (OSError, ValueError) as err:
        raise PrepareError(
            f"--mirror {url} cannot be fetched ({err}); fetch it where there is a network, copy it here, and give"
            " --source"
        ) from err


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the text, prints what it is, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--source", type=Path, help="archive, or directory of .tokens, .tokens.xz or .parquet files")
    origin.add_argument("--mirror", metavar="URL", help="where to fetch an archive from")
    parser.add_argument("--dest", type=Path, required=True, help="directory to write to")
    args = parser.parse_args(argv)
    try:
        if args.mirror is None:
            name = prepare(args.source, args.dest)
        else:
            with tempfile.TemporaryDirectory() as directory:
                archive = Path(directory) / "wikitext.zip"
                fetch(args.mirror, archive)
                name = prepare(archive, args.dest)
    except (PrepareError, OSError, UnicodeDecodeError, zipfile.BadZipFile, lzma.LZMAError) as err:
        print(f"prepare_wikitext.py: error: {err}", file=sys.stderr)
        return 2
    print(f"{args.dest}: {name}, {describe(TOKENS[name])} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
