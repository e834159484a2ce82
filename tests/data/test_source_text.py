"""The source text of tokens: text, bytes, words and lines of any range, as counted in the documents themselves."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.data.corpus.source_writer import SourceTextWriter
from fairseq.data.source_text import SourceText
from fairseq.errors import DataError

DOCUMENTS = [
    ("a.py", 1, "def f(x):\r\n    return x  \n\n\nf(1)\n"),
    ("b/c.txt", 7, "Täßchen 😀\u00a0Öl\u2028x"),
    ("d", 1, " "),
    ("d", 3, "x"),
]
LETTERS = st.sampled_from(["a", "b", " ", "\n", "\r\n", "\t", "é", "😀", "\u00a0", "\u3000", "\x1c", "\x85", "\v"])


def write(prefix: Path, documents: list[tuple[str, int, str]], cuts: list[list[int]]) -> SourceText:
    """Writes documents whose tokens begin at 0 and at these bytes, and opens them."""
    with SourceTextWriter(prefix) as writer:
        for (name, line, text), cut in zip(documents, cuts, strict=True):
            size = len(text.encode())
            inner = sorted(byte % (size + 1) for byte in cut)
            writer.write(name, line, text.encode(), np.array([0, *inner, size], np.int64))
    found = SourceText.open(prefix)
    assert found is not None
    return found


def check(source: SourceText, documents: list[tuple[str, int, str]]) -> None:
    """Checks every answer against the documents."""
    data = "".join(text for _, _, text in documents).encode()
    starts = source.bytes_before_N.tolist()
    number, tokens = len(starts) - 1, range(len(starts) - 1)
    assert source.num_tokens == number and source.num_documents == len(documents)
    rng = np.random.default_rng(0)
    for first, last in [(0, number), *(sorted(rng.integers(0, number + 1, 2).tolist()) for _ in range(20))]:
        part = data[starts[first] : starts[last]]
        assert source.text(first, last) == part.decode(errors="replace")
        assert source.bytes_of(first, last) == len(part)
    begins = [0]
    for _, _, text in documents:
        begins.append(begins[-1] + len(text.encode()))
    for document, (name, first_line, text) in enumerate(documents):
        first, last = source.first_token(document), source.first_token(document + 1)
        assert source.words(first, last) == len(re.split(r"\s+", text))
        assert source.text(first, last) == text and source.name_of(document) == name
        whole = text.encode()
        line_of = {}
        for token in range(first, last):
            part = data[starts[token] : starts[token + 1]]
            blank = len(part) - len(part.lstrip())
            letter = starts[token] - begins[document] + (blank if part.strip() else 0)
            line_of[token] = first_line + whole.count(b"\n", 0, letter)
            assert source.document_of(token) == document and source.line_of(token) == line_of[token]
        for token, line in line_of.items():
            alike = [other for other, its in line_of.items() if its == line]
            assert source.line_range(token) == (min(alike), max(alike) + 1)
    assert [source.words(token, token + 1) for token in tokens] == np.diff(source.words_before_N).tolist()


def test_answers_about_four_documents(tmp_path: Path) -> None:
    cuts = [[3, 4, 11, 13, 15, 22, 24, 24, 26, 27, 28, 29], [1, 2, 3, 9, 10, 11, 16, 17, 18], [], []]
    source = write(tmp_path / "train", DOCUMENTS, cuts)
    check(source, DOCUMENTS)
    assert source.text(0, 2) == "def " and source.line_of(0) == 1
    assert source.text(13, 15) == "T\ufffd"  # within a character


@settings(max_examples=60)
@given(
    texts=st.lists(st.lists(LETTERS, min_size=1, max_size=20).map("".join), min_size=1, max_size=4),
    data=st.data(),
)
def test_answers_about_any_documents(
    texts: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    documents = [(f"{number}", 1 + 5 * number, text) for number, text in enumerate(texts)]
    cuts = [data.draw(st.lists(st.integers(0, 200), max_size=12)) for _ in texts]
    check(write(tmp_path_factory.mktemp("text") / "train", documents, cuts), documents)


def test_a_word_counts_where_the_space_behind_it_begins(tmp_path: Path) -> None:
    text = "one two  three"
    source = write(tmp_path / "train", [("x", 1, text)], [[3, 7, 9]])
    assert [source.words(token, token + 1) for token in range(4)] == [1, 1, 1, 0]


def test_all_white_space_of_unicode_separates_words(tmp_path: Path) -> None:
    white = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    text = "".join(f"a{letter}" for letter in white) + "b\u200bc"
    source = write(tmp_path / "train", [("x", 1, text)], [[]])
    assert source.words(0, 1) == len(re.split(r"\s+", text)) == len(white) + 1


def test_a_split_without_source_text(tmp_path: Path) -> None:
    assert SourceText.open(tmp_path / "train") is None


def test_a_lost_table_of_documents_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train", DOCUMENTS, [[1], [2], [], []])
    (tmp_path / "train.documents.json").unlink()
    with pytest.raises(DataError, match=r"train\.documents\.json must be beside the source text .*; make it again"):
        SourceText.open(tmp_path / "train")
    (tmp_path / "train.offsets").unlink()
    assert SourceText.open(tmp_path / "train") is None  # train.text may be anybody's


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    write(tmp_path / "train", DOCUMENTS, [[1], [2], [], []])
    for suffix in (".text", ".offsets"):
        path = tmp_path / f"train{suffix}"
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        with pytest.raises(DataError, match=rf"train\{suffix} must have {len(data)} bytes .*, but has {len(data) - 1}"):
            SourceText.open(tmp_path / "train")
        path.unlink()
        with pytest.raises(DataError, match=rf"train\{suffix} must have .*, but is not there; make it again"):
            SourceText.open(tmp_path / "train")
        path.write_bytes(data)
    path = tmp_path / "train.offsets"
    for row in (0, -1):
        pairs = np.fromfile(path, "<u8").reshape(-1, 2)
        pairs[row, 0] += 1
        path.write_bytes(pairs.tobytes())
        with pytest.raises(DataError, match=r"train\.offsets must lead from 0 to the end of .*train\.text"):
            SourceText.open(tmp_path / "train")
        pairs[row, 0] -= 1
        path.write_bytes(pairs.tobytes())
    assert SourceText.open(tmp_path / "train") is not None


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["a"]},
        {"first_lines": [1, 7, 1]},
        {"first_tokens": [0, 2, 2, 5]},
        {"first_tokens": [1, 2, 4, 5]},
        {"first_tokens": [0, 2, 4, 6]},
        {"first_tokens": [0, 2, 4, -1]},
        {"first_tokens": None},
        {"kind": "index"},
        {"version": 2},
        {"more": 1},
    ],
)
def test_a_table_of_documents_that_is_not_sound(change: dict[str, object], tmp_path: Path) -> None:
    write(tmp_path / "train", DOCUMENTS, [[1], [2], [], []])
    path = tmp_path / "train.documents.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}), encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.documents\.json"):
        SourceText.open(tmp_path / "train")


def test_damage_is_found(tmp_path: Path) -> None:
    source = write(tmp_path / "train", DOCUMENTS, [[1], [2], [], []])
    source.check(np.array([0, 2, 4, 5, 6]))
    for other in ([0, 2, 4, 6], [0, 2, 3, 5, 6], [0, 2, 4, 5, 7]):
        with pytest.raises(DataError, match=r"must name the documents of .*train\.idx, but has 4 of 6 tokens for"):
            source.check(np.array(other))
    path = tmp_path / "train.text"
    path.write_bytes(path.read_bytes().replace(b"f(1)", b"f(2)"))
    damaged = SourceText.open(tmp_path / "train")
    assert damaged is not None
    with pytest.raises(DataError, match=r"train\.text is damaged in the document a\.py"):
        damaged.check(np.array([0, 2, 4, 5, 6]))


ODD = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**53, 2**63, 2**64 - 1]))


@settings(max_examples=40)
@given(inner=st.lists(ODD, min_size=10, max_size=10), text=st.binary(max_size=30))
def test_damaged_files_are_shown_or_refused(
    inner: list[int], text: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the bytes: an answer, or a DataError; no other exception."""
    prefix = tmp_path_factory.mktemp("odd") / "train"
    write(prefix, [("a", 1, "x" * 30), ("b", 1, "y")], [[1, 2, 3], []])
    pairs = np.array([0, *inner[:9], len(text), inner[9]], np.uint64)
    Path(f"{prefix}.offsets").write_bytes(pairs.tobytes())
    Path(f"{prefix}.text").write_bytes(text)
    path = Path(f"{prefix}.documents.json")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "num_bytes": len(text)}), encoding="utf-8")
    source = SourceText.open(prefix)
    assert source is not None
    for token in range(source.num_tokens):
        first, last = source.line_range(token)
        assert 0 <= first <= source.num_tokens and 0 <= last <= source.num_tokens
        assert isinstance(source.text(first, last), str) and isinstance(source.line_of(token), int)
        assert isinstance(source.words(first, last) + source.bytes_of(first, last), int)
    with pytest.raises(DataError):
        source.check(np.array([0, 4, 5]))


def test_a_writer_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), SourceTextWriter(tmp_path / "train") as writer:
        writer.write("a", 1, b"text", np.array([0, 4]))
        raise KeyError
    assert list(tmp_path.iterdir()) == []
