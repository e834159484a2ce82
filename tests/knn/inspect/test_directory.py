"""``fairseq-knnlm info DIRECTORY``: files that belong together are one thing."""

import json
from pathlib import Path

from fairseq.knn.inspect.directory import settings_lines, things_in
from fairseq.knn.inspect.info import describe
from tests.builders.tokenized_text import CODE, MORE, write_tokenized


def test_tokenized_data_is_documents_and_names_its_tokenizer(tmp_path: Path) -> None:
    tokens = write_tokenized(tmp_path, {"train": CODE, "valid": MORE})
    tokenizer = {"sha256": "ab" * 32, "num_tokens": 9, "opening": 4, "bos": None, "eos": 4, "add_bos": False}
    (tmp_path / "preprocess.json").write_text(json.dumps({"tokenizer": {**tokenizer, "directory": "models/smol"}}))
    things = dict(things_in(tmp_path))
    assert sorted(things) == ["dict.txt", "preprocess.json", "train", "valid"]
    assert things["train"] == f"binarised text, 3 documents, {len(tokens['train'])} tokens"
    assert things["valid"] == f"binarised text, 1 documents, {len(tokens['valid'])} tokens"
    assert things["preprocess.json"] == "record of fairseq-preprocess: tokenizer of models/smol, sha256 abababababab"
    assert ("documents", 3) in describe(str(tmp_path / "train.idx"))[1]


def test_a_broken_record_is_told_as_one(tmp_path: Path) -> None:
    write_tokenized(tmp_path, {"train": CODE})
    (tmp_path / "preprocess.json").write_text("{")
    assert dict(things_in(tmp_path))["preprocess.json"] == "record of fairseq-preprocess that cannot be read"


def test_the_size_of_a_row_is_told_with_and_without_its_window() -> None:
    assert settings_lines({"tokens_per_sample": 32, "context_window": 32, "data": "x"}) == [
        ("tokens_per_sample", "32 (64 with the context window)"),
        ("context_window", 32),
        ("data", "x"),
    ]
    for settings in ({"tokens_per_sample": 32, "context_window": 0}, {"tokens_per_sample": 32}, {}):
        assert settings_lines(settings) == list(settings.items())
