"""The scripts that prepare text: presidential messages and WikiText."""

import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "knnlm"
COUNTS = {"train": 10, "valid": 4, "test": 3}
LINES = {
    "train": b" \n = Title = \n \n a <unk> b \n",  # 6 words and 4 line ends
    "valid": b" one two \n \n",
    "test": "é ü\n".encode(),
}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sotu, wikitext, sentences = map(script, ("prepare_sotu", "prepare_wikitext", "prepare_sentences"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("The people's money, I say.", "The people 's money , I say ."),
        ("We don't; they'll see—now!", "We don 't ; they 'll see — now !"),
        ("In the U.S. on Jan. 21st, $1,234.50 (or 3/4).", "In the U.S. on Jan . 21st , $ 1,234.50 ( or 3/4 ) ."),
        ("well-known “words” -- ‘so’", "well - known \" words \" -- ' so '"),
        ("Good evening. [Laughter] Thank you. [see APP Note]", "Good evening . Thank you ."),
        ("a [1] b [the States] c_d", "a [ 1 ] b [ the States ] c _ d"),
        ("[Applause]", ""),
        ("______ 12 --", ""),
        ("", ""),
    ],
)
def test_punctuation_is_set_apart(line: str, expected: str) -> None:
    assert sotu.tokenise(line) == expected


def speeches(directory: Path) -> Path:
    source = directory / "sotu" / "data" / "speeches"
    source.mkdir(parents=True)
    for year in range(1800, 1830):
        (source / f"{year}-Name-1.txt").write_text(f"Message of {year}.\n\nSecond paragraph.", encoding="utf-8")
    (source / "1809-Name-2.txt").write_text("Written message.", encoding="utf-8")
    (source / "1809-Name-10.txt").write_text("Tenth message.", encoding="utf-8")
    (source / "about.txt").write_text("No message.", encoding="utf-8")
    return directory


def test_speeches_are_split_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sotu.main([str(tmp_path / "out"), "--source", str(speeches(tmp_path))]) == 0
    text = {s: (tmp_path / "out" / f"sotu.{s}.tokens").read_text(encoding="utf-8") for s in ("train", "valid", "test")}
    assert text["valid"] == "Message of 1824 .\nSecond paragraph .\n\n"
    assert text["test"] == "Message of 1809 .\nSecond paragraph .\n\nWritten message .\n\nTenth message .\n\n"
    assert text["train"].count("Message") == 28
    assert "No message" not in "".join(text.values())
    assert "sotu.train.tokens: 28 messages, 84 lines, 280 tokens with line ends" in capsys.readouterr().out


def test_eras_are_split_by_year(tmp_path: Path) -> None:
    for year in range(1925, 2000):
        (tmp_path / f"{year}-Name-1.txt").write_text(f"Message of {year} .", encoding="utf-8")
    (tmp_path / "1992-Name-2.txt").write_text("Written message of 1992.", encoding="utf-8")
    assert sotu.main([str(tmp_path / "out"), "--source", str(tmp_path), "--eras"]) == 0
    found = {
        path.name.removesuffix(".tokens"): [int(word) for word in path.read_text().split() if word.isdigit()]
        for path in (tmp_path / "out").iterdir()
    }
    assert found == {
        "before.train": list(range(1925, 1949)),
        "before.valid": [1949],
        "between.train": list(range(1950, 1991)),
        "after.valid": [1991, 1993, 1995, 1997, 1999],
        "after.test": [1992, 1992, 1994, 1996, 1998],
    }


