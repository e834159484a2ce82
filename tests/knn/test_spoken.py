"""Who spoke for a token: shares of the vote, and the text of the rows."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fairseq.knn.distribution import votes_for
from fairseq.knn.spoken import RowText, voices
from tests.cli.tiny_lm import write_split
from tests.reference.knn import knn_probability

RNG = np.random.default_rng(2)
DISTANCES = (RNG.random((7, 12)) * 9).astype(np.float32)
IDS = np.stack([RNG.permutation(40)[:12] for _ in range(7)])
IDS[2, 3:7] = -1
IDS[5] = -1
VALUES_OF_ROW = RNG.integers(0, 3, 41)
TARGET = RNG.integers(0, 3, 7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_the_shares_of_those_who_spoke_are_the_probability(temperature: float) -> None:
    votes = votes_for(DISTANCES, IDS, VALUES_OF_ROW[IDS], TARGET)
    spoken = voices(votes, temperature, 12)
    for n, of_token in enumerate(spoken):
        p = knn_probability(DISTANCES[n], IDS[n], VALUES_OF_ROW[IDS[n]], TARGET[n], temperature)
        assert sum(voice.share for voice in of_token) == pytest.approx(p, abs=1e-9)
        assert {voice.row for voice in of_token} == {
            i for i in IDS[n].tolist() if i >= 0 and VALUES_OF_ROW[i] == TARGET[n]
        }
        assert [voice.distance for voice in of_token] == sorted(voice.distance for voice in of_token)
        assert all(DISTANCES[n, IDS[n].tolist().index(voice.row)] == voice.distance for voice in of_token)
    assert spoken[5] == []
    assert voices(votes, temperature, 2) == [of_token[:2] for of_token in spoken]


def test_the_text_of_a_row_is_found_or_not_shown(make_store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = RNG.integers(4, 40, 60).tolist()
    write_split(tmp_path / "train", [text])
    settings = {"data": str(tmp_path / "train"), "sample_break_mode": "none", "context_window": 8,
                "tokens_per_sample": 10}  # fmt: skip
    keys = np.zeros((50, 4), np.float32)
    store = make_store("right", keys, np.array(text[10:]), settings=settings, vocabulary_size=40)
    shown = RowText.open(store)
    assert shown is not None
    assert shown.around(5, 3, 2) == (text[12:15], text[16:18])
    assert shown.around(0, 99, 1) == (text[:10], text[11:12])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert store.manifest is not None
        for changed, reason in (
            ({"data": None}, "does not say which text"), ({"sample_break_mode": "complete"}, "does not say which text"),
            ({"data": str(tmp_path / "gone")}, "gone.idx does not exist"), ({"context_window": 0}, "is not what"),
            ({"tokens_per_sample": 20}, "is not what"),
        ):  # fmt: skip
            caplog.clear()
            store.manifest = replace(store.manifest, settings={**settings, **changed})
            assert RowText.open(store) is None
            assert reason in caplog.text
