"""The hits of a token: their shares of p_kNN, and the text of the rows."""

import logging
from pathlib import Path

import numpy as np
import pytest

from fairseq.data.dictionary import Dictionary
from fairseq.knn.datastore.manifest import Segment
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.neighbours.distribution import votes_for
from fairseq.knn.neighbours.passages import RowText, top_hits
from tests.builders.tiny_lm import write_split
from tests.oracles.knn import knn_probability

RNG = np.random.default_rng(2)
DISTANCES = (RNG.random((7, 12)) * 9).astype(np.float32)
IDS = np.stack([RNG.permutation(40)[:12] for _ in range(7)])
IDS[2, 3:7] = -1
IDS[5] = -1
VALUES_OF_ROW = RNG.integers(0, 3, 41)
TARGET = RNG.integers(0, 3, 7)


def line_of(*parts: list[int]) -> tuple[str, ...]:
    """Returns words of the dictionary w0 w1 …, each part a string."""
    return tuple(" ".join(f"w{idx - 4}" for idx in part) for part in parts)


def sides(shown: RowText, row: int, before: int, after: int) -> tuple[str, str]:
    passage = shown.around(row, before, after)
    assert passage is not None and passage.line == f"{passage.before} [{passage.value}] {passage.after}"
    return passage.before, passage.after


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_the_shares_of_the_hits_are_the_probability(temperature: float) -> None:
    votes = votes_for(DISTANCES, IDS, VALUES_OF_ROW[IDS], TARGET)
    hits = top_hits(votes, temperature, 12)
    for n, of_token in enumerate(hits):
        p = knn_probability(DISTANCES[n], IDS[n], VALUES_OF_ROW[IDS[n]], TARGET[n], temperature)
        assert sum(hit.share for hit in of_token) == pytest.approx(p, abs=1e-9)
        assert {hit.row for hit in of_token} == {i for i in IDS[n].tolist() if i >= 0 and VALUES_OF_ROW[i] == TARGET[n]}
        assert [hit.distance for hit in of_token] == sorted(hit.distance for hit in of_token)
        assert all(DISTANCES[n, IDS[n].tolist().index(hit.row)] == hit.distance for hit in of_token)
    assert hits[5] == []
    assert top_hits(votes, temperature, 2) == [of_token[:2] for of_token in hits]


def test_hits_that_are_equally_far_come_in_the_order_that_they_were_found_in() -> None:
    distances, ids = np.full((1, 200), 3.0, np.float32), np.random.default_rng(7).permutation(200)[None]
    distances[0, 150] = 1.0
    (hits,) = top_hits(votes_for(distances, ids, np.full((1, 200), 9), np.array([9])), 1.0, 200)
    expected = [ids[0, 150], *np.delete(ids[0], 150)]
    assert [hit.row for hit in hits] == expected


@pytest.mark.parametrize("row", [0, 22, 49])
def test_a_text_that_has_another_word_at_one_row_is_not_shown(
    row: int, make_store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fewer rows than are compared at most: each is compared, the first and the last as well."""
    text = RNG.integers(4, 40, 60)
    write_split(tmp_path / "train", [text.tolist()])
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(36)))
    cut = {"sample_break_mode": "none", "context_window": 8, "tokens_per_sample": 10}
    values = text[10:].copy()
    values[row] = 4 + (values[row] - 3) % 36
    more = {"vocabulary_size": 40, "dictionary_sha256": Dictionary.load(tmp_path / "dict.txt").sha256()}
    settings = {**cut, "data": str(tmp_path / "train")}
    store = make_store("wrong", np.zeros((50, 4), np.float32), values, settings=settings, **more)
    assert RowText.open(store) is None
    assert f"row {row} holds the value {values[row]}, but token {10 + row} of" in caplog.text


def test_the_text_of_a_row_is_found_or_not_shown(make_store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = RNG.integers(4, 40, 60).tolist()
    write_split(tmp_path / "train", [text])
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(36)))
    settings = {
        "data": str(tmp_path / "train"),
        "sample_break_mode": "none",
        "context_window": 8,
        "tokens_per_sample": 10,
    }
    keys = np.zeros((50, 4), np.float32)
    store = make_store(
        "right",
        keys,
        np.array(text[10:]),
        settings=settings,
        vocabulary_size=40,
        dictionary_sha256=Dictionary.load(tmp_path / "dict.txt").sha256(),
    )
    shown = RowText.open(store)
    assert shown is not None
    assert sides(shown, 5, 3, 2) == line_of(text[12:15], text[16:18])
    assert sides(shown, 0, 99, 1) == line_of(text[:10], text[11:12])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert store.manifest is not None
        for changed, reason in (
            ({"data": None}, "does not say of which text"),
            ({"sample_break_mode": None}, "cut by None"),
            ({"data": str(tmp_path / "gone")}, "there is no"),
            ({"context_window": 0}, "holds the value"),
            ({"tokens_per_sample": 20}, "gives 40 rows"),
        ):
            caplog.clear()
            store.manifest = store.manifest.replace(settings={**settings, **changed})
            assert RowText.open(store) is None
            assert reason in caplog.text
        caplog.clear()
        store.manifest = store.manifest.replace(settings=settings, dictionary_sha256="0" * 64)
        assert RowText.open(store) is None
        assert "was written with dictionary 0000" in caplog.text


def test_of_several_texts_those_that_are_there_are_shown(
    make_store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows 0 to 19 are of sentences of train, the other 30 of valid, of which 10 were taken out."""
    texts = {"train": [list(range(4, 14)), list(range(20, 30))], "valid": [RNG.integers(4, 40, 50).tolist()]}
    for split, sentences in texts.items():
        write_split(tmp_path / split, sentences)
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(36)))
    eos = {"data": str(tmp_path / "train"), "sample_break_mode": "eos", "context_window": 0, "tokens_per_sample": 16}
    none = {
        **eos,
        "data": str(tmp_path / "valid"),
        "sample_break_mode": "none",
        "context_window": 10,
        "tokens_per_sample": 10,
    }
    segments = (
        Segment(eos, 20, RowRanges.of([[0, 20]])),
        Segment(none, 40, RowRanges.of([[0, 5], [15, 40]])),
    )
    (valid,) = texts["valid"]
    values = np.array([*range(4, 14), *range(20, 30), *valid[10:15], *valid[25:]])
    store = make_store(
        "two",
        np.zeros((50, 4), np.float32),
        values,
        settings=eos,
        vocabulary_size=40,
        segments=segments,
        dictionary_sha256=Dictionary.load(tmp_path / "dict.txt").sha256(),
    )
    shown = RowText.open(store)
    assert shown is not None and not caplog.records
    assert sides(shown, 11, 2, 2) == line_of([13, 20], [22, 23])
    assert sides(shown, 20, 3, 1) == line_of(valid[7:10], valid[11:12])
    assert sides(shown, 25, 3, 99) == line_of(valid[22:25], valid[26:])
    (tmp_path / "train.idx").unlink()
    with caplog.at_level(logging.WARNING):
        shown = RowText.open(store)
    assert shown is not None and "there is no" in caplog.text
    assert shown.around(11, 2, 2) is None and sides(shown, 20, 3, 1) == line_of(valid[7:10], valid[11:12])
