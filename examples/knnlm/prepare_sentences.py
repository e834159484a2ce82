"""WikiText as sentences, one a line and in an order of their own, for a language model of sentences.

    python prepare_sentences.py --source DIR --dest DIR

DIR holds wiki.{train,valid,test}.tokens, as prepare_wikitext.py writes them. What is done to the text:

1. A sentence ends after a full stop, question or exclamation mark that stands as a word of its own, together with the
   closing quotation mark or bracket after it. Abbreviations ("H. gammarus", "Mr. Smith") keep their stop, and end
   nothing. A quotation mark closes when an odd number of them stood in the sentence before it.
2. Headings, which are no sentences, and empty lines go.
3. The sentences of each split are shuffled, by a fixed seed: neighbours are found by what is in a sentence, and what
   stood before it is out of sight, as in the benchmark of a billion words.

Writes DEST/sentences.{train,valid,test}.tokens.
"""

import argparse
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SPLITS = ("train", "valid", "test")
ENDS = frozenset(".?!")
BRACKETS = frozenset(")]")
QUOTE = '"'
SEED = 1


def sentences(words: Sequence[str]) -> Iterator[list[str]]:
    """Yields the sentences of a paragraph, in order, none of them empty."""
    sentence: list[str] = []
    has_ended = False
    for word in words:
        closes = word in ENDS or word in BRACKETS or (word == QUOTE and sentence.count(QUOTE) % 2 == 1)
        if has_ended and not closes:
            yield sentence
            sentence, has_ended = [], False
        sentence.append(word)
        has_ended = has_ended or word in ENDS
    if sentence:
        yield sentence


def is_heading(words: Sequence[str]) -> bool:
    """Returns whether a line is a heading: = Title =, = = Part = =, …."""
    return len(words) > 1 and words[0] == words[-1] == "="


def split_lines(lines: Iterable[str]) -> list[str]:
    """Returns the sentences of a text, shuffled."""
    found = [
        " ".join(sentence) for line in lines if not is_heading(words := line.split()) for sentence in sentences(words)
    ]
    random.Random(SEED).shuffle(found)
    return found


class PrepareError(Exception):
    """Something that the user can put right."""


def write_atomically(path: Path, text: str) -> None:
    """Writes a UTF-8 file: whole, or not at all. One of the same text is left; another is not replaced."""
    data = text.encode()
    if path.is_symlink() or path.exists():
        if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
            return
        raise PrepareError(f"{path} is there, and is not what would be written; give another --dest, or remove it")
    temporary = path.with_name(f".{path.name}.knnlm.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the text, prints the counts, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="directory of wiki.*.tokens")
    parser.add_argument("--dest", type=Path, required=True, help="directory to write to")
    args = parser.parse_args(argv)
    try:
        args.dest.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            with (args.source / f"wiki.{split}.tokens").open(encoding="utf-8") as file:
                found = split_lines(file)
            path = args.dest / f"sentences.{split}.tokens"
            write_atomically(path, "".join(f"{line}\n" for line in found))
            num_tokens = sum(line.count(" ") + 2 for line in found)
            print(f"{path}: {len(found)} sentences, {num_tokens} tokens with line ends")
    except (PrepareError, OSError, UnicodeDecodeError) as err:
        print(f"prepare_sentences.py: error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
