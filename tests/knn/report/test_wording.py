"""The page of tokenized texts holds the source text, its files and lines, against the text that was written."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fairseq.data.corpus.source_writer import SourceTextWriter
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq_cli.knnlm import main
from tests.builders.report_page import Page
from tests.builders.shown_retrieval import shown_retrieval


def text_of(token: int) -> str:
    """Returns the text of a token: white space before a word, line breaks before some, and as all of some."""
    return "\n" if token % 11 == 0 else f"\r\n\t{token}<é>" if token % 5 == 0 else f"  {token}"


def with_source_text(directory: Path, split: str) -> tuple[list[str], list[tuple[str, int]]]:
    """Writes the source text of a split, a document for each sentence, and returns each token's text and place."""
    text = MMapIndexedDataset(directory / split)
    pieces, places = [], []
    with SourceTextWriter(directory / split) as writer:
        for number in range(len(text)):
            tokens, before = [text_of(token) for token in text[number].tolist()], ""
            writer.write(f"{split}/{number}.py", 1, "".join(tokens).encode(), np.cumsum([0, *map(bytes_of, tokens)]))
            for token in tokens:
                letters = before + token[: len(token) - len(token.lstrip())] if token.strip() else before
                places.append((f"{split}/{number}.py", letters.count("\n") + 1))
                before += token
            pieces += tokens
    return pieces, places


def bytes_of(token: str) -> int:
    return len(token.encode())


@pytest.fixture
def retrieval(tmp_path: Path) -> Path:
    return shown_retrieval(tmp_path, tokens=60, source_tokens=200, words=30)


def test_the_page_has_the_source_text_with_its_files_and_lines(retrieval: Path, tmp_path: Path) -> None:
    texts = {split: with_source_text(tmp_path / "data-bin", split) for split in ("valid", "train")}
    main(["report", str(retrieval), "--log-format", "none"])
    page = Page(retrieval / "report.html")
    words, files = page.facts["words"], page.facts["files"]
    assert (page.facts["joint"], page.facts["unit"]) == ("", "token")
    assert page.facts["groups"][0]["title"] == "How often the token occurs"
    assert page.facts["groups"][2]["labels"][:2] == ["letters", "letters with digits"]
    assert page.facts["groups"][3]["note"].startswith("tokens right before")
    shown = re.sub(r"(?s)<(script|style).*?</\1>", "", (retrieval / "report.html").read_text(encoding="utf-8"))
    assert "Find a token" in shown and not re.search(r"\bwords?\b", shown)
    pieces, places = texts["valid"]
    at_N = np.load(retrieval / "positions.npy").tolist()
    assert [words[word] for word in page.array("word")] == [pieces[at] for at in at_N]
    found = [(files[file], line) for file, line in zip(page.array("file"), page.array("line"), strict=True)]
    assert found == [places[at] for at in at_N]
    pieces, places = texts["train"]
    starts, begins = page.array("start").astype(int), page.array("piece").astype(int)
    sizes = np.diff([*begins, len(page.array("source"))])
    at_M = np.concatenate([np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]).tolist()
    assert [words[word] for word in page.array("source")] == [pieces[at] for at in at_M]
    windows = np.split(page.array("source_file"), begins[1:])
    assert len(windows) > 1 and all(len(set(window.tolist())) == 1 for window in windows), "of one file each"
    shown = zip(page.array("source_file"), page.array("source_line"), strict=True)
    assert [(files[file], line) for file, line in shown] == [places[at] for at in at_M]


def test_words_are_the_dictionarys_where_a_text_has_no_source_text(retrieval: Path, tmp_path: Path) -> None:
    with_source_text(tmp_path / "data-bin", "valid")
    main(["report", str(retrieval), "--log-format", "none"])
    page = Page(retrieval / "report.html")
    assert page.facts["joint"] == " " and page.facts["files"] == [] and "array-file" not in page.scripts
    assert "w1" in page.facts["words"]


def test_a_character_of_several_tokens_is_shown_once(retrieval: Path, tmp_path: Path) -> None:
    """Every token is one byte, mostly of a character of several, so that a token has several words."""
    letters, texts = "αβ·é漢😀xy z", {}
    for split in ("valid", "train"):
        size = len(MMapIndexedDataset(tmp_path / "data-bin" / split).tokens)
        whole = (letters * size).encode()[:size].decode(errors="ignore")
        texts[split] = whole + " " * (size - bytes_of(whole))
        with SourceTextWriter(tmp_path / "data-bin" / split) as writer:
            writer.write("all", 1, texts[split].encode(), np.arange(size + 1))
    main(["report", str(retrieval), "--log-format", "none"])
    page = Page(retrieval / "report.html")
    words, word, same = page.facts["words"], page.array("word").tolist(), page.facts["same"]
    begins = np.cumsum([0, *map(bytes_of, texts["valid"])]).tolist()
    letter_at = dict(zip(begins, texts["valid"], strict=False))
    assert [words[one] for one in word] == [
        letter_at.get(at, "") for at in np.load(retrieval / "positions.npy").tolist()
    ]
    tokens = np.load(retrieval / "targets.npy").tolist()
    assert [same[a] == same[b] for a, b in pairwise(word)] == [a == b for a, b in pairwise(tokens)]
    assert len(set(map(str, same))) == len(set(same)) < len(words)
