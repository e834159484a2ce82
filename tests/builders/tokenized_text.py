"""Small tokenized splits: whole documents, cut into tokens by a rule that anyone can check, with their source text."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairseq.data.corpus.source_writer import SourceTextWriter
from tests.builders.tiny_lm import write_split

# A word with the white space before it; halves of long words; white space that no word follows.
TOKEN = re.compile(r"\s*[^\s]{1,4}|\s+")


def write_tokenized(directory: Path, splits: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Writes splits and ``dict.txt``, and returns the tokens of each split, as they stand in its documents.

    Args:
        directory: is made where it does not exist.
        splits: documents of each split, the text of each by its name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pieces = {split: {name: TOKEN.findall(text) for name, text in texts.items()} for split, texts in splits.items()}
    known = sorted({token for texts in pieces.values() for tokens in texts.values() for token in tokens})
    id_of = {token: 4 + number for number, token in enumerate(known)}
    lines = (f"{token.encode('unicode_escape').decode().replace(' ', '_')} 1\n" for token in known)
    (directory / "dict.txt").write_text("".join(lines), encoding="utf-8")
    for split, texts in pieces.items():
        write_split(directory / split, [[id_of[token] for token in tokens] for tokens in texts.values()])
        with SourceTextWriter(directory / split) as writer:
            for name, tokens in texts.items():
                sizes = [len(token.encode()) for token in tokens]
                writer.write(name, 1, "".join(tokens).encode(), np.cumsum([0, *sizes]))
    return {split: [token for tokens in texts.values() for token in tokens] for split, texts in pieces.items()}


CODE = {
    "src/total.py": "def total(numbers):\n    return sum(numbers)\n\n\nclass Naïve:\n\tpass\n",
    "src/main.py": "import sys\r\n\r\nprint(total(sys.argv))",
    "readme": "  The nearest neighbours — of a token.\n",
}
MORE = {"src/more.py": "from total import total\n\nprint(total([1, 2, 3]))\n"}
