"""The datastores of a retrieval: ids run on from one to the next, and each row leads to its text."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET

from fairseq.errors import DatastoreError
from fairseq.knn.neighbours.parts import StorePart
from fairseq.knn.retrieval.datastores import RetrievalPart, datastore_record
from fairseq.knn.retrieval.retrieval import Retrieval
from tests.builders.small_retrieval import small_retrieval
from tests.builders.small_store import clustered_keys, write_store

PART = {"data": "bin/train", "context_window": 8, "first_position": 8, "store_id": "s"}


def parts(*bounds: tuple[int, int]) -> list[dict]:
    return [{"prefix": f"d{n}", "offset": offset, "rows": rows, **PART} for n, (offset, rows) in enumerate(bounds)]


@pytest.mark.parametrize(
    ("bounds", "wrong"),
    [
        ([(0, 10), (10, 5)], None),
        ([(0, 10), (10, 5), (15, 1)], None),
        ([(0, 10), (11, 5)], "d1 does not begin at 10"),
        ([(0, 10), (9, 5)], "d1 does not begin at 10"),
        ([(1, 10), (11, 5)], "d0 does not begin at 0"),
        ([(0, 0), (0, 5)], "d0 does not begin at 0"),
        ([(0, 10), (10, 0)], "d1 does not begin at 10"),
    ],
)
def test_parts_lie_one_behind_the_other(bounds: list[tuple[int, int]], wrong: str | None, tmp_path: Path) -> None:
    small_retrieval(tmp_path / "r", datastore={"prefix": "d0:d1", "rows": 15, "parts": parts(*bounds)})
    if wrong is not None:
        with pytest.raises(DatastoreError, match=wrong):
            Retrieval.open(tmp_path / "r")
        return
    found = Retrieval.open(tmp_path / "r").parts
    assert [(part.prefix, part.offset, part.rows) for part in found] == [
        (f"d{n}", offset, rows) for n, (offset, rows) in enumerate(bounds)
    ]
    assert {part.store_id for part in found} == {"s"}
    [text] = found[1].texts
    assert text.map is not None and text.map.positions(np.arange(3)).tolist() == [8, 9, 10]


def opened(directory: Path, **fields: object) -> tuple[RetrievalPart, ...]:
    """Returns the parts of a retrieval whose manifest says this of its datastore."""
    shutil.rmtree(directory, ignore_errors=True)
    small_retrieval(directory, datastore={"prefix": "d", **fields})
    return Retrieval.open(directory).parts


def test_rows_of_several_texts_lead_to_each(tmp_path: Path) -> None:
    """Of the second text rows 2 to 4 were taken out."""
    segments = [
        {"data": "bin/train", "first_position": 3, "rows": 4, "spans": [[0, 4]]},
        {"data": "bin/valid", "first_position": 10, "rows": 3, "spans": [[0, 2], [5, 6]]},
        {"data": None, "first_position": None, "rows": 1, "spans": [[0, 1]]},
    ]
    [part] = opened(tmp_path / "r", rows=8, segments=segments, rows_id="r")
    assert (part.offset, part.rows, part.store_id, part.rows_id) == (0, 8, "s" * 64, "r")
    maps = [text.map for text in part.texts]
    assert [text.data for text in part.texts] == ["bin/train", "bin/valid", None] and maps[2] is None
    assert maps[0].positions(np.arange(4)).tolist() == [3, 4, 5, 6]
    assert maps[1].positions(np.arange(3)).tolist() == [10, 11, 15]
    for wrong in ({"rows": 7}, {"rows": 9}):
        with pytest.raises(DatastoreError, match="must have segments of its"):
            opened(tmp_path / "r", segments=segments, **wrong)
    with pytest.raises(DatastoreError, match="must have spans of its 5 rows, but they have 4"):
        opened(tmp_path / "r", rows=5, segments=[{**segments[0], "rows": 5}])


def test_rows_that_were_never_forgotten_are_known_by_the_datastores_own_id(tmp_path: Path) -> None:
    [part] = opened(tmp_path / "r", rows=8, data="bin/train", first_position=3)
    assert (part.store_id, part.rows_id) == ("s" * 64, "s" * 64)


def test_what_is_recorded_of_a_datastore_is_where_its_rows_come_from(tmp_path: Path) -> None:
    """Rows follow the text from the first full context on: 8 tokens in blocks of 5 begin with the third block."""
    settings = {"data": "bin/train", "context_window": 8, "tokens_per_sample": 5, "sample_break_mode": "none"}
    store = write_store(tmp_path, "d", clustered_keys(20), settings=settings)
    one = datastore_record([StorePart(store, 0)], whole_text=True)
    assert (one.prefix, one.rows, one.data) == (str(store.prefix), 20, "bin/train")
    assert (one.context_window, one.first_position, one.rows_id, one.parts) == (8, 10, UNSET, UNSET)
    assert datastore_record([StorePart(store, 0)], whole_text=False).first_position is None
    forgotten = replace(store, store_id="f" * 64)
    assert datastore_record([StorePart(forgotten, 0)], whole_text=True).rows_id == store.rows_id
    assert datastore_record([StorePart(replace(store, manifest=None), 0)], whole_text=True).data is None
    two = datastore_record([StorePart(store, 0), StorePart(forgotten, 20)], whole_text=True)
    assert (two.prefix, two.rows, two.data) == (f"{store.prefix}:{store.prefix}", 40, None)
    assert [(part.offset, part.store_id) for part in two.parts or ()] == [(0, store.store_id), (20, "f" * 64)]
