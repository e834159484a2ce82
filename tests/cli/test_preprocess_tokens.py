"""fairseq-preprocess --tokenizer: files, records, refusals, and what a run that is stopped leaves behind."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fairseq.data.corpus.record import tokenizer_record
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import IndexedDatasetWriter, MMapIndexedDataset
from fairseq.data.source_text import SourceText
from fairseq.storage.inputs import missing_split
from fairseq_cli.preprocess import main
from fairseq_cli.shared.run import run
from tests.builders.tiny_llama import TEXT, write_tokenizer
from tests.builders.tokenizer_files import byte_level, gemma, write

CRLF = "x = 1\r\n\r\ny = 'é😀'\r\n"
SOURCE_TEXT = [f"train.{suffix}" for suffix in ("documents.json", "offsets", "text")]
TRAIN = sorted(["dict.txt", "preprocess.json", "train.bin", "train.idx", *SOURCE_TEXT])


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a working directory with a tokenizer, a directory of code and texts."""
    write_tokenizer(tmp_path / "tokenizer")
    for name, text in {"b.py": CRLF, "a/c.py": TEXT, "a/empty.py": "", "a/d.bin": "\0", "e.md": "# e\n"}.items():
        path = tmp_path / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    (tmp_path / "one.txt").write_bytes((CRLF + "\r\nlast").encode())
    (tmp_path / "many.jsonl").write_text('{"text": "a\\nb"}\n{"text": ""}\n{"text": "c"}\n', encoding="utf-8")
    (tmp_path / "words.txt").write_text("the cat\n", encoding="utf-8")
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def preprocess(*words: str) -> int:
    return run("fairseq-preprocess", main, ["--only-source", *words])


def tokenise(*words: str) -> int:
    return preprocess("--tokenizer", "tokenizer", *words)


def contents(directory: str = "data-bin") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(directory).iterdir())}


