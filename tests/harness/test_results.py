"""The table of both results."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fairseq.errors import DataError
from fairseq.harness.results import beside_each_other, files_of, read_results


def results(acc: float, ppl: float) -> dict[str, Any]:
    metrics = {"alias": "choice", "acc,none": acc, "acc_stderr,none": 0.1, "sample_len": 5}
    return {
        "results": {
            "tiny": metrics,
            "pages": {"alias": " - pages", "word_perplexity,strict": ppl, "x_stderr,n": "N/A"},
        },
        "higher_is_better": {"tiny": {"acc": True}, "pages": {"word_perplexity": False}},
    }


def test_a_table_has_every_metric_of_both() -> None:
    lines = beside_each_other(results(0.5, 1234.5), results(0.75, 12.25)).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])] == [
        ["Tasks", "Metric", "", "model alone", "with neighbours", "change"],
        ["choice", "acc", "↑", "0.5000", "0.7500", "+0.2500"],
        ["- pages", "word_perplexity (strict)", "↓", "1234.5000", "12.2500", "-1222.2500"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_the_settings_of_neighbours_stand_below() -> None:
    neighbours = {"k": 64, "lmbda": 0.25, "knn_temp": 3.5, "knn_temp_asked": "auto", "probe": 8}
    mixed = {**results(0.75, 12.25), "config": {"neighbours": neighbours}}
    last = beside_each_other(results(0.5, 1234.5), mixed).splitlines()[-1]
    assert last == "neighbours: k 64, λ 0.25, T 3.5 (auto), probe 8"


def test_a_metric_of_one_alone_stands_by_itself() -> None:
    other = {"results": {}}
    assert "|0.7500" in beside_each_other(other, results(0.75, 3)).replace(" ", "")


@pytest.mark.parametrize(("output", "name"), [("out", "out/model/results_{}.json"), ("r.json", "r_{}.json")])
def test_the_newest_results_are_read(tmp_path: Path, output: str, name: str) -> None:
    with pytest.raises(DataError, match="lm-eval has written no results to"):
        read_results(tmp_path / output)
    for time in (2, 1):
        path = tmp_path / name.format(time)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"time": time}))
        os.utime(path, (time, time))
    assert read_results(tmp_path / output) == {"time": 2}
    assert read_results(tmp_path / output, [tmp_path / name.format(2)]) == {"time": 1}
    with pytest.raises(DataError, match="has written no results"):
        read_results(tmp_path / output, files_of(tmp_path / output))
