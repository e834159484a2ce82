"""Records: what JSON may say, and the one line for each thing that it may not."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from fairseq.errors import DataError, DatastoreError, FairseqError, shown
from fairseq.storage.records import Count, Positive, Record, as_json, parse, read_record, write_record


class Odd:
    """Something that JSON does not have: an odd number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def to_json(self) -> int:
        return self.value

    @classmethod
    def from_json(cls, value: Any) -> "Odd":
        if not isinstance(value, int) or value % 2 == 0:
            raise ValueError(f"must be odd, but is {shown(value)}")
        return cls(value)


class Round(Record, frozen=True, tag_field="shape", tag="round"):
    radius: float


class Square(Record, frozen=True, tag_field="shape", tag="square"):
    side: float


class Part(Record, frozen=True):
    rows: Positive
    state: Literal["new", "old"] = "new"

    def __post_init__(self) -> None:
        if self.rows == 13:
            raise ValueError("must not have 13 rows")


class Thing(Record, frozen=True, kw_only=True):
    rows: Count
    share: float = 0.5
    name: str | None = None
    state: Literal["writing", "complete"] = "writing"
    parts: tuple[Part, ...] | UnsetType = UNSET
    shape: Round | Square | UnsetType = UNSET
    odd: Odd | UnsetType = UNSET
    pair: Annotated[list[int], Meta(min_length=2)] | UnsetType = UNSET
    code: Annotated[str, Meta(pattern="^[0-9a-f]+$")] | UnsetType = UNSET
    settings: dict[str, Any] | UnsetType = UNSET
    by_name: dict[str, float] | UnsetType = UNSET
    kind: Literal["thing"] = "thing"
    version: Literal[2] = 2


SOUND = {"rows": 3, "kind": "thing", "version": 2}


def read(text: str | bytes) -> Thing:
    return parse(text, Thing, "a.json", DatastoreError, "restore it")


def test_a_record_is_written_as_json_has_it_and_read_again(tmp_path: Path) -> None:
    """Fields in their order, none that is UNSET, unknown values by their own methods."""
    thing = Thing(
        rows=3, parts=(Part(1), Part(2, "old")), shape=Round(2.0), odd=Odd(7), settings={"λ": [np.float64(0.1)]}
    )
    write_record(tmp_path / "a.json", thing)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        **SOUND,
        "share": 0.5,
        "name": None,
        "state": "writing",
        "parts": [{"rows": 1, "state": "new"}, {"rows": 2, "state": "old"}],
        "shape": {"shape": "round", "radius": 2.0},
        "odd": 7,
        "settings": {"λ": [0.1]},
    }
    assert list(json.loads(text)) == [
        "rows",
        "share",
        "name",
        "state",
        "parts",
        "shape",
        "odd",
        "settings",
        "kind",
        "version",
    ]
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
    again = read_record(tmp_path / "a.json", Thing, DatastoreError, "restore it")
    assert isinstance(again.odd, Odd) and again.odd.value == 7
    assert again.replace(odd=UNSET) == thing.replace(odd=UNSET)
    assert thing.replace(rows=4).rows == 4 and thing.rows == 3


