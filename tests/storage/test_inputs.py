"""Files that are not there: the command says so before torch is imported, and knows what was meant."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq.errors import DataError
from fairseq.storage.inputs import open_input, require_checkpoint, require_inputs
from tests.builders.refusals import refusal

PROGRAM = """
import sys
from fairseq_cli.{module} import main
from fairseq.errors import FairseqError
try:
    main({words})
except FairseqError as err:
    print(err)
print(sorted({{"torch", "faiss"}} & set(sys.modules)))
"""


@pytest.fixture
def data_bin(tmp_path: Path) -> Path:
    """Returns a data directory with empty files: whether they are there is all that is asked."""
    for name in ("dict.txt", "train.idx", "train.bin", "valid.idx", "valid.bin", "test.idx", "a.pt", "b.pt"):
        (tmp_path / name).touch()
    return tmp_path


def test_what_is_there_is_not_complained_of(data_bin: Path) -> None:
    checkpoints = f"{data_bin}/a.pt:{data_bin}/b.pt"
    assert refusal(require_inputs, checkpoints, str(data_bin), "valid") == ""
    assert refusal(require_inputs, "", f"{data_bin}/dict.txt") == ""
    (data_bin / "valid.bin").unlink()
    assert "valid.bin does not exist" in refusal(require_inputs, checkpoints, str(data_bin), "valid")


@pytest.mark.parametrize(
    ("data", "split", "message"),
    [
        ("", "vald", "vald.idx does not exist; did you mean valid?"),
        ("", "valid1", "valid1.idx does not exist; did you mean valid?"),
        ("", "other", " has test, train, valid; give one of these"),
        ("", "test", "test.bin does not exist; fairseq-preprocess --only-source --testpref TEXT --destdir"),
        ("/dict.txt", "valid", "is a file, but the split 'valid' lies in a data directory"),
        ("x", "valid", "does not exist; give the one that fairseq-preprocess --destdir wrote"),
    ],
)
def test_a_split_that_is_not_there(data_bin: Path, data: str, split: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        require_inputs("", f"{data_bin}{data}", split)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("train", ["--arch", "transformer_lm", "--max-tokens", "8", "--train-subset", "vald"]),
        ("eval_lm", ["--path", "MODEL", "--gen-subset", "vald"]),
        ("generate", ["--path", "MODEL", "--gen-subset", "vald"]),
    ],
)
def test_a_mistyped_split_is_answered_without_torch(data_bin: Path, module: str, words: list[str]) -> None:
    words = [str(data_bin), *(str(data_bin / "a.pt") if word == "MODEL" else word for word in words)]
    program = PROGRAM.format(module=module, words=words)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    message, imported = done.stdout.splitlines()
    assert message == f"{data_bin / 'vald.idx'} does not exist; did you mean valid?"
    assert imported == "[]"


def test_text_may_come_from_a_file_a_pipe_or_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_bytes(b"a\nb")
    with open_input(str(tmp_path / "text")) as file:
        assert list(file) == [b"a\n", b"b"]
    reader, writer = os.pipe()
    os.write(writer, b"c\n")
    os.close(writer)
    with open_input(f"/dev/fd/{reader}") as file:
        assert list(file) == [b"c\n"]
    os.close(reader)
    stdin = io.TextIOWrapper(io.BytesIO(b"d\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    with open_input("-") as file:
        assert list(file) == [b"d\n"]
    assert not stdin.closed


@pytest.mark.parametrize(("name", "problem"), [("gone", "does not exist"), (".", "is a directory")])
def test_text_that_is_not_there_is_named(name: str, problem: str) -> None:
    with pytest.raises(DataError, match=f"--input must name text files, but {name} {problem}"):
        open_input(name)


def test_a_checkpoint_in_shards_that_is_not_there_names_one_that_is(tmp_path: Path) -> None:
    missing = tmp_path / "checkpoint_best.dcp"
    assert refusal(require_checkpoint, missing, "", "SOURCE").endswith("give SOURCE the file of a checkpoint")
    (tmp_path / "checkpoint_last.pt").touch()
    assert refusal(require_checkpoint, missing).endswith(f"does not exist; there is {tmp_path / 'checkpoint_last.pt'}")
