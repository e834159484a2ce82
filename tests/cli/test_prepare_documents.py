"""The script that chooses documents for a Hugging Face model: files of code, or articles of WikiText."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.tiny_llama import write_tokenizer

pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "knnlm"
ARTICLES = " \n = First Title = \n \n one two \n \n = = A section = = \n \n three \n \n = Second , one = \n \n four \n"
Prepare = Callable[..., int]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Returns ``prepare(*words)``, which runs the script with a small tokenizer and returns its exit code."""
    monkeypatch.syspath_prepend(EXAMPLES)  # it imports from the one beside it
    script = importlib.import_module("prepare_documents")
    write_tokenizer(tmp_path / "model")

    def call(*words: object) -> int:
        code: int = script.main([str(word) for word in (tmp_path / "out", "--tokenizer", tmp_path / "model", *words)])
        return code

    return call


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Returns a directory with twelve source files, and much that is none."""
    root = tmp_path / "code"
    others = (".venv/a.py", "build/b.py", "x.egg-info/c.py", "pkg/__pycache__/d.py", "notes.txt")
    for number, name in enumerate([*(f"pkg/m{n}.py" for n in range(12)), *others]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"x = {number}\r\n" * 20, newline="")
    (root / "pkg" / "copy.py").write_bytes((root / "pkg" / "m0.py").read_bytes())
    (root / "latin.py").write_bytes(b"# caf\xe9")
    (root / "empty.py").write_text("\n")
    return root


def written(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_code_is_split_by_file(
    prepare: Prepare, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--code", code, "--train", 400, "--valid", 100, "--test", 100)
    assert prepare(*words) == 0
    found = {split: written(tmp_path / "out" / split) for split in ("train", "valid", "test")}
    names = [name for files in found.values() for name in files]
    assert len(names) == len(set(names)) and all(found.values())
    # One of the two with the same text is left out.
    assert {name for name in names if not name.startswith("pkg/m")} <= {"pkg/copy.py"}
    assert not {"pkg/copy.py", "pkg/m0.py"} <= set(names)
    for files in found.values():
        assert all(data == (code / name).read_bytes() for name, data in files.items()), "as it was, also its line ends"
    assert capsys.readouterr().out.count(" documents, ") == 3
    assert prepare(*words) == 0, "a second call finds the same"
    (tmp_path / "out" / "test" / next(iter(found["test"]))).write_text("mine")
    assert prepare(*words) == 2
    assert "is not what would be written" in capsys.readouterr().err


def test_few_files_are_shared_out(prepare: Prepare, code: Path, tmp_path: Path) -> None:
    assert prepare("--code", code) == 0
    sizes = {split: len(written(tmp_path / "out" / split)) for split in ("train", "valid", "test")}
    assert sum(sizes.values()) == 12 and sizes["train"] > 6


@pytest.mark.parametrize(
    "words", [["--code", "nowhere"], ["--code", ".", "--glob", "*.none"], ["--wikitext", "nowhere"]]
)
def test_no_text_is_one_line(prepare: Prepare, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(*words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words[0] in error


def test_articles_come_in_their_order_and_the_last_is_cut(prepare: Prepare, tmp_path: Path) -> None:
    source = tmp_path / "wikitext"
    source.mkdir()
    for split in ("train", "valid", "test"):
        (source / f"wiki.{split}.tokens").write_text(ARTICLES, encoding="utf-8")
    assert prepare("--wikitext", source, "--train", 1000, "--valid", 1000, "--test", 10) == 0
    train, test = (written(tmp_path / "out" / split) for split in ("train", "test"))
    assert list(sorted(train)) == ["0001 First Title.txt", "0002 Second  one.txt"]
    assert b"".join(train[name] for name in sorted(train)).decode() == ARTICLES[2:]
    assert list(test) == ["0001 First Title.txt"]
    assert train["0001 First Title.txt"].startswith(test["0001 First Title.txt"])
    assert len(test["0001 First Title.txt"]) < len(train["0001 First Title.txt"])
