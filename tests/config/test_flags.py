"""Config dataclasses: types, ranges, the order of layers, and flags without effect."""

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.config.flags import Flags, as_dict, coerce, flag, flag_name, parse_literal_dict, resolve
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class Model:
    """Model."""

    layers: int = flag(6, "layers", minimum=1)
    dropout: float = flag(0.1, "dropout", minimum=0, maximum=1)
    cutoff: tuple[int, ...] = flag((), "bands", minimum=1)
    kind: str = flag("relu", "activation", choices=("relu", "gelu"))
    positions: int | None = flag(None, "positions", minimum=1)
    old: bool = flag(False, "old", no_effect="always on")


@dataclass(frozen=True)
class Other:
    """Other."""

    path: str = flag(dataclasses.MISSING, "where it is")
    extra: float = flag(1.0, "extra")


def test_defaults() -> None:
    assert resolve(Model) == Model(6, 0.1, (), "relu", None, False)


LAYERS = [
    ("default", {}),
    ("preset", {"layers": 2}),
    ("checkpoint", {"layers": 3}),
    ("overrides", {"layers": 4}),
    ("typed", {"layers": "5"}),
]


@pytest.mark.parametrize("strongest", range(1, len(LAYERS)))
def test_a_stronger_layer_wins(strongest: int) -> None:
    layers = [values for _, values in LAYERS[: strongest + 1]]
    assert resolve(Model, *layers).layers == int(LAYERS[strongest][1]["layers"])


@given(st.lists(st.dictionaries(st.sampled_from(["layers", "positions"]), st.integers(1, 99)), max_size=5))
def test_each_field_comes_from_the_last_layer_that_has_it(layers: list[dict[str, int]]) -> None:
    merged: dict[str, Any] = {"layers": 6, "positions": None}
    for layer in layers:
        merged.update(layer)
    config = resolve(Model, *layers)
    assert (config.layers, config.positions) == (merged["layers"], merged["positions"])


def test_typed_flags_win_over_every_layer() -> None:
    config = Flags({"dropout": "0.4"}, (Model,)).build(Model, {"dropout": 0.1, "layers": 2}, {"dropout": 0.2})
    assert (config.dropout, config.layers) == (0.4, 2)


def test_unknown_keys_of_a_checkpoint_are_ignored() -> None:
    assert resolve(Model, {"encoder_layers": 3}) == Model()


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("7", int, 7),
        (7.0, int, 7),
        ("0.5", float, 0.5),
        ("1e-07", float, 1e-7),
        (3, float, 3.0),
        ("inf", float, math.inf),
        ("-1", float, -1.0),
        (True, bool, True),
        (1, bool, True),
        (0, bool, False),
        ("text", str, "text"),
        ("a,b", str, "a,b"),
        (None, int | None, None),
        ("4", int | None, 4),
        ("20000,60000", tuple[int, ...], (20000, 60000)),
        ("(0.9, 0.98)", tuple[float, ...], (0.9, 0.98)),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ([1, 2], tuple[int, ...], (1, 2)),
        ("3", tuple[int, ...], (3,)),
        (3, tuple[int, ...], (3,)),
        (0.25, tuple[float, ...], (0.25,)),
        ("", tuple[int, ...], ()),
    ],
)
def test_coerce(value: Any, annotation: Any, expected: Any) -> None:
    got = coerce(value, annotation, "--x")
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "words"),
    [
        ("7.5", int, "a whole number"),
        (7.5, int, "a whole number"),
        ("many", int, "a whole number"),
        ("", int, "a whole number"),
        (True, int, "a whole number"),
        (None, int, "a whole number"),
        ([1], int, "a whole number"),
        ("nan", float, "a number"),
        ("1,5", float, "a number"),
        (math.inf, int, "a whole number"),
        ("yes", bool, "true or false"),
        (2, bool, "true or false"),
        (3, str, "text"),
        ("1,x", tuple[int, ...], "a whole number"),
        ("(1,", tuple[int, ...], "a comma-separated list of numbers"),
        ("(__import__('os'),)", tuple[int, ...], "a comma-separated list of numbers"),
        ("many", int | None, "a whole number"),
    ],
)
def test_coerce_refuses(value: Any, annotation: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        coerce(value, annotation, "--x")
    assert str(caught.value).startswith(f"--x must be {words}, but is ")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"layers": "0"}, "--layers must be at least 1, but is 0"),
        ({"dropout": "1.5"}, "--dropout must be at most 1, but is 1.5"),
        ({"cutoff": "5,0"}, "--cutoff must be at least 1, but is 0"),
        ({"kind": "rellu"}, "--kind must be one of relu, gelu, but is 'rellu'; did you mean relu?"),
        ({"positions": "0"}, "--positions must be at least 1, but is 0"),
    ],
)
def test_a_value_out_of_range_is_named(typed: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Flags(typed, (Model,)).build(Model)
    assert str(caught.value) == message


def test_a_required_flag_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="--path is required: where it is"):
        resolve(Other)


