"""Flags of ``add_args(parser)``: each acts as argparse's does, or is refused in one line."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from fairseq.config.command_line import make_parser, parse
from fairseq.config.flags import flag
from fairseq.errors import ConfigError
from fairseq.plugins.added_flags import with_added_flags

Adding = Callable[[Any], None]


@dataclass(frozen=True)
class Frozen:
    """A frozen config."""

    width: int = flag(8, "width")


@dataclass
class Thawed:
    """One in fairseq's manner."""

    width: int = flag(8, "width")


def config_with(add: Adding, base: type = Frozen) -> Any:
    owner = type("Owner", (), {"add_args": staticmethod(add)})
    return with_added_flags(owner, base)


def typed(config: Any, *words: str) -> Any:
    return parse("prog", "", (config,), words).build(config)


# What is added, and words; the name is that of the attribute.
LIKE_ARGPARSE: list[tuple[tuple[str, ...], dict[str, Any], list[list[str]]]] = [
    (("--mine",), dict(type=int, default=3), [[], ["--mine", "4"]]),
    (("--mine",), dict(type=float), [[], ["--mine", "0.5"]]),
    (("--mine",), dict(default="a", choices=["a", "b"]), [[], ["--mine", "b"]]),
    (("--mine",), dict(type=int, choices=[1, 2]), [[], ["--mine", "2"]]),
    (("--mine",), dict(type=int, choices=range(3), default=0), [[], ["--mine", "2"]]),
    (("--mine",), dict(type=float, choices=[0.5, 1], default=1.0), [[], ["--mine", "0.5"], ["--mine", "1"]]),
    (("--mine",), dict(type=float, default="0.5"), [[], ["--mine", "2"]]),
    (("--mine",), dict(action="store_true"), [[], ["--mine"]]),
    (("--no-mine",), dict(action="store_false", dest="mine"), [[], ["--no-mine"]]),
    (("-m", "--mine", "--my-own"), dict(type=int, dest="mine"), [["-m", "1"], ["--mine", "2"], ["--my-own", "3"]]),
    (("--other",), dict(type=int, dest="mine", default=1), [[], ["--other", "2"]]),
    (("--mine",), dict(type=int, required=True), [["--mine", "2"]]),
]


@pytest.mark.parametrize("base", [Frozen, Thawed])
@pytest.mark.parametrize(("names", "given", "lines"), LIKE_ARGPARSE)
def test_values_are_those_of_argparse(
    names: tuple[str, ...], given: dict[str, Any], lines: list[list[str]], base: type
) -> None:
    config = config_with(lambda parser: parser.add_argument(*names, **given), base)
    parser = argparse.ArgumentParser()
    parser.add_argument(*names, **given)
    for words in lines:
        found, expected = typed(config, *words).mine, parser.parse_args(words).mine
        assert (found, type(found)) == (expected, type(expected))


def test_a_list_is_a_tuple_of_its_type() -> None:
    config = config_with(lambda parser: parser.add_argument("--mine", type=int, default=[1, 2]))
    assert typed(config).mine == (1, 2)
    assert typed(config, "--mine", "3,4,5").mine == (3, 4, 5)


def test_a_required_flag_must_be_there() -> None:
    config = config_with(lambda parser: parser.add_argument("--mine", type=int, required=True, help="mine"))
    with pytest.raises(ConfigError, match="--mine is required: mine"):
        typed(config)


@pytest.mark.parametrize(
    ("kind", "choices", "word"), [(int, [1, 2], "7"), (float, [0.5, 1.5], "0.7"), (str, "ab", "c")]
)
def test_another_than_the_choices_is_refused(kind: type, choices: Any, word: str) -> None:
    config = config_with(lambda parser: parser.add_argument("--mine", type=kind, choices=choices))
    with pytest.raises(ConfigError, match="--mine must be one of "):
        typed(config, "--mine", word)
    assert f"{{{','.join(map(str, choices))}}}" in make_parser("prog", "", (config,)).format_help()


def test_the_default_is_told_once() -> None:
    config = config_with(
        lambda parser: parser.add_argument("--mine", type=int, default=3, help="in 5%% of cases (default: %(default)s)")
    )
    assert "in 5% of cases [default: 3]" in make_parser("prog", "", (config,)).format_help()


def test_groups_are_parsers_and_a_flag_that_is_there_stays() -> None:
    def add(parser: Any) -> None:
        parser.add_argument_group("mine").add_argument("--mine", type=int, default=1)
        parser.add_mutually_exclusive_group().add_argument("--width", type=int, default=99)

    assert (typed(config_with(add)).mine, typed(config_with(add)).width) == (1, 8)
    assert config_with(lambda parser: None) is Frozen


REFUSED: dict[str, tuple[Adding, str]] = {
    "a function as type": (
        lambda parser: parser.add_argument("--mine", type=lambda text: text.split(",")),
        "--mine with type=<lambda>, not str, int, float or bool, which is not supported here; make it a field of a",
    ),
    "nargs": (lambda parser: parser.add_argument("--mine", type=int, nargs="+"), "--mine with nargs='+', which is not"),
    "append": (lambda parser: parser.add_argument("--mine", action="append"), "--mine with action='append', which is"),
    "a class as action": (
        lambda parser: parser.add_argument("--mine", action=argparse.BooleanOptionalAction),
        "--mine with action='BooleanOptionalAction', which is",
    ),
    "off by another name": (
        lambda parser: parser.add_argument("--quiet", action="store_false", dest="loud"),
        "--quiet with action='store_false', not as --no-… of its dest, which is",
    ),
    "a default of another type": (
        lambda parser: parser.add_argument("--mine", type=int, default="auto"),
        "--mine of which its default must be a whole number, but is 'auto', which is",
    ),
    "a default that is no value": (
        lambda parser: parser.add_argument("--mine", default={}),
        "--mine of which its default must be text, but is {}",
    ),
    "choices of another type": (
        lambda parser: parser.add_argument("--mine", type=int, choices=["a"]),
        "--mine of which a choice must be a whole number, but is 'a'",
    ),
    "a positional argument": (lambda parser: parser.add_argument("mine"), "mine as a positional argument, which is"),
    "set_defaults": (lambda parser: parser.set_defaults(width=3), "--width by set_defaults, which is not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_flag_cannot_do_is_refused_in_a_line(case: str) -> None:
    add, message = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        config_with(add)
    assert f"Owner.add_args adds {message}" in str(caught.value)
    assert "\n" not in str(caught.value)
