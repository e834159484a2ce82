"""Dataclasses in fairseq's manner: their fields are flags, and a default may be another flag's value."""

from dataclasses import dataclass, field
from typing import List, Optional  # noqa: UP035 - as plugins write them

import pytest

from fairseq.config.command_line import make_parser, parse
from fairseq.config.fairseq_fields import filled_in
from fairseq.config.flags import flag_fields, resolve
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.errors import ConfigError

MODES = ChoiceEnum(["sum", "mean"])


@dataclass
class FocalConfig(FairseqDataclass):
    """Criterion focal."""

    gamma: float = field(default=2.0, metadata={"help": "exponent", "argparse_alias": "-g"})
    rank: Optional[int] = field(default=None, metadata={"help": "rank"})  # noqa: UP045
    scales: List[int] = field(default_factory=lambda: [1, 2], metadata={"help": "scales"})  # noqa: UP006
    mode: MODES = field(default="sum", metadata={"help": "how"})  # type: ignore[valid-type]
    loud: bool = field(default=False, metadata={"help": "say more"})
    sentence_avg: bool = "${optimization.sentence_avg}"  # type: ignore[assignment]
    rate: float = field(default="${optimization.lr}", metadata={"help": "rate"})  # type: ignore[assignment]


def build(*words: str) -> FocalConfig:
    return parse("prog", "", (FocalConfig,), words).build(FocalConfig)


def test_every_field_is_a_flag_but_for_references() -> None:
    assert list(flag_fields(FocalConfig)) == ["gamma", "rank", "scales", "mode", "loud", "rate"]
    config = build("-g", "1.5", "--rank", "3", "--scales", "4,5", "--mode", "mean", "--loud", "--rate", "0.5")
    assert (config.gamma, config.rank, config.scales, config.mode, config.loud) == (1.5, 3, [4, 5], "mean", True)
    assert config.rate == 0.5


def test_what_is_not_given_has_the_default_of_its_field() -> None:
    config = build()
    assert (config.gamma, config.rank, config.scales, config.mode, config.loud) == (2.0, None, [1, 2], "sum", False)


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--gamma", "x"), "--gamma must be a number"), (("--mode", "max"), "--mode must be one of sum, mean, but is")],
)
def test_values_are_checked(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(*words)


def test_a_reference_is_the_value_of_the_flag_that_it_names() -> None:
    config = filled_in(build(), {"sentence_avg": True, "lr": 0.25})
    assert (config.sentence_avg, config.rate) == (True, 0.25)
    assert filled_in(build("--rate", "1"), {"sentence_avg": False, "lr": 0.25}).rate == 1.0
    assert filled_in(None, {}) is None


def test_a_reference_to_no_flag_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"FocalConfig.sentence_avg must name a flag, but names \$\{optimization.sen"):
        filled_in(build(), {"sentence_av": True, "lr": 0.25})


def test_an_enumerated_default_becomes_its_word() -> None:
    @dataclass
    class Config(FairseqDataclass):
        mode: MODES = field(default=MODES("mean"), metadata={"help": "how"})  # type: ignore[valid-type]

    config = filled_in(Config(), {})
    assert type(config.mode) is str
    assert config.mode == "mean"


def test_the_help_shows_them_as_any_other() -> None:
    text = " ".join(make_parser("prog", "", (FocalConfig,)).format_help().split())
    assert "Criterion focal" in text
    assert "exponent [default: 2]" in text
    assert "{sum,mean} how [default: sum]" in text
    assert "scales [default: 1,2]" in text
    assert "rate [default: that of --lr]" in text


def test_choices_may_be_numbers() -> None:
    @dataclass
    class Config(FairseqDataclass):
        level: int = field(default=1, metadata={"help": "how much", "argparse_choices": [1, 2]})

    def level(word: str) -> int:
        return parse("prog", "", (Config,), ("--level", word)).build(Config).level

    assert level("2") == 2
    with pytest.raises(ConfigError, match="--level must be one of 1, 2, but is 7"):
        level("7")
    assert "{1,2} how much" in " ".join(make_parser("prog", "", (Config,)).format_help().split())


def test_a_default_of_none_is_one_whatever_the_type_says() -> None:
    @dataclass
    class Config(FairseqDataclass):
        rank: int = field(default=None, metadata={"help": "rank"})  # type: ignore[assignment]

    assert resolve(Config, {"rank": None}).rank is None
    with pytest.raises(ConfigError, match="--rank must be a whole number, but is 'x'"):
        resolve(Config, {"rank": "x"})


@dataclass
class BareConfig(FairseqDataclass):
    penalty_beta: float = 0.1
    words: List[int] = field(default_factory=list)  # noqa: UP006
    _name: str = "bare"
    made: int = field(default=1, init=False)
    sentence_avg: bool = "${optimization.sentence_avg}"  # type: ignore[assignment]


def test_a_field_without_metadata_is_a_flag() -> None:
    assert list(flag_fields(BareConfig)) == ["penalty_beta", "words"]
    config = parse("prog", "", (BareConfig,), ("--penalty-beta", "0.25")).build(BareConfig)
    assert (config.penalty_beta, config.words) == (0.25, [])
