"""From dataclasses to a command line: spellings, values, suggestions, ``--help``."""

import sys
from dataclasses import dataclass

import pytest

from fairseq import __version__
from fairseq.config.command_line import load_plugins, make_parser, parse
from fairseq.config.flags import flag
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class First:
    """First group.

    Prose that the help leaves out.
    """

    data: str = flag("data-bin", "where the data is", positional=True)
    dstore_mmap: str | None = flag(None, "prefix")
    max_tokens: int | None = flag(None, "tokens; 100 % of them", minimum=1)
    max_sentences: int | None = flag(None, "rows", aliases=("--batch-size",))
    lr: tuple[float, ...] = flag((0.25, 0.5), "rate")
    fast: bool = flag(False, "fast")
    remove_bpe: str | None = flag(None, "mark", optional_value="@@ ")
    mode: str = flag("none", "mode", choices=("none", "eos"))
    old: bool = flag(False, "old", no_effect="always on")
    min_lr: float = flag(-1.0, "lowest")


@dataclass(frozen=True)
class Second:
    """Second group."""

    max_tokens: int | None = flag(7, "declared by First already")
    warmup: int = flag(0, "updates")


def typed(*words: str) -> dict[str, object]:
    return parse("prog", "does it", (First, Second), words).typed


def test_only_what_was_typed_is_recorded() -> None:
    assert typed() == {}
    assert typed("--warmup", "3") == {"warmup": "3"}


def test_the_positional_stands_anywhere() -> None:
    assert typed("dir", "--fast") == typed("--fast", "dir") == {"data": "dir", "fast": True}


@pytest.mark.parametrize("word", ["--dstore-mmap", "--dstore_mmap"])
def test_underscores_andhyphens_are_one_flag(word: str) -> None:
    assert typed(word, "a_b") == typed(f"{word}=a_b") == {"dstore_mmap": "a_b"}


def test_a_value_keeps_its_underscores() -> None:
    assert typed("--dstore_mmap=a_b=c_d") == {"dstore_mmap": "a_b=c_d"}


def test_an_alias_sets_the_same_field() -> None:
    assert typed("--batch-size", "4") == typed("--max-sentences", "4") == {"max_sentences": "4"}


def test_a_negative_number_is_a_value() -> None:
    assert typed("--min-lr", "-1") == typed("--min-lr=-1") == {"min_lr": "-1"}


def test_a_flag_whose_value_may_be_left_out() -> None:
    assert typed("--remove-bpe") == {"remove_bpe": "@@ "}
    assert typed("--remove-bpe", "##") == {"remove_bpe": "##"}
    assert typed("--remove-bpe", "--fast") == {"remove_bpe": "@@ ", "fast": True}


def test_the_last_of_two_wins() -> None:
    assert typed("--warmup", "3", "--warmup", "4") == {"warmup": "4"}


def test_a_mistyped_flag_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        typed("--max-token", "4")
    assert str(caught.value) == ("unrecognised argument --max-token; did you mean --max-tokens? (see prog --help)")


def test_a_name_that_stands_as_a_flag_is_answered_with_the_flag_that_takes_it() -> None:
    @dataclass(frozen=True)
    class Named:
        rate: str = flag("fixed", "schedule", choices=lambda: ("fixed", "inverse_sqrt"))
        mode: str = flag("none", "mode", choices=("none", "eos"))

    for word in ("--inverse_sqrt", "--inverse-sqrt"):
        with pytest.raises(ConfigError) as caught:
            parse("prog", "does it", (Named,), [word])
        assert str(caught.value) == "unrecognised argument --inverse-sqrt; write --rate inverse_sqrt (see prog --help)"
    with pytest.raises(ConfigError, match=r"^unrecognised argument --eos \(see prog --help\)$"):
        parse("prog", "does it", (Named,), ["--eos"])  # "none" and "eos" are of many flags


def test_a_prefix_is_not_taken_for_a_flag() -> None:
    with pytest.raises(ConfigError, match="unrecognised argument --warm"):
        typed("--warm", "4")


def test_a_flag_without_its_value() -> None:
    with pytest.raises(ConfigError, match="--warmup: expected one argument"):
        typed("--warmup")


def test_the_help_names_groups_defaults_choices_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("prog", "does it", (First, Second), ["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "First group:" in text
    assert "Second group:" in text
    assert "Prose" not in text
    assert "100 % of them" in text
    assert "rate [default: 0.25,0.5]" in text
    assert "--mode {none,eos} mode [default: none]" in text
    assert "Accepted without effect, for old command lines: --old old; no effect: always on" in text
    assert "--max-sentences MAX" not in text
    assert "--batch-size" in text


def test_a_flag_that_two_groups_share_is_declared_once() -> None:
    text = make_parser("prog", "does it", (First, Second, Second)).format_help()
    assert "declared by First already" not in text
    assert text.count("Second group:") == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("prog", "does it", (First,), ["--version"])
    assert capsys.readouterr().out == f"prog {__version__}\n"


@pytest.mark.parametrize("words", [["--user-dir", "/nowhere"], ["--user_dir=/nowhere"]])
def test_plugins_are_looked_for_before_the_parser_is_built(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--user-dir must be a directory"):
        load_plugins(words)


def test_no_plugins_is_fine() -> None:
    before = set(sys.modules)
    load_plugins(["--whatever", "3"])
    assert set(sys.modules) == before, "nothing was imported"
