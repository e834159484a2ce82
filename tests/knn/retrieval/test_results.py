"""results.json beside a retrieval: sections in any order give the same bytes, and speak of this retrieval only."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fairseq.errors import DatastoreError
from fairseq.knn.report.summary import summary_of
from fairseq.knn.retrieval.results import Kept, check_results, keep, read_results
from tests.builders.small_retrieval import small_retrieval

ON_VALID = {"lm_ppl": 9.0, "ppl": 8.0, "gain_ppl": 1.0, "gain_ppl_interval": [0.5, 1.5]}
ON_TEST = {"lm_ppl": 7.0, "ppl": None, "gain_ppl": None, "gain_ppl_interval": None}
SWEEP = {
    "chosen_on": {"split": "valid", "result": ON_VALID},
    "applied_to": {"split": "test", "result": ON_TEST},
    "best": {"flags": "--lmbda 0.3 --k 8 --knn-temp 2"},
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    small_retrieval(tmp_path / "r")
    return tmp_path / "r"


def kept(directory: Path, section: str, **record: object) -> None:
    keep(Kept(directory, section, record), ["fairseq-knnlm", section], {"seconds": 1.5})


def test_sections_join_and_their_order_does_not_matter(directory: Path, tmp_path: Path) -> None:
    for name in ("sweep", "lmbda"):
        kept(directory, name, value=name)
    small_retrieval(tmp_path / "again")
    for name in ("lmbda", "sweep", "sweep"):
        kept(tmp_path / "again", name, value=name)
    assert read_results(directory) == {"lmbda": {"value": "lmbda"}, "sweep": {"value": "sweep"}}
    assert (directory / "results.json").read_bytes() == (tmp_path / "again" / "results.json").read_bytes()
    times = json.loads((directory / "results.time.json").read_text())["sections"]
    assert times["sweep"] == {"command": ["fairseq-knnlm", "sweep"], "seconds": 1.5}
    assert "seconds" not in (directory / "results.json").read_text()


def test_a_retrieval_that_is_written_anew_has_no_results(directory: Path) -> None:
    kept(directory, "sweep", value=1)
    (directory / "manifest.json").write_text((directory / "manifest.json").read_text() + " ")
    assert read_results(directory) == {}
    kept(directory, "lmbda", value=2)
    assert read_results(directory) == {"lmbda": {"value": 2}}


def test_commands_that_end_at_once_lose_nothing(directory: Path) -> None:
    names = [f"section{i}" for i in range(8)]
    with ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda name: kept(directory, name, value=name), names))
    assert sorted(read_results(directory)) == names
    assert not list(directory.glob("*.lock"))


def test_a_directory_that_cannot_be_written_is_a_warning(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, record: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fairseq.knn.retrieval.results.write_record", refuse)
    kept(directory, "sweep", value=1)
    assert "results.json cannot be written (Permission denied)" in caplog.text


def test_broken_results_are_refused_before_and_after(directory: Path) -> None:
    (directory / "results.json").write_text("{")
    for read in (check_results, read_results, lambda place: kept(place, "sweep")):
        with pytest.raises(DatastoreError, match=r"results.json must be JSON, but is not"):
            read(directory)
    assert (directory / "results.json").read_text() == "{", "what is there is not replaced"


def test_the_summary_has_a_row_for_each_part(directory: Path) -> None:
    assert summary_of(directory) is None
    kept(directory, "sweep", **SWEEP)
    lmbda = {"fitted_on": {"split": "valid", "ppl": {"language model": 9.0, "by token": 7.5}}, "applied_to": None}
    kept(directory, "lmbda", chosen="by token", file="l.json", k=8, knn_temp=2.0, **lmbda)
    found = summary_of(directory)
    assert found is not None
    assert found["texts"] == ["valid", "test"]
    assert found["rows"] == [
        {"name": "language model", "ppl": [9.0, 7.0], "setting": ""},
        {"name": "+ neighbours, best k and T", "ppl": [8.0, None], "setting": "--lmbda 0.3 --k 8 --knn-temp 2"},
        {"name": "by token, held out", "ppl": [7.5, None], "setting": "--lmbda-model l.json --k 8 --knn-temp 2"},
    ]
    assert found["gains"] == [
        {"name": "+ neighbours, best k and T over language model", "cells": ["1.00, 0.50 to 1.50", ""]}
    ]


def test_the_summary_of_a_text_of_known_size_is_by_word_and_byte_too(directory: Path) -> None:
    kept(directory, "sweep", **SWEEP)
    sized = {"targets": 40, "words": 30, "bytes": 160, "split": "valid", "targets_joined_to_the_next": 0}
    kept(directory, "evaluation", **sized)
    found = summary_of(directory)
    assert found is not None and found["sized"] == "valid"
    model, mixture = found["rows"]
    assert (model["ppl"], model["word"], model["byte"]) == (
        [9.0, 7.0],
        round(9 ** (4 / 3), 2),
        round(math.log2(9) / 4, 4),
    )
    assert (mixture["word"], mixture["byte"]) == (16.0, 0.75)  # 8 to the power 4/3; 3 bits of a quarter of a byte
    kept(directory, "evaluation", **{**sized, "words": 0})
    assert "sized" not in (summary_of(directory) or {})