def error(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def source_of(name: str, directory: str = "data-bin") -> SourceText:
    found = SourceText.open(Path(directory) / name)
    assert found is not None
    return found


def package_ids(text: str) -> list[int]:
    """Returns the package's own ids, and 4."""
    from tokenizers import Tokenizer

    encoding = Tokenizer.from_file("tokenizer/tokenizer.json").encode(text, add_special_tokens=False)
    return [idx + 4 for idx in encoding.ids]


def test_a_directory_of_code(texts: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert tokenise("--trainpref", "code") == 0
    assert list(contents()) == TRAIN
    ids, source = MMapIndexedDataset("data-bin/train"), source_of("train")
    expected = {"a/c.py": TEXT, "b.py": CRLF, "e.md": "# e\n"}
    assert [source.name_of(n) for n in range(source.num_documents)] == list(expected)
    for number, text in enumerate(expected.values()):
        assert ids[number].tolist() == package_ids(text)
        assert source.text(source.first_token(number), source.first_token(number + 1)) == text
    assert Path("data-bin/train.text").read_bytes() == "".join(expected.values()).encode()
    assert any("code: left out 1 files that are no UTF-8 text: a/d.bin" in message for message in caplog.messages)
    assert any(f"code: 3 documents, {len(ids.tokens)} tokens, " in message for message in caplog.messages)


def test_every_kind_of_document(texts: Path) -> None:
    assert tokenise("--validpref", "one.txt,many.jsonl,code", "--document-glob", "*.md") == 0
    assert tokenise("--testpref", "one.txt", "--documents", "blank-line") == 0
    assert MMapIndexedDataset("data-bin/valid")[0].tolist() == package_ids(CRLF + "\r\nlast")
    assert [source_of(name).num_documents for name in ("valid", "valid1", "valid2", "test")] == [1, 2, 1, 3]
    test = source_of("test")
    lines = [test.line_of(test.first_token(number)) for number in range(3)]
    assert lines == [1, 3, 5] and test.name_of(0) == "one.txt"
    assert [source_of("valid1").name_of(number) for number in range(2)] == ["many.jsonl:1", "many.jsonl:3"]
    for name in ("valid", "test"):
        source = source_of(name)
        assert all(source.text(n, n + 1).encode() for n in range(source.num_tokens))


def test_the_record_of_the_tokenizer(texts: Path) -> None:
    tokenise("--trainpref", "one.txt", "--validpref", "many.jsonl")
    record, found = json.loads(Path("data-bin/preprocess.json").read_bytes()), tokenizer_record("data-bin")
    assert found is not None and found.directory == "tokenizer"
    assert (found.opening, found.bos, found.eos, found.add_bos) == (4, 4, 4, False)
    dictionary = Dictionary.load("data-bin/dict.txt")
    assert len(dictionary) == found.num_tokens + 4 == record["dictionary"]["types"]
    split = record["splits"]["train"]
    text = CRLF + "\r\nlast"
    assert (split["num_bytes"], split["num_words"], split["num_sentences"]) == (
        len(text.encode()),
        len(text.split()),
        1,
    )
    preprocess("--trainpref", "words.txt", "--destdir", "words")
    assert tokenizer_record("words") is None and tokenizer_record("code") is None


def test_one_dictionary_for_all_texts_as_wide_as_the_head(texts: Path) -> None:
    Path("tokenizer/config.json").write_text('{"vocab_size": 350}', encoding="utf-8")
    tokenise("--trainpref", "one.txt")
    tokenise("--trainpref", "many.jsonl", "--destdir", "other")
    assert contents()["dict.txt"] == contents("other")["dict.txt"]
    dictionary = Dictionary.load("data-bin/dict.txt")
    assert len(dictionary) == 354 and dictionary[353] == "madeupword0349"


def test_any_number_of_workers_writes_the_same(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq.data.corpus.binarize.WORKER_BYTES", 100)
    monkeypatch.setattr("fairseq.data.corpus.encode.BATCH_CHARACTERS", 100)
    for number in range(12):
        Path(f"code/f{number}.py").write_text(TEXT[number * 20 :], encoding="utf-8")
    for workers in ("1", "3"):
        assert tokenise("--trainpref", "code", "--workers", workers, "--destdir", workers) == 0
    one, three = contents("1"), contents("3")
    assert list(one) == TRAIN
    assert all(one[name] == three[name] for name in one if name != "preprocess.json")


def test_the_same_command_again_writes_nothing(texts: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["--trainpref", "code", "--validpref", "one.txt"]
    assert tokenise(*words) == 0
    before = contents()
    with caplog.at_level(logging.INFO):
        assert tokenise(*words, "--workers", "2") == 0
    assert any("nothing to do" in message for message in caplog.messages) and contents() == before
    Path("code/new.py").write_text("new", encoding="utf-8")
    assert tokenise(*words) == 2
    assert tokenise(*words, "--overwrite") == 0
    assert source_of("train").name_of(3) == "new.py"
    Path("data-bin/train.offsets").unlink()
    assert tokenise(*words) == 2


def test_a_results_directory_within_the_texts_is_no_text(texts: Path) -> None:
    words = ["--trainpref", "code", "--destdir", "code/out"]
    assert tokenise(*words) == 0 and tokenise(*words) == 0
    assert source_of("train", "code/out").num_documents == 3


def test_a_text_joins_a_data_directory_of_the_same_tokenizer_only(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenise("--trainpref", "one.txt")
    assert tokenise("--testpref", "many.jsonl") == 0
    assert set(json.loads(Path("data-bin/preprocess.json").read_bytes())["splits"]) == {"train", "test"}
    before = contents()
    assert preprocess("--srcdict", "data-bin/dict.txt", "--validpref", "words.txt") == 2
    told = error(capsys)
    tokens = ", whose texts are tokens of --tokenizer tokenizer; give"
    assert f"--destdir data-bin must not hold results yet, but has dict.txt{tokens}" in told
    assert "give --overwrite to replace them, or another --destdir" in told
    write(Path("other"), gemma())
    assert preprocess("--tokenizer", "other", "--validpref", "one.txt") == 2
    assert "but has dict.txt, whose texts are tokens of another tokenizer (tokenizer, as it was then)" in error(capsys)
    Path("tokenizer/config.json").write_text('{"vocab_size": 320}', encoding="utf-8")
    assert tokenise("--validpref", "one.txt") == 2
    assert "whose texts have 304 types, not 324: vocab_size of config.json is another" in error(capsys)
    Path("tokenizer/config.json").unlink()
    settings = json.loads(Path("tokenizer/tokenizer.json").read_bytes())
    settings["model"]["merges"].reverse()  # the same tokens, another tokenizer
    Path("tokenizer/tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    assert tokenise("--validpref", "one.txt") == 2
    assert tokenise("--trainpref", "one.txt", "--overwrite") == 2
    assert "data-bin must hold ids of one dictionary, but test would stay beside a new one" in error(capsys)
    assert contents() == before


def test_words_in_the_place_of_tokens_leave_no_source_text(texts: Path) -> None:
    tokenise("--trainpref", "one.txt")
    assert preprocess("--trainpref", "words.txt", "--overwrite") == 0
    assert list(contents()) == ["dict.txt", "preprocess.json", "train.bin", "train.idx"]
    assert tokenizer_record("data-bin") is None


def test_a_text_that_cannot_be_read_leaves_what_it_was_to_replace(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenise("--validpref", "one.txt", "--testpref", "many.jsonl")
    before = contents()
    Path("many.jsonl").write_text('{"text": "good"}\n{"text": 3}\n', encoding="utf-8")
    assert tokenise("--testpref", "many.jsonl", "--overwrite") == 2
    assert "many.jsonl:2: a line must be a JSON object with a text named 'text', but that is 3" in error(capsys)
    assert contents() == before
    assert tokenise("--validpref", "code", "--testpref", "many.jsonl", "--overwrite") == 2
    assert (source_of("valid").num_documents, source_of("test").num_documents) == (3, 2)
    found, old = (json.loads(data) for data in (contents()["preprocess.json"], before["preprocess.json"]))
    assert found["splits"]["test"] == old["splits"]["test"] and found["splits"]["valid"]["num_sentences"] == 3
    assert "unfinished" not in found


def test_words_that_cannot_be_read_leave_what_they_were_to_replace(texts: Path) -> None:
    preprocess("--trainpref", "words.txt", "--testpref", "words.txt")
    before = contents()
    Path("bad.txt").write_bytes(b"the\ncat \xff\n")
    assert preprocess("--srcdict", "data-bin/dict.txt", "--testpref", "bad.txt", "--overwrite") == 2
    assert contents() == before


def test_a_missing_split_is_made_as_the_message_says(texts: Path) -> None:
    for first, words in (("tokenise", "--tokenizer tokenizer"), ("preprocess", "--srcdict {}/dict.txt")):
        data = f"data-{first}"
        assert globals()[first]("--trainpref", "words.txt", "--destdir", data) == 0
        told = str(missing_split(Path(data) / "test.idx"))
        command = f"fairseq-preprocess --only-source --testpref TEXT --destdir {data} {words.format(data)} makes test"
        assert told.endswith(command)
        assert run("fairseq-preprocess", main, command.replace("TEXT", "words.txt").split()[1:-2]) == 0
        assert Path(f"{data}/test.idx").is_file()


def test_files_of_others_are_kept(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preprocess("--trainpref", "words.txt")
    assert tokenise("--testpref", "one.txt") == 2
    assert "but has dict.txt, whose texts are words, not tokens; give --overwrite" in error(capsys)
    Path("data-bin/train.text").write_text("mine", encoding="utf-8")
    assert tokenise("--trainpref", "one.txt", "--overwrite") == 2
    assert "data-bin/train.text is there, and is not a source text" in error(capsys)
    assert preprocess("--trainpref", "words.txt", "--overwrite") == 0
    assert Path("data-bin/train.text").read_text(encoding="utf-8") == "mine"


class KilledError(Exception):
    """Stands for whatever ends a program."""


def test_a_run_that_is_stopped_leaves_no_mixture(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--trainpref", "one.txt", "--validpref", "many.jsonl"]
    tokenise(*words)
    before = contents()

    def kill(self: IndexedDatasetWriter, *args: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(IndexedDatasetWriter, "write", kill)
        tokenise("--trainpref", "code", "--validpref", "one.txt", "--overwrite")
    assert set(before) <= set(contents())  # the tokenizer is the same: what was there serves until the new is whole
    assert source_of("train").num_documents == 1
    assert tokenise("--trainpref", "code", "--validpref", "one.txt") == 0
    assert source_of("train").num_documents == 3
    assert "unfinished" not in json.loads(Path("data-bin/preprocess.json").read_bytes())


def test_special_tokens_that_are_written_out_are_told(texts: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path("one.txt").write_text("a<|endoftext|>b<|endoftext|>", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert tokenise("--trainpref", "one.txt") == 0
    assert any("one.txt holds special tokens of the tokenizer" in message for message in caplog.messages)
    assert MMapIndexedDataset("data-bin/train")[0].tolist() == package_ids("a<|endoftext|>b<|endoftext|>")
    assert json.loads(Path("data-bin/preprocess.json").read_bytes())["splits"]["train"]["specials"] == {
        "<|endoftext|>": 2
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--trainpref none --tokenizer tokenizer", "--trainpref must name a text file, but none does not exist"),
        ("--trainpref one.txt --tokenizer none", "--tokenizer must be space, or the directory of a model's"),
        ("--trainpref one.txt --tokenizer org/model-1", "hf download org/model-1 --local-dir DIR, and give DIR"),
        ("--trainpref one.txt --tokenizer code", "code has no tokenizer.json; copy it there"),
        ("--trainpref one.txt --tokenizer one.txt", "one.txt is a file; give the directory"),
        ("--trainpref blank.txt --tokenizer pieces", "--trainpref: blank.txt has no text; give a file or directory"),
        ("--trainpref one.txt --tokenizer tokenizer --srcdict d", "--srcdict does not go with --tokenizer tokenizer"),
        ("--trainpref one.txt --tokenizer tokenizer --thresholdsrc 2", "--thresholdsrc does not go with --tokenizer"),
        ("--trainpref one.txt --tokenizer tokenizer --nwordssrc 9", "--nwordssrc does not go with --tokenizer"),
        ("--trainpref one.txt --documents file", "--documents needs --tokenizer DIR"),
        ("--trainpref code --document-glob *.py", "--document-glob needs --tokenizer DIR"),
        ("--trainpref code --tokenizer tokenizer --document-glob *.c", "code has no file that matches *.c"),
        ("--trainpref code --tokenizer tokenizer --destdir code", "code is where the results go"),
        ("--trainpref one.txt --tokenizer tokenizer --documents jsonl", "one.txt:1: a line must be a JSON object"),
        ("--trainpref code", "--trainpref must name a text file, but code is a directory; add --tokenizer MODEL"),
        ("--destdir data-bin", "--trainpref or --srcdict is required"),
    ],
)
def test_what_is_refused(texts: Path, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    from tests.builders.tokenizer_files import word_piece

    write(Path("pieces"), word_piece())
    assert preprocess(*words.split()) == 2
    assert message in error(capsys)
    assert not Path("data-bin/train.idx").exists()


def test_flags_that_have_no_effect_are_told(texts: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenise("--trainpref", "one.txt", "--padding-factor", "1")
    preprocess("--trainpref", "words.txt", "--jsonl-field", "body", "--destdir", "words")
    told = " ".join(caplog.messages)
    assert "--padding-factor has no effect" in told and "--jsonl-field has no effect" in told


def test_help_loads_no_tokenizer() -> None:
    code = (
        "import sys, fairseq_cli.preprocess as p\n"
        "try: p.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'tokenizers', 'transformers', 'torch'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "--tokenizer DIR" in done.stdout


def test_positions_are_those_of_the_ids(texts: Path) -> None:
    """A neighbour's position in a split leads to its text: byte by byte those of the tokens before it."""
    write(Path("bytes"), byte_level())
    assert preprocess("--tokenizer", "bytes", "--trainpref", "code") == 0
    source, ids = source_of("train"), MMapIndexedDataset("data-bin/train")
    assert source.num_tokens == len(ids.tokens)
    assert np.array_equal([source.first_token(n) for n in range(4)], ids.offsets)


def test_another_tokenizer_in_the_same_place_is_read_anew(texts: Path) -> None:
    assert tokenise("--trainpref", "one.txt") == 0
    write(Path("tokenizer"), gemma())
    assert tokenise("--trainpref", "one.txt") == 2
    assert tokenise("--trainpref", "one.txt", "--overwrite") == 0
    assert MMapIndexedDataset("data-bin/train")[0].tolist() == package_ids(CRLF + "\r\nlast")
