r"""File names that are not UTF-8, and a log that cannot be written.

A name's odd byte 0xff is ``\udcff`` in records, where it is read back as the same name, and in what is printed.
"""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.cases import Artefacts
from tests.builders.outputs import KNN, SHORT, call, state

ODD = os.fsdecode(b"na\xffme")
EVAL = f"data-bin --path {ODD}.pt --cpu --log-format none"


@pytest.fixture
def odd(artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Returns the working directory, whose own name is odd, with sound files in it, some under odd names."""
    root = tmp_path / ODD
    root.mkdir()
    monkeypatch.chdir(root)
    for name in ("data-bin", "run", "retrieval", "knn.index", "knn.index.json"):
        Path(name).symlink_to(artefacts.root / name)
    Path(f"{ODD}.pt").symlink_to(artefacts.checkpoint)
    for suffix in ("_keys.npy", "_vals.npy", ".json"):
        Path(f"{ODD}{suffix}").symlink_to(f"{artefacts.store}{suffix}")
    Path(f"{ODD}.txt").write_text("a b c\na b\n", encoding="utf-8")
    yield root


def test_an_evaluation_records_odd_names_which_are_read_as_the_same(odd: Path) -> None:
    code, said = call("fairseq-eval-lm", shlex.split(f"{EVAL} --results-path r{ODD}.json --log-file {ODD}.log"))
    assert code == 0, said
    record = json.loads(Path(f"r{ODD}.json").read_text(encoding="utf-8"))
    assert record["settings"]["path"] == f"{ODD}.pt"
    assert Path(record["settings"]["path"]).exists()
    assert "Traceback" not in said


COMMANDS = [
    ("fairseq-preprocess", f"--only-source --trainpref {ODD}.txt --destdir {ODD}-data --log-file {ODD}.log"),
    ("fairseq-train", f"{SHORT} --save-dir {ODD}-run"),
    ("fairseq-eval-lm", f"{EVAL} {KNN} --dstore-filename {ODD} --save-retrieval {ODD}-saved"),
    ("fairseq-eval-lm", f"{EVAL} --gen-subset test --save-knnlm-dstore --context-window 8 --dstore-mmap {ODD}-store"),
    ("fairseq-score-lm", f"{EVAL} --input {ODD}.txt --json"),
    ("build_dstore.py", f"--dstore_mmap {ODD} --faiss_index new.index --index-spec Flat"),
    ("fairseq-knnlm", f"check data-bin --path {ODD}.pt --dstore-filename {ODD} --fast --json c{ODD}.json"),
    ("fairseq-knnlm", f"info {ODD}.pt {ODD}"),
    ("fairseq-knnlm", f"convert {ODD}.pt model.safetensors"),
    ("fairseq-knnlm", f"report retrieval/valid --max-tokens 9 --out {ODD}.html"),
    ("fairseq-knnlm", f"sweep retrieval/valid --k 8 --resamples 100 --no-figures --out {ODD}-sweep"),
    ("fairseq-knnlm", f"adopt {ODD} --dimension 16 --dstore-mmap {ODD}-adopted --copy"),
]


@pytest.mark.parametrize(("prog", "words"), COMMANDS, ids=[f"{prog} {words.split()[0]}" for prog, words in COMMANDS])
def test_odd_names_do_not_stop_a_command(prog: str, words: str, odd: Path) -> None:
    code, said = call(prog, shlex.split(words))
    assert code == 0 and "Traceback" not in said, said


@pytest.mark.parametrize(
    ("prog", "words"),
    [
        ("build_dstore.py", f"--dstore_mmap {ODD} --faiss_index {ODD}.index --index-spec Flat"),
        ("fairseq-knnlm", f"convert {ODD}.pt {ODD}.safetensors"),
    ],
)
def test_what_others_read_by_name_needs_a_name_in_utf_8(prog: str, words: str, odd: Path) -> None:
    """FAISS and safetensors cannot open a file of such a name."""
    before = state(odd)
    code, said = call(prog, shlex.split(words))
    assert code == 2 and "must be UTF-8" in said.splitlines()[-1], said
    assert state(odd) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_under_the_log_is_said_once(artefacts: Artefacts, capfd: pytest.CaptureFixture[str]) -> None:
    from fairseq_cli.shared.run import run
    from tests.builders.tiny_lm import main_of

    words = [artefacts.data, "--path", artefacts.checkpoint, "--cpu", "--log-file", "/dev/full"]
    assert run("fairseq-eval-lm", main_of("fairseq-eval-lm"), [str(word) for word in words]) == 0
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err and "Perplexity" in captured.out
    code = run(
        "fairseq-eval-lm", main_of("fairseq-eval-lm"), ["nowhere", "--path", "gone.pt", "--log-file", "/dev/full"]
    )
    said = capfd.readouterr().err
    assert code == 2 and "checkpoint gone.pt does not exist" in said.splitlines()[-1] and "Traceback" not in said