def test_what_is_not_finite_is_written_and_read(tmp_path: Path) -> None:
    """As the losses of a split with a word that has no probability."""
    write_record(tmp_path / "a.json", Thing(rows=1, share=math.inf))
    assert "Infinity" in (tmp_path / "a.json").read_text()
    assert read_record(tmp_path / "a.json", Thing, DatastoreError, "").share == math.inf
    assert math.isnan(read(json.dumps({**SOUND, "share": math.nan})).share)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rows": ...}, "a.json lacks the field 'rows'; restore it"),
    ({"rows": -1}, "a.json: 'rows' must be at least 0, but is -1; restore it"),
    ({"rows": 1.5}, "a.json: 'rows' must be a whole number, but is 1.5; restore it"),
    ({"rows": True}, "a.json: 'rows' must be a whole number, but is True; restore it"),
    ({"rows": None}, "a.json: 'rows' must be a whole number, but is None; restore it"),
    ({"rows": "3"}, "a.json: 'rows' must be a whole number, but is '3'; restore it"),
    ({"rows": math.inf}, "a.json: 'rows' must be a whole number, but is inf; restore it"),
    ({"rows": 10**17}, f"a.json: 'rows' must be at most {2**53}, but is {10**17}; restore it"),
    ({"share": "x" * 200}, f"a.json: 'share' must be a number, but is '{'x' * 79}… (202 characters); restore it"),
    ({"share": 10**400}, f"a.json: 'share' must be a finite number, but is 1{'0' * 79}… (401 characters); restore it"),
    ({"name": 3}, "a.json: 'name' must be text or null, but is 3; restore it"),
    ({"state": "done"}, "a.json: 'state' must be writing or complete, but is 'done'; restore it"),
    ({"state": "a - at `$.rows`"}, "a.json: 'state' must be writing or complete, but is 'a - at `$.rows`'; restore it"),
    ({"parts": {}}, "a.json: 'parts' must be a list, but is {}; restore it"),
    ({"parts": None}, "a.json: 'parts' must be a list, but is None; restore it"),
    ({"parts": [{"rows": 1}, 7]}, "a.json: 'parts[1]' must be an object, but is 7; restore it"),
    ({"parts": [{}]}, "a.json: 'parts[0]' lacks the field 'rows'; restore it"),
    ({"parts": [{"rows": 0}]}, "a.json: 'parts[0].rows' must be at least 1, but is 0; restore it"),
    ({"parts": [{"rows": 1, "state": "x"}]}, "a.json: 'parts[0].state' must be new or old, but is 'x'; restore it"),
    ({"parts": [{"rows": 1, "x": 2}]}, "a.json: 'parts[0]' has the unknown field 'x'; restore it"),
    ({"parts": [{"rows": 13}]}, "a.json: 'parts[0]' must not have 13 rows; restore it"),
    ({"shape": {}}, "a.json: 'shape' lacks the field 'shape'; restore it"),
    ({"shape": {"shape": "oval"}}, "a.json: 'shape.shape' must be round or square, but is 'oval'; restore it"),
    ({"shape": {"shape": "round", "side": 1}}, "a.json: 'shape' has the unknown field 'side'; restore it"),
    ({"odd": 4}, "a.json: 'odd' must be odd, but is 4; restore it"),
    ({"pair": [1]}, "a.json: 'pair' must have at least 2 entries, but is [1]; restore it"),
    ({"code": "../x"}, "a.json: 'code' must match '^[0-9a-f]+$', but is '../x'; restore it"),
    ({"settings": []}, "a.json: 'settings' must be an object, but is []; restore it"),
    ({"by_name": {"a]b": "x"}}, "a.json: a value of 'by_name' must be a number; restore it"),
    ({"a`b\n": 1}, "a.json has the unknown field 'a`b\\n'; restore it"),
    ({"kind": "other"}, "a.json must be of kind 'thing', but is of kind 'other'; check the path"),
    ({"kind": ...}, "a.json must be of kind 'thing', but is of none; check the path"),
    ({"version": 3}, "a.json is of version 3, but this program reads version 2; update it"),
    ({"version": ..., "x": 1}, "a.json is of version None, but this program reads version 2; update it"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[8:60] for _, message in REFUSED])
def test_what_is_refused_and_in_which_words(changes: dict[str, Any], message: str) -> None:
    record = {name: value for name, value in {**SOUND, **changes}.items() if value is not ...}
    with pytest.raises(DatastoreError) as caught:
        read(json.dumps(record))
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["[1]", "7", "null", '"thing"', "NaN"])
def test_what_is_no_object_is_of_no_kind(text: str) -> None:
    with pytest.raises(DatastoreError, match=r"^a\.json must be of kind 'thing', but is of none; check the path$"):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"kind": "th',
        b"\xff\xfe\0",
        b'{"kind": "\xe9"}',
        b"9" * 9999,
        b"[" * 99_999,
        b'{"a":' * 99_999,
        b"[" * 99_999 + b"]" * 99_999,
        b"{} {}",
    ],
    ids=range(10),
)
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(DatastoreError, match=r"^a\.json must be JSON, but is not \(.*\); restore it$") as caught:
        read(text)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("depth", [10, 100, 900, 990, 2000])
@pytest.mark.parametrize("name", ["settings", "rows", "parts", "odd", "more"])
def test_deep_values_are_read_or_refused(name: str, depth: int) -> None:
    """Also where the parser just takes them, and msgspec or showing them would not."""
    text = f'{{"kind": "thing", "version": 2, "rows": 1, "{name}": {"[" * depth}{"]" * depth}}}'
    with pytest.raises(DatastoreError, match=r"^a\.json"):
        read(text)
    if name == "settings" and depth < 500:
        assert read(text.replace(": [", ': {"x": [').replace("]}", "]}}")).settings


def test_of_a_field_that_stands_twice_the_last_counts() -> None:
    assert read('{"kind": "thing", "version": 2, "rows": 1, "rows": 2}').rows == 2


def test_types_of_no_kind_and_other_errors() -> None:
    assert parse('{"a": 1}', dict[str, int], "its tied", DataError, "convert it again") == {"a": 1}
    with pytest.raises(DataError, match=r"^its tied must be an object, but is \[\]; convert it again$"):
        parse("[]", dict[str, int], "its tied", DataError, "convert it again")


def test_a_file_that_is_not_there_is_the_caller_s_business(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "none.json", Thing, DatastoreError, "")


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(["rows", "state", "shape", "radius"]), st.text(max_size=3)), inner),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.one_of(st.sampled_from(Thing.__struct_fields__), st.text(max_size=3)), values, max_size=4))
@example(changes={"odd": "\n"})
def test_whatever_it_says_it_is_read_or_refused_in_one_line(changes: dict[str, Any]) -> None:
    try:
        thing = read(json.dumps({**SOUND, **changes}))
    except FairseqError as err:
        assert str(err).startswith("a.json") and "\n" not in str(err) and len(str(err)) < 300
        return
    assert msgspec.convert(as_json(thing), Thing, dec_hook=lambda cls, value: cls.from_json(value)).rows == thing.rows
