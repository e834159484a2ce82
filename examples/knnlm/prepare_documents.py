"""Documents for a Hugging Face model, of your code or of WikiText, as many as a small machine reads in minutes.

    python prepare_documents.py DEST --tokenizer DIR --code DIR       source files; files are split, not lines
    python prepare_documents.py DEST --tokenizer DIR --wikitext PATH  articles; the splits are WikiText's

Code: the files below DIR that fit --glob, without hidden directories, virtual environments and what builds have
written. For test, then for valid, they are taken in the order of a hash of their paths, none that is a quarter of the
split by itself. Train has those nearest to them first: of the same directories, of their parents, and so on. Of little
code, test and valid get a tenth each.

WikiText: articles in their order, from the start of each split. PATH is what prepare_wikitext.py takes, or has written.

A token is one of the model's (tokenizer.json in --tokenizer DIR). Every document is whole, but an article that is
longer than what is left is cut there. Writes DEST/{train,valid,test}/…, one file a document, and nothing else.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

from prepare_wikitext import PrepareError, lines_of

from fairseq.errors import FairseqError
from fairseq.text.model_tokenizer import ModelTokenizer

SPLITS = ("test", "valid", "train")
SKIPPED = {"__pycache__", "build", "demo", "demo-hf", "dist", "env", "node_modules", "site-packages", "venv"}
CHARACTERS = 4  # of a token, about
LARGEST_FILE = 200_000  # bytes; larger ones are data, or generated
TITLE = re.compile(r"^ = [^=].*[^=] = $")

Document = tuple[str, str]  # path below the split's directory, text


def code_files(root: Path, pattern: str) -> list[Document]:
    """Returns the source files below a directory, in the order of a hash of their paths; the same text comes once."""
    found: dict[str, Document] = {}
    for path in sorted(root.rglob(pattern)):
        name = path.relative_to(root)
        if any(part in SKIPPED or part.startswith(".") or part.endswith(".egg-info") for part in name.parts):
            continue
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            continue
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if text.strip():
            found.setdefault(text, (name.as_posix(), text))
    return sorted(found.values(), key=lambda document: hashlib.sha256(document[0].encode()).digest())


def articles(source: Path, split: str) -> Iterator[Document]:
    """Yields the articles of a split of WikiText; the name of each is its number and title."""
    number, title, lines = 0, "", list[str]()
    for line in (raw.decode() for raw in lines_of(source, split)):
        if TITLE.match(line.rstrip("\n")):
            if title:
                yield f"{number:04d} {title}.txt", "".join(lines)
            number, title, lines = number + 1, re.sub(r"[^\w ]", "", line).strip(), []
        lines.append(line)
    if title:
        yield f"{number:04d} {title}.txt", "".join(lines)


def take(documents: Iterator[Document], tokenizer: ModelTokenizer, most: int, cut: bool) -> Iterator[Document]:
    """Yields documents until they have so many tokens; the last one is cut there, or whole."""
    left = most
    for name, text in documents:
        ids = tokenizer.encode(text)
        if cut and len(ids) > left:
            text = tokenizer.decode(ids[:left])
        yield name, text
        left -= len(ids)
        if left <= 0:
            return


def share_out(found: Sequence[Document], tokenizer: ModelTokenizer, most: dict[str, int]) -> dict[str, list[Document]]:
    """Returns the files of each split, whole."""
    total = sum(len(text) for _, text in found) // CHARACTERS
    chosen: dict[str, list[Document]] = {}
    left = list(found)
    for split in ("test", "valid"):
        tokens = min(most[split], max(total // 10, 1))
        short = [document for document in left if len(document[1]) <= CHARACTERS * tokens // 4]
        chosen[split] = list(take(iter(short or left), tokenizer, tokens, cut=False))
        left = [document for document in left if document not in chosen[split]]
    scored = [PurePosixPath(name).parent.parts for files in chosen.values() for name, _ in files]
    left.sort(key=lambda document: -nearness(PurePosixPath(document[0]).parent.parts, scored))
    return {**chosen, "train": list(take(iter(left), tokenizer, most["train"], cut=False))}


def nearness(directory: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> int:
    """Returns how many parents a directory shares with the nearest of some, and one more where it is one of them."""
    shared = [
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(directory, other, strict=False)))
        for other in others
    ]
    return max(shared) + (directory in others)


def write_split(dest: Path, documents: Iterable[Document], tokenizer: ModelTokenizer) -> str:
    """Writes the files of a split; returns how much that is. A file of another text that is there is an error."""
    num_files = num_tokens = num_bytes = 0
    for name, text in documents:
        path, data = dest / name, text.encode()
        if path.exists() and path.read_bytes() != data:
            raise PrepareError(f"{path} is there, and is not what would be written; give another directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        num_files, num_bytes = num_files + 1, num_bytes + len(data)
        num_tokens += len(tokenizer.encode(text))
    return f"{dest}: {num_files} documents, {num_tokens:,} tokens, {num_bytes:,} bytes"


def prepare(args: argparse.Namespace) -> None:
    """Writes the three splits and prints their counts."""
    tokenizer = ModelTokenizer(args.tokenizer)
    most = dict(zip(SPLITS, (args.test, args.valid, args.train), strict=True))
    if args.code is not None:
        found = code_files(args.code, args.glob)
        if len(found) < len(SPLITS):
            raise PrepareError(
                f"--code {args.code} has {len(found)} files that fit --glob '{args.glob}', and three are needed;"
                " give another directory or glob"
            )
        chosen = share_out(found, tokenizer, most)
    elif not args.wikitext.exists():
        raise PrepareError(f"--wikitext {args.wikitext} does not exist; give an archive or a directory")
    else:
        chosen = {split: take(articles(args.wikitext, split), tokenizer, most[split], cut=True) for split in SPLITS}
    for split in SPLITS:
        print(write_split(args.dest / split, chosen[split], tokenizer))


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the documents, prints the counts, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dest", type=Path, help="directory to write to")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory of the model, with tokenizer.json")
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--code", type=Path, help="directory of source files")
    origin.add_argument("--wikitext", type=Path, help="archive, or directory of .tokens, .tokens.xz or .parquet files")
    parser.add_argument("--glob", default="*.py", help="names of source files; default: *.py")
    parser.add_argument("--train", type=int, default=160_000, help="tokens of train; default: 160000")
    parser.add_argument("--valid", type=int, default=8_000, help="tokens of valid; default: 8000")
    parser.add_argument("--test", type=int, default=8_000, help="tokens of test; default: 8000")
    args = parser.parse_args(argv)
    try:
        prepare(args)
    except (PrepareError, FairseqError, OSError, UnicodeDecodeError) as err:
        print(f"prepare_documents.py: error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