def test_a_flag_that_nothing_uses_warns_once_with_its_value(caplog: pytest.LogCaptureFixture) -> None:
    flags = Flags({"layers": "3", "extra": "2.5"}, (Model, Other))
    flags.build(Model)
    flags.warn_unused()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == ["--extra 2.5 has no effect: it belongs to Other, which was not chosen"]


def test_a_flag_without_its_switch_names_the_switch(caplog: pytest.LogCaptureFixture) -> None:
    flags = Flags({"layers": "3"}, (Model, Other))
    assert flags.build_if(Model, "extra").layers == 3
    flags.warn_unused()
    assert caplog.messages == ["--layers 3 has no effect: it needs --extra"]
    caplog.clear()
    flags = Flags({"layers": "3", "extra": "1"}, (Model, Other))
    flags.build_if(Model, "path", "extra")
    flags.build(Other, {"path": "p"})
    flags.warn_unused()
    assert not caplog.messages


def test_a_flag_that_was_used_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    flags = Flags({"layers": "3"}, (Model,))
    flags.build(Model)
    flags.warn_unused()
    assert not caplog.records


def test_what_was_typed_of_a_config_is_given_away_checked_and_used(caplog: pytest.LogCaptureFixture) -> None:
    flags = Flags({"layers": "3", "extra": "2.5"}, (Model, Other))
    assert flags.given(Model) == {"layers": "3"}
    flags.warn_unused()
    assert caplog.messages == ["--extra 2.5 has no effect: it belongs to Other, which was not chosen"]
    with pytest.raises(ConfigError, match="--layers must be a whole number"):
        Flags({"layers": "many"}, (Model,)).given(Model)


def test_a_flag_without_effect_warns_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    """It is named as it was typed: a switch has no value."""
    flags = Flags({"old": True, "extra": "2"}, (Model, Other))
    flags.build(Model)
    flags.warn_unused("here")
    assert caplog.messages == ["--old has no effect: always on", "--extra 2 has no effect: here"]
    caplog.clear()
    Flags({"old": False}, (Model,)).warn_unused()
    assert caplog.messages == ["--no-old has no effect: always on"]


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Model().layers = 2  # type: ignore[misc]


def test_flag_name() -> None:
    assert flag_name("max_tokens") == "--max-tokens"


def test_as_dict_is_flat_and_the_last_wins() -> None:
    assert as_dict(Model(layers=2), Other(extra=3.0, path="p"))["layers"] == 2
    assert as_dict(Model(layers=2), Model(layers=4))["layers"] == 4


@pytest.mark.parametrize("text", ["{}", "{'a': 1}", "{'a': (1, 2), 'b': None, 'c': 'x'}", '{"a": -1.5}'])
def test_a_literal_dict_is_read(text: str) -> None:
    assert set(parse_literal_dict(text, "--model-overrides")) <= {"a", "b", "c"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{1: 2}",
        "{'a'",
        "{'a': x}",
        "dict(a=1)",
        "__import__('os').system('true')",
        "{'a': __import__('os')}",
        "{'a': 1}.update()",
        "[].__class__",
        "lambda: 0",
        "{'a': 1 if True else 2}",
        "(" * 5000,
        "{" * 5000,
    ],
)
def test_anything_but_a_literal_dict_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--model-overrides must be a "):
        parse_literal_dict(text, "--model-overrides")
