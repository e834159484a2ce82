"""fairseq-preprocess: files, log lines, refusals, and what a run that is stopped leaves behind."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import IndexedDatasetWriter, MMapIndexedDataset
from fairseq_cli.preprocess import main
from fairseq_cli.shared.run import run

TEXT = b"the cat sat <unk> .\n\nthe dog sat on the mat .\n b a b a c\n"
GOLDEN_DICT = b"the 3\n. 2\na 2\nb 2\nsat 2\nc 1\ncat 1\ndog 1\nmat 1\non 1\nmadeupword0000 0\nmadeupword0001 0\n"
GOLDEN_BIN = bytes.fromhex("04000a0008000300050002000200 04000b0008000d0004000c0005000200 070006000700060009000200")
GOLDEN_IDX = bytes.fromhex(
    "4d4d494449445800000100000000000000080400000000000000060000000100000008000000060000000000000000000000"
    "0c000000000000000e000000000000001e00000000000000"
)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a working directory with train.txt, valid.txt and test.txt."""
    (tmp_path / "train.txt").write_bytes(TEXT)
    (tmp_path / "valid.txt").write_bytes(b"the elephant sat\n")
    (tmp_path / "test.txt").write_bytes(b"a b\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def preprocess(*words: str) -> int:
    return run("fairseq-preprocess", main, ["--only-source", *words])


def tokens(name: str) -> list[int]:
    ids: list[int] = MMapIndexedDataset(Path("data-bin") / name).tokens.tolist()
    return ids


def files() -> list[str]:
    return sorted(path.name for path in Path("data-bin").iterdir())


def error(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_golden_text_makes_the_golden_files(texts: Path) -> None:
    assert preprocess("--trainpref", "train.txt") == 0
    found = {path.name: path.read_bytes() for path in Path("data-bin").iterdir() if path.suffix != ".json"}
    assert found == {"dict.txt": GOLDEN_DICT, "train.bin": GOLDEN_BIN, "train.idx": GOLDEN_IDX}


def test_every_text_gets_the_name_that_users_know(texts: Path) -> None:
    lists = ["--validpref", "valid.txt,test.txt", "--testpref", "test.txt,valid.txt,train.txt"]
    assert preprocess("--trainpref", "train.txt", *lists, "--workers", "2", "--tokenizer", "space") == 0
    names = ["train", "valid", "valid1", "test", "test1", "test2"]
    assert files() == sorted(["dict.txt", "preprocess.json", *(f"{n}.{s}" for n in names for s in ("bin", "idx"))])
    assert tokens("valid") == tokens("test1") == [4, 3, 8, 2]
    assert tokens("valid1") == tokens("test") == [6, 7, 2]


def test_the_log_lines_that_users_know(texts: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        preprocess("--trainpref", "train.txt", "--validpref", "valid.txt")
    assert "Dictionary: 16 types" in caplog.messages
    assert any("train.txt: 4 sents, 21 tokens, 0.0% replaced by <unk>" in message for message in caplog.messages)
    assert any("valid.txt: 1 sents, 4 tokens, 25.0% replaced by <unk>" in message for message in caplog.messages)
    assert "Wrote preprocessed data to data-bin" in caplog.messages


def test_the_record_for_people(texts: Path) -> None:
    preprocess("--trainpref", "train.txt", "--thresholdsrc", "2", "--padding-factor", "1")
    record = json.loads(Path("data-bin/preprocess.json").read_text(encoding="utf-8"))
    dictionary = Dictionary.load("data-bin/dict.txt")
    assert record["dictionary"] == {"types": 9, "sha256": dictionary.sha256()}
    assert record["settings"]["thresholdsrc"] == 2
    split = record["splits"]["train"]
    assert (split["num_sentences"], split["num_tokens"], split["num_replaced"]) == (4, 21, 5)


def test_a_number_of_words_counts_the_specials(texts: Path) -> None:
    preprocess("--trainpref", "train.txt", "--nwordssrc", "6", "--padding-factor", "1")
    assert Dictionary.load("data-bin/dict.txt").symbols[4:] == ["the", "."]


def test_the_dictionary_only(texts: Path) -> None:
    assert preprocess("--trainpref", "train.txt", "--dict-only") == 0
    assert files() == ["dict.txt", "preprocess.json"]


def test_a_given_dictionary_is_copied(texts: Path) -> None:
    Path("given.txt").write_bytes(b"sat 9\nthe 5\n")
    assert preprocess("--srcdict", "given.txt", "--validpref", "valid.txt") == 0
    assert Path("data-bin/dict.txt").read_bytes() == b"sat 9\nthe 5\n"
    assert tokens("valid") == [5, 3, 4, 2]


def test_a_text_joins_a_data_directory(texts: Path) -> None:
    preprocess("--trainpref", "train.txt")
    assert preprocess("--srcdict", "data-bin/dict.txt", "--testpref", "test.txt") == 0
    assert tokens("test") == [6, 7, 2]
    assert tokens("train")[:2] == [4, 10]
    assert set(json.loads(Path("data-bin/preprocess.json").read_bytes())["splits"]) == {"train", "test"}


def test_results_are_not_replaced_unless_asked(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preprocess("--trainpref", "train.txt")
    Path("train.txt").write_bytes(b"new\n")
    before = {path: path.read_bytes() for path in Path("data-bin").iterdir()}
    assert preprocess("--trainpref", "train.txt") == 2
    told = error(capsys)
    assert "--destdir data-bin must not hold results yet, but has dict.txt, train.idx, train.bin; give" in told
    assert "--overwrite to replace them, --srcdict data-bin/dict.txt to add texts to it, or another --destdir" in told
    assert {path: path.read_bytes() for path in Path("data-bin").iterdir()} == before
    assert preprocess("--trainpref", "train.txt", "--overwrite") == 0
    assert tokens("train") == [4, 2]


def test_the_same_command_again_writes_nothing(texts: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the number of workers; another text under the same name is not the same command."""

    def written() -> dict[str, tuple[int, int]]:
        return {name: ((stat := Path("data-bin", name).stat()).st_ino, stat.st_mtime_ns) for name in files()}

    words = ["--trainpref", "train.txt", "--validpref", "valid.txt,test.txt"]
    assert preprocess(*words) == 0
    first = written()
    with caplog.at_level(logging.INFO):
        assert preprocess(*words, "--workers", "3") == 0
    assert any("nothing to do" in message for message in caplog.messages)
    assert written() == first
    assert preprocess(*words, "--overwrite") == 0
    assert all(written()[name] != first[name] for name in first if name != "dict.txt")
    assert preprocess(*words, "--thresholdsrc", "2") == 2
    Path("data-bin/valid1.bin").unlink()
    assert preprocess(*words) == 2
    Path("test.txt").write_bytes(b"b a\n")
    assert preprocess(*words, "--overwrite") == 0
    assert tokens("valid1") == [7, 6, 2]
    Path("test.txt").write_bytes(b"b\n")
    assert preprocess(*words) == 2


def test_ids_never_lie_beside_another_dictionary(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preprocess("--trainpref", "train.txt", "--validpref", "valid.txt")
    assert preprocess("--trainpref", "test.txt", "--overwrite") == 2
    assert "data-bin must hold ids of one dictionary, but valid would stay beside a new one" in error(capsys)
    assert tokens("train")[:2] == [4, 10]


class KilledError(Exception):
    """Stands for whatever ends a program."""


def test_a_run_that_is_stopped_leaves_no_mixture(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess("--trainpref", "train.txt", "--validpref", "valid.txt")

    def kill(self: IndexedDatasetWriter, *args: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(IndexedDatasetWriter, "write", kill)
        preprocess("--trainpref", "test.txt", "--validpref", "train.txt", "--overwrite")
    assert files() == ["dict.txt", "preprocess.json"]
    assert preprocess("--trainpref", "test.txt") == 2  # another command does not go on from there
    assert preprocess("--trainpref", "test.txt", "--validpref", "train.txt") == 0
    assert tokens("train") == [4, 5, 2] and tokens("valid")[-4:] == [5, 4, 3, 2]
    assert "unfinished" not in json.loads(Path("data-bin/preprocess.json").read_bytes())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--trainpref", "train"],
            "--trainpref must name a text file, but train does not exist; did you mean train.txt?",
        ),
        (["--trainpref", "nowhere.txt"], "--trainpref must name a text file, but nowhere.txt does not exist"),
        (["--trainpref", "train.txt", "--testpref", "test.txt,x"], "--testpref must name a text file, but x does not"),
        (["--trainpref", "."], "--trainpref must name a text file, but . is a directory; add --tokenizer MODEL"),
        (["--trainpref", "train.txt", "--dataset-impl", "lazy"], "--dataset-impl must be one of mmap, but is 'lazy'"),
        (
            ["--trainpref", "train.txt", "--tokenizer", "moses"],
            "--tokenizer must be space, or the directory of",
        ),
        (["--trainpref", "train.txt", "--bpe", "gpt2"], "--bpe must not be given, but is 'gpt2'"),
        (["--trainpref", "train.txt", "--workers", "0"], "--workers must be at least 1"),
        (["--trainpref", "train.txt", "--nwordssrc", "0"], "--nwordssrc must be at least 4"),
        (["--trainpref", "train.txt", "--nwordssrc", "3"], "--nwordssrc must be at least 4"),
        (["--validpref", "valid.txt"], "--trainpref or --srcdict is required"),
        (["--srcdict", "nowhere.txt"], "dictionary nowhere.txt does not exist"),
        (["--trainpref", "empty.txt"], "--trainpref must name a text with words to count, but empty.txt has none"),
        (["--trainpref", "latin1.txt"], "latin1.txt:2: the text must be UTF-8, but holds byte 0xe9"),
    ],
)
def test_what_is_refused(texts: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    Path("empty.txt").write_bytes(b"")
    Path("latin1.txt").write_bytes(b"a\ncaf\xe9\n")
    assert preprocess(*words) == 2
    assert message in error(capsys)
    assert not Path("data-bin").exists()


def test_only_source_is_required(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fairseq-preprocess", main, ["--trainpref", "train.txt"]) == 2
    assert "--only-source is required: this toolkit is for language models" in error(capsys)


def test_several_processes_started_by_the_command_itself(texts: Path) -> None:
    """Spawned processes import the main module again, which must not run the command again; nor is torch needed."""
    line = b"the cat " + b"s" * 5000 + b"\n"
    Path("long.txt").write_bytes(line * 7000)  # 35 MB: enough ranges for two workers
    for workers in ("1", "2"):
        words = ["--only-source", "--trainpref", "long.txt", "--destdir", f"out{workers}", "--workers", workers]
        program = [sys.executable, "-X", "importtime", "-m", "fairseq_cli.preprocess", *words]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "| torch" not in done.stderr
    for name in ("dict.txt", "train.bin", "train.idx"):
        assert Path("out1", name).read_bytes() == Path("out2", name).read_bytes()
