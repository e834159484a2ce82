"""Passages, lines and documents of tokenized data, against the documents' own text."""

from pathlib import Path

import numpy as np
import pytest

from fairseq.data.corpus.source_writer import SourceTextWriter
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.passages.split_text import Passage, SplitText, open_split
from fairseq.errors import ConfigError, MismatchError
from tests.builders.tiny_lm import write_split
from tests.builders.tokenized_text import CODE, MORE, write_tokenized


def opened(directory: Path, split: str = "train", document_start: str | None = None) -> SplitText:
    dictionary = Dictionary.load(directory / "dict.txt")
    return open_split(directory / split, MMapIndexedDataset(directory / split), dictionary, document_start)


def test_passages_are_the_text_as_it_was(tmp_path: Path) -> None:
    tokens = write_tokenized(tmp_path, {"train": CODE})["train"]
    split, whole = opened(tmp_path), "".join(CODE.values())
    assert split.passage(0, len(tokens)) == whole
    for document in range(len(CODE)):
        first, last = int(split.documents.start_D[document]), int(split.documents.stop_D[document])
        for at in range(first, last):  # no word of the documents before and after it
            before, after = tokens[max(at - 3, first) : at], tokens[at + 1 : min(at + 3, last)]
            assert split.around(at, 3, 2) == Passage("".join(before), tokens[at], "".join(after), "")


def test_passages_have_whole_characters_where_tokens_are_bytes(tmp_path: Path) -> None:
    text, other = "a€b", "é"
    (tmp_path / "dict.txt").write_text("".join(f"x{number} 1\n" for number in range(9)))
    write_split(tmp_path / "train", [[4, 5, 6, 7, 8], [9, 10]])
    with SourceTextWriter(tmp_path / "train") as writer:
        for name, one in (("text", text), ("other", other)):
            writer.write(name, 1, one.encode(), np.arange(len(one.encode()) + 1))
    found = [opened(tmp_path).around(at, 1, 1) for at in range(7)]
    euro = Passage("", "€", "", "")
    assert found[:5] == [
        Passage("", "a", "€", ""),
        Passage("a", "€", "", ""),
        euro,
        Passage("", "€", "b", ""),
        Passage("€", "b", "", ""),
    ]
    assert found[5:] == [Passage("", "é", "", "")] * 2


def test_documents_and_lines_are_those_of_the_files(tmp_path: Path) -> None:
    tokens = write_tokenized(tmp_path, {"train": CODE})["train"]
    split, at = opened(tmp_path), 0
    assert [split.name_of(number) for number in range(len(split.documents))] == list(CODE)
    for number, text in enumerate(CODE.values()):
        start, last, before = at, (0, 0), ""
        while before != text:
            assert split.documents.of(at) == number
            letters = (
                before + tokens[at][: len(tokens[at]) - len(tokens[at].lstrip())] if tokens[at].strip() else before
            )
            line = letters.count("\n") + 1
            last = line, last[1] + 1 if last[0] == line else 0
            assert split.line_of(at) == last
            before, at = before + tokens[at], at + 1
        assert (int(split.documents.start_D[number]), int(split.documents.stop_D[number])) == (start, at)


def test_a_document_has_the_name_of_its_file_or_the_end_of_its_path(tmp_path: Path) -> None:
    write_tokenized(tmp_path, {"train": CODE})
    split = opened(tmp_path)
    for name, wanted in (
        ("src/total.py", [True, False, False]),
        ("main.py", [False, True, False]),
        ("ain.py", [False, False, False]),
        ("readme", [False, False, True]),
    ):
        assert [split.is_called(number, name) for number in range(3)] == wanted


def test_a_passage_in_one_line_shows_line_breaks_and_tabs(tmp_path: Path) -> None:
    assert Passage("a:\n", "\tb", "\r\nc", "").line == "a:↵[⇥b]␍↵c"
    assert Passage("a", "b", "c d", " ").line == "a [b] c d"


def test_a_pattern_finds_no_documents_where_they_are_known(tmp_path: Path) -> None:
    write_tokenized(tmp_path, {"train": CODE})
    with pytest.raises(ConfigError, match="--document-start def finds documents in lines, but those of"):
        opened(tmp_path, document_start="def")


def test_a_source_text_of_other_tokens_is_refused(tmp_path: Path) -> None:
    tokens = write_tokenized(tmp_path, {"train": CODE, "valid": MORE})["train"]
    write_split(tmp_path / "train", [[4, 5, 6]])
    with pytest.raises(MismatchError, match=f"train.bin has 3 tokens, .* of {len(tokens)}; tokenize it again"):
        opened(tmp_path)


def test_words_of_a_dictionary_are_joined_by_spaces(tmp_path: Path) -> None:
    (tmp_path / "dict.txt").write_text("a 1\nb 1\nc 1\n")
    write_split(tmp_path / "train", [[4, 5, 2], [6, 2]])
    split = opened(tmp_path)
    assert split.around(1, 5, 2) == Passage("a", "b", "</s> c", " ")
    assert (split.line_of(3), split.name_of(0), split.is_called(0, "a b")) == ((1, 0), "a b", True)
