"""Rows of a datastore of tokenized files: where they come from, what stands there, what goes with a file."""

import json
from pathlib import Path

import numpy as np
import pytest

from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.passages import RowText
from tests.builders.tiny_lm import Command
from tests.builders.tokenized_text import CODE, MORE, TOKEN, write_tokenized

NUM_TOKENS = [len(TOKEN.findall(text)) for text in CODE.values()]


@pytest.fixture
def store(tmp_path: Path, make_store) -> Datastore:
    """Returns the datastore of ``CODE``, by document: a row for each token."""
    write_tokenized(tmp_path, {"train": CODE, "valid": MORE})
    text, dictionary = MMapIndexedDataset(tmp_path / "train"), Dictionary.load(tmp_path / "dict.txt")
    settings = {"sample_break_mode": "document", "tokens_per_sample": 5, "context_window": 2}
    return make_store(
        "code",
        np.zeros((len(text.tokens), 4), np.float32),
        text.tokens.astype(np.int64),
        settings={**settings, "data": str(tmp_path / "train")},
        vocabulary_size=len(dictionary),
        dictionary_sha256=dictionary.sha256(),
    )


def test_a_row_is_shown_with_its_file_and_line(store: Datastore, tmp_path: Path, command: Command) -> None:
    total = CODE["src/total.py"]
    at = len(TOKEN.findall(total[: total.index(" sum")]))  # the row of " sum("
    done = command("fairseq-knnlm", "rows", store.prefix, at, "--context", 3, "--json", tmp_path / "rows.json")
    assert done.code == 0, done.err
    (record,) = json.loads((tmp_path / "rows.json").read_text())["found"]
    assert record["before"] == "s):\n    return" and record["value"] == " sum(" and record["after"].startswith("numb")
    assert total.count(record["before"] + record["value"] + record["after"]) == 1
    assert (record["title"], record["line"], record["token_of_line"]) == ("src/total.py", 2, 2)
    assert f"row {at}: document train#0 'src/total.py', line 2, token 2 of it, {at} of the text" in done.out
    assert "  s):↵    return[ sum(]numb" in done.out


def test_documents_are_the_files(store: Datastore, command: Command) -> None:
    lines = command("fairseq-knnlm", "rows", store.prefix, "--documents").out.splitlines()
    assert "3 documents (as they were tokenized)" in lines[0]
    ends = np.cumsum([0, *NUM_TOKENS]).tolist()
    for number, name in enumerate(CODE):
        assert lines[1 + number] == f"  train#{number}  {ends[number]}:{ends[number + 1]}  {name}"


@pytest.mark.parametrize(
    ("name", "gone"), [("src/main.py", [1]), ("readme", [2]), ("total.py", [0]), ("src/*.py", [0, 1]), ("train#2", [2])]
)
def test_files_are_forgotten_by_name_or_pattern(name: str, gone: list[int], store: Datastore, command: Command) -> None:
    done = command("fairseq-knnlm", "forget", store.prefix, "--document", name)
    assert done.code == 0, done.err
    found = Datastore.open(store.prefix).forgotten
    ends = np.cumsum([0, *NUM_TOKENS]).tolist()
    assert found.ids().tolist() == [row for number in gone for row in range(ends[number], ends[number + 1])]
    assert ("2 documents src/*.py (train#0, train#1): " in done.out) == (len(gone) == 2)


def test_a_file_that_is_not_there_is_refused(store: Datastore, command: Command) -> None:
    assert (
        "--document src/*.rs is none of the 3 documents"
        in command("fairseq-knnlm", "forget", store.prefix, "--document", "src/*.rs").error
    )


def test_neighbours_come_with_the_text_of_their_file(store: Datastore) -> None:
    shown, row = RowText.open(store), 0
    assert shown is not None
    for text in CODE.values():
        tokens = TOKEN.findall(text)
        for at, token in enumerate(tokens):
            passage = shown.around(row + at, 2, 2)
            assert passage is not None
            wanted = "".join(tokens[max(at - 2, 0) : at]), token, "".join(tokens[at + 1 : at + 3])
            assert (passage.before, passage.value, passage.after) == wanted
        row += len(tokens)


def test_rows_of_a_torn_source_text_are_not_shown(store: Datastore, tmp_path: Path, caplog) -> None:
    (tmp_path / "train.text").write_bytes(b"def")
    assert RowText.open(store) is None
    assert "train.text must have" in caplog.text
