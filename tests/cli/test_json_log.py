"""``--log-format json`` of training: lines have our keys, and the keys that fairseq's lines have.

The sets are those of fairseq 0.12.3.1, recorded from

    fairseq-train … --log-format json --log-interval 20 --clip-norm 0.1 --max-epoch 2

Values are text there, ``epoch`` and ``update`` numbers.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.builders.tiny_lm import Command, batches_in_an_epoch

OURS = {"loss", "ppl", "wps", "ups", "wpb", "bsz", "gnorm", "clip", "num_updates", "best_loss"}
SHARED = {"loss", "ppl", "wps", "wpb", "bsz", "num_updates"}
INNER = {"epoch", "update", *SHARED, "ups", "lr", "gnorm", "clip", "train_wall", "wall"}
TRAIN = {"epoch", *(f"train_{name}" for name in (*SHARED, "ups", "lr", "gnorm", "clip", "train_wall", "wall"))}
VALID = {"epoch", *(f"valid_{name}" for name in (*SHARED, "best_loss"))}
OTHER = {"epoch", *(f"test_{name}" for name in SHARED)}


@pytest.fixture
def lines(train: Command, tmp_path: Path) -> list[dict[str, Any]]:
    """Returns the lines of JSON of two epochs."""
    words = ("--max-epoch", 2, "--log-format", "json", "--valid-subset", "valid,test", "--clip-norm", "0.1")
    outcome = train(tmp_path, *words)
    assert outcome.code == 0
    return [json.loads(line) for line in outcome.log if line.startswith("{")]


def test_lines_have_fairseqs_keys(lines: list[dict[str, Any]], data_dir: Path) -> None:
    n = batches_in_an_epoch(data_dir)
    inner = [line for line in lines if str(line.get("stage", "")).startswith("epoch")]
    assert inner and all(set(line) > INNER for line in inner)
    assert [line["num_updates"] for line in inner] == [*range(5, n + 1, 5), *range(n + 5, 2 * n + 1, 5)]
    for line in inner:
        assert line["update"] == pytest.approx(line["num_updates"] / n, abs=1e-3)
        assert line["epoch"] == 1 + (line["num_updates"] - 1) // n
    for part, keys in (("train", TRAIN), ("valid", VALID), ("test", OTHER)):
        of_part = [line for line in lines if line.get("part") == part]
        assert [line["epoch"] for line in of_part] == [1, 2]
        for line in of_part:
            assert set(line) > keys, part
            text = {name: value for name, value in line.items() if name in keys - {"epoch"}}
            assert all(isinstance(value, str) for value in text.values())
            assert all(float(value) >= 0 for value in text.values())


def test_both_spellings_are_the_same_numbers(lines: list[dict[str, Any]], data_dir: Path) -> None:
    for line in lines:
        if "part" in line:
            ours = {name: value for name, value in line.items() if f"{line['part']}_{name}" in line and name in OURS}
            assert {"loss", "ppl", "num_updates"} <= set(ours)
            for name, value in ours.items():
                assert float(line[f"{line['part']}_{name}"]) == pytest.approx(value, rel=1e-5), name
    (first, second) = (line for line in lines if line.get("part") == "train")
    n = batches_in_an_epoch(data_dir)
    assert (first["train_num_updates"], second["train_num_updates"]) == (str(n), str(2 * n))
    assert first["train_lr"] == "0.01"
