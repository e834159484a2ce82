"""Documents of files and directories: which files, where each begins, and what is refused."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.data.corpus.files import Corpus
from fairseq.errors import ConfigError, DataError

TREE = {
    "b.py": b"b = 1\r\n",
    "a/z.txt": b"z",
    "a.md": b"",
    "a/bin.dat": b"text\0",
    "a/latin.txt": b"caf\xe9",
    "a/marked.txt": b"\xef\xbb\xbfmark",
    ".hidden": b"h",
    ".git/config": b"g",
    "out/dict.txt": b"the 1\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Returns a directory of files."""
    for name, data in TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "tree"


def documents(corpus: Corpus) -> list[tuple[str, int, str]]:
    """Returns name, first line and text of every document."""
    found = [corpus.read(path) for path in corpus.files()]
    return [(d.name, d.first_line, d.text) for several in found for d in several or ()]


def test_files_of_a_directory_in_the_order_of_their_paths(tree: Path) -> None:
    corpus = Corpus(tree, left_out=tree / "out")
    names = [corpus.name_of(path) for path in corpus.files()]
    assert names == ["a/bin.dat", "a/latin.txt", "a/marked.txt", "a/z.txt", "a.md", "b.py"]
    assert [corpus.name_of(path) for path in corpus.files() if corpus.read(path) is None] == [
        "a/bin.dat",
        "a/latin.txt",
    ]
    assert documents(corpus) == [("a/marked.txt", 1, "mark"), ("a/z.txt", 1, "z"), ("b.py", 1, "b = 1\r\n")]


@pytest.mark.parametrize(
    ("globs", "names"),
    [
        (["*.py"], ["b.py"]),
        (["*.py", "*.md"], ["a.md", "b.py"]),
        (["a/*.txt"], ["a/latin.txt", "a/marked.txt", "a/z.txt"]),
        (["z.*"], ["a/z.txt"]),
    ],
)
def test_names_that_are_wanted(globs: list[str], names: list[str], tree: Path) -> None:
    corpus = Corpus(tree, globs=globs)
    assert [corpus.name_of(path) for path in corpus.files()] == names


def test_directories_that_are_refused(tree: Path) -> None:
    with pytest.raises(DataError, match=r"--testpref: the directory .* has no file that matches \*\.c,\*\.h"):
        Corpus(tree, globs=["*.c", "*.h"], flag="--testpref").files()
    (tree / "none").mkdir()
    with pytest.raises(DataError, match="has no file; give one with texts"):
        Corpus(tree / "none").files()
    with pytest.raises(ConfigError, match="is where the results go; give --destdir another directory"):
        Corpus(tree, left_out=tree / "a" / "..").files()


def test_the_hash_of_a_directory_is_of_names_and_texts(tree: Path) -> None:
    corpus = Corpus(tree)
    first = corpus.sha256(corpus.files())
    (tree / "b.py").rename(tree / "c.py")
    second = corpus.sha256(corpus.files())
    (tree / "c.py").write_bytes(b"c")
    assert len({first, second, corpus.sha256(corpus.files())}) == 3


@pytest.mark.parametrize("data", [b"caf\xe9", b"a\ncaf\xe9"])
def test_a_file_given_alone_must_be_utf8(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(data)
    number = data.count(b"\n") + 1
    with pytest.raises(DataError, match=f"text:{number}: the text must be UTF-8, but holds byte 0xe9"):
        documents(Corpus(tmp_path / "text"))


@pytest.mark.parametrize(
    ("rule", "row"), [("jsonl", b'{"text": "one two three"}\n'), ("blank-line", b"one two three\n\n")]
)
def test_a_large_file_of_many_documents_is_not_held_at_once(rule: str, row: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(row * 200_000)
    tracemalloc.start()
    try:
        found = Corpus(tmp_path, rule).read(path)
        assert found is not None and sum(1 for _ in found) == 200_000
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bad", [b"\0", b"\xff", b"\xc3"])
@pytest.mark.parametrize("at", [0, 1 << 16, 2_000_000])
def test_of_a_file_that_is_no_text_little_is_held(bad: bytes, at: int, tmp_path: Path) -> None:
    """Letters of two bytes, which the borders of chunks cut."""
    path = tmp_path / "weights.bin"
    good = b"x" + "é".encode() * 1_000_000
    path.write_bytes(good[: at + 1] + bad + good[at + 1 :] if at < 2_000_000 else good + bad)
    tracemalloc.start()
    try:
        assert Corpus(tmp_path).read(path) is None
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    path.write_bytes(good)
    assert Corpus(tmp_path).read(path) is not None


@given(lines=st.lists(st.sampled_from(["a", "b c", "", " ", "\t\r", "d\r"]), max_size=12), ends=st.booleans())
def test_documents_between_blank_lines(lines: list[str], ends: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("blank") / "text"
    text = "\n".join(lines) + ("\n" if ends and lines else "")
    path.write_bytes(text.encode())
    rows = text.splitlines(keepends=True) if "\r" not in text else [row for row in _rows(text)]
    expected: list[tuple[str, int, str]] = []
    follows = False
    for number, row in enumerate(rows, 1):
        if row.strip() and follows:
            expected[-1] = (*expected[-1][:2], expected[-1][2] + row)
        elif row.strip():
            expected.append(("text", number, row))
        follows = bool(row.strip())
    assert documents(Corpus(path, "blank-line")) == expected


def _rows(text: str) -> list[str]:
    """Returns lines with their ends, which are ``\\n`` alone."""
    rows = text.split("\n")
    return [row + "\n" for row in rows[:-1]] + [rows[-1]]


def test_documents_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": "one\ntwo"}, {"text": "", "id": 2}, {"text": "Öl \u2028 😀", "more": [1]}]
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    found = [("texts.jsonl:1", 1, "one\ntwo"), ("texts.jsonl:3", 1, ""), ("texts.jsonl:5", 1, "Öl \u2028 😀")]
    assert documents(Corpus(path)) == found
    assert documents(Corpus(path, "file")) == [("texts.jsonl", 1, path.read_text(encoding="utf-8"))]
    assert documents(Corpus(tmp_path)) == found


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": "a"', "a line must be a JSON object, but is "),
        ('["a"]', "a line must be a JSON object with a text named 'text', but is "),
        ('{"body": "a", "id": 1}', "a text named 'text', but has body, id; name another by --jsonl-field"),
        ('{"text": 3}', "a text named 'text', but that is 3"),
        ('{"text": "\\ud800"}', r"the text must be Unicode, but holds half a character \('\\ud800'\)"),
        ("[" * 100_000, "a line must be a JSON object, but is "),
    ],
)
def test_json_lines_that_are_refused(row: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "good"}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"t\.jsonl:2: .*{message}"):
        documents(Corpus(path))


def test_another_field_of_json(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"body": "a"}\n', encoding="utf-8")
    assert documents(Corpus(tmp_path / "t.jsonl", field="body")) == [("t.jsonl:1", 1, "a")]