def test_the_installed_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeches(tmp_path)
    (tmp_path / "sotu" / "__init__.py").write_text("raise SystemError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(sotu.find_speeches(None)) == 32


def test_no_speeches_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sotu.main([str(tmp_path), "--source", str(tmp_path)]) == 2
    assert "must hold files such as 1790-Washington-1.txt" in capsys.readouterr().err


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the counts of ``LINES`` those of a known data set."""
    monkeypatch.setitem(wikitext.TOKENS, "WikiText-2", COUNTS)


def plain(directory: Path) -> Path:
    (directory / "wikitext-2").mkdir(parents=True)
    for split, lines in LINES.items():
        (directory / "wikitext-2" / f"wiki.{split}.tokens").write_bytes(lines)
    return directory


def archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for split, lines in LINES.items():
            file.writestr(f"wikitext-2/wiki.{split}.tokens", lines)
    return path


def prepared(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


EXPECTED = {f"wiki.{split}.tokens": lines for split, lines in LINES.items()}


@pytest.mark.usefixtures("small_counts")
def test_a_directory_or_an_archive_is_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, source in {"a": plain(tmp_path / "plain"), "b": archive(tmp_path / "wikitext-2-v1.zip")}.items():
        assert wikitext.main(["--source", str(source), "--dest", str(tmp_path / name)]) == 0
        assert "WikiText-2, train 10, valid 4, test 3 tokens" in capsys.readouterr().out
        assert prepared(tmp_path / name) == EXPECTED


@pytest.mark.usefixtures("small_counts")
def test_a_mirror_is_fetched(tmp_path: Path) -> None:
    url = archive(tmp_path / "w.zip").as_uri()
    assert wikitext.main(["--mirror", url, "--dest", str(tmp_path / "out")]) == 0
    assert prepared(tmp_path / "out") == EXPECTED


@pytest.mark.usefixtures("small_counts")
def test_parquet_files_give_the_original_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub's rows are lines; its empty lines lost their space. pyarrow itself is played."""
    rows = {
        "train": ["", " = Title = \n", "", " a <unk> b \n"],
        "validation": [" one two \n", ""],
        "test": ["é ü\n"],
    }
    for split in rows:
        (tmp_path / f"{split}-00000-of-00001.parquet").touch()

    def parquet_file(path: Path) -> SimpleNamespace:
        column = SimpleNamespace(to_pylist=lambda: rows[path.name.split("-")[0]])
        return SimpleNamespace(iter_batches=lambda **_: [SimpleNamespace(column=lambda _: column)])

    parquet = SimpleNamespace(ParquetFile=parquet_file)
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(parquet=parquet))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)  # type: ignore[arg-type]
    assert wikitext.main(["--source", str(tmp_path), "--dest", str(tmp_path / "out")]) == 0
    assert prepared(tmp_path / "out") == EXPECTED


@pytest.mark.usefixtures("small_counts")
def test_without_pyarrow_parquet_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train-00000-of-00001.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert wikitext.main(["--source", str(tmp_path), "--dest", str(tmp_path / "out")]) == 2
    assert "pip install pyarrow" in capsys.readouterr().err


@pytest.mark.pitfall(22)
def test_other_counts_are_refused_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wikitext.main(["--source", str(plain(tmp_path)), "--dest", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "train 103,227,021, valid 217,646, test 245,569" in message
    assert "train 2,088,628" in message
    assert "but has train 10, valid 4, test 3" in message
    assert prepared(tmp_path / "out") == {}


@pytest.mark.usefixtures("small_counts")
def test_the_raw_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plain(tmp_path) / "wikitext-2" / "wiki.train.tokens"
    path.write_bytes(LINES["train"].replace(b"<unk>", b"rarity"))
    assert wikitext.main(["--source", str(tmp_path), "--dest", str(tmp_path / "out")]) == 2
    assert "has no <unk>" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "does not exist"), ("empty", "has neither"), ("text.zip", "is neither"), ("other.zip", "but has 0")],
)
def test_what_is_refused(tmp_path: Path, source: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_bytes(b"no archive")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("wiki.train.raw", b"a\n")
    assert wikitext.main(["--source", str(tmp_path / source), "--dest", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.pitfall(22)
def test_a_dead_mirror_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wikitext.main(["--mirror", (tmp_path / "none.zip").as_uri(), "--dest", str(tmp_path)]) == 2
    assert "fetch it where there is a network, copy it here, and give --source" in capsys.readouterr().err


def test_wikitext_2_comes_out_as_it_went_in(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "data" / "wikitext-2"
    assert wikitext.main(["--source", str(source), "--dest", str(tmp_path)]) == 0
    for line in (source / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split()
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("He came . She left .", ["He came .", "She left ."]),
        ("H. gammarus is blue . In life ?", ["H. gammarus is blue .", "In life ?"]),
        ('He said " no . " She left .', ['He said " no . "', "She left ."]),
        ('The " one . " Two " are here .', ['The " one . "', 'Two " are here .']),
        ("It ended ( at last . ) Really ? ! Yes", ["It ended ( at last . )", "Really ? !", "Yes"]),
        ("Wait . . . what ?", ["Wait . . .", "what ?"]),
        ('One . " Two . "', ["One .", '" Two . "']),
        ("", []),
    ],
)
def test_sentences_end_after_a_stop_and_what_closes_it(line: str, expected: list[str]) -> None:
    assert [" ".join(sentence) for sentence in sentences.sentences(line.split())] == expected


def test_sentences_of_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "valid", "test"):
        text = " \n = Title = \n \n " + " ".join(f"{split} {i} ." for i in range(9)) + " \n = = Part = = \n a b \n"
        (tmp_path / f"wiki.{split}.tokens").write_text(text, encoding="utf-8")
    assert sentences.main(["--source", str(tmp_path), "--dest", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "sentences.valid.tokens").read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == ["a b", *(f"valid {i} ." for i in range(9))]
    assert lines != sorted(lines)
    assert "sentences.test.tokens: 10 sentences, 39 tokens with line ends" in capsys.readouterr().out


def test_sentences_of_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentences.main(["--source", str(tmp_path), "--dest", str(tmp_path / "out")]) == 2
    assert "prepare_sentences.py: error: " in capsys.readouterr().err
