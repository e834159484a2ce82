"""Every flag of fairseq 0.12's commands is one of ours, has no effect, or is refused by name; never two of these.

``peer_flags.json`` is the list: ``tests/builders/peer_flags_child.py`` asked fairseq's own parsers for it.
"""

import json
import logging
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from fairseq.config.command_line import hyphens, make_parser, parse
from fairseq.config.foreign.accepted import COMMANDS as LETTERS
from fairseq.config.foreign.accepted import NO_EFFECT
from fairseq.config.foreign.reading import foreign_flags, parse_flags
from fairseq.config.foreign.refused import REFUSED
from fairseq.config.registry import load
from fairseq.errors import ConfigError
from fairseq_cli.shared.commands import COMMANDS
from tests.builders.flags_page import PAGE, page
from tests.builders.peer import ENVIRONMENT, ROOT, peer_python

PEER_FLAGS: dict[str, dict[str, list[object]]] = json.loads(
    Path(__file__).with_name("peer_flags.json").read_text(encoding="utf-8")
)
PROGS = [prog for prog in PEER_FLAGS if prog in COMMANDS]


def ours(prog: str) -> dict[str, str]:
    """Returns our own flags of a command, and what each takes."""
    actions = make_parser(prog, "", load(COMMANDS[prog])())._actions
    takes = {0: "", None: "VALUE", "?": "[VALUE]"}
    return {name: takes.get(action.nargs, "") for action in actions for name in action.option_strings}


def test_the_list_is_of_every_command_of_fairseqs_that_we_have() -> None:
    assert set(PEER_FLAGS) == set(LETTERS)
    assert len(PROGS) == 6
    assert all(len(flags) > 100 for flags in PEER_FLAGS.values())


@pytest.mark.parametrize("prog", PROGS)
def test_every_flag_of_fairseqs_is_in_one_place(prog: str) -> None:
    """An alias belongs to its flag; what a flag takes is what it takes there."""
    own, table = ours(prog), foreign_flags(prog)
    names = {hyphens(name) for spelled in PEER_FLAGS[prog] for name in spelled.split()}
    assert names - set(own) - set(table) == set()
    assert set(own) & set(table) == set()
    for spelled, (takes, *_) in PEER_FLAGS[prog].items():
        for name in map(hyphens, spelled.split()):
            if name in table:
                assert table[name].takes == takes, name
                assert {hyphens(word) for word in spelled.split()} <= set(table[name].names), name


@pytest.mark.parametrize("prog", LETTERS)
def test_no_flag_stands_in_the_table_twice(prog: str) -> None:
    tables = ((NO_EFFECT, False), (REFUSED, True))
    families = [(family, refused) for table, refused in tables for family in table if LETTERS[prog] in family.commands]
    names = [name for family, refused in families for f in parse_flags(family, refused=refused) for name in f.names]
    assert [name for name, number in Counter(names).items() if number > 1] == []


@pytest.mark.parametrize("prog", PROGS)
def test_fairseqs_defaults_are_accepted_in_silence(prog: str) -> None:
    table, words = foreign_flags(prog), list[str]()
    for spelled, (takes, *defaults) in PEER_FLAGS[prog].items():
        name = hyphens(spelled.split()[0])
        for default in defaults:
            if name in table and takes == "VALUE" and default not in (None, "???"):  # the latter: none, but needed
                words += [name, str(default)]
    assert len(words) > 30
    assert warnings_of(prog, words) == []


def warnings_of(prog: str, words: list[str]) -> list[str]:
    """Returns what ``parse`` and ``warn_unused`` say of a command line of foreign flags."""
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, kept = logging.getLogger("fairseq.config.flags"), Kept()
    logger.addHandler(kept)
    try:
        flags = parse(prog, "", load(COMMANDS[prog])(), words)
        assert flags.typed == {}
        flags.warn_unused()
    finally:
        logger.removeHandler(kept)
    return messages


@pytest.mark.parametrize("prog", PROGS)
def test_flags_without_effect_have_one_warning_that_names_them_all(prog: str) -> None:
    table = foreign_flags(prog)
    idle = {name: flag for name, flag in table.items() if not flag.refused}
    words = [word for name, flag in idle.items() for word in ([name, "odd value"] if flag.takes else [name])]
    [line] = warnings_of(prog, words)
    assert "\n" not in line
    for name, flag in idle.items():
        assert (f"{name} odd value" if flag.takes else name) in line, name
        assert flag.family.why in line


@pytest.mark.parametrize("prog", PROGS)
def test_refused_flags_are_named_with_a_reason(prog: str) -> None:
    table = foreign_flags(prog)
    refused = {name: flag for name, flag in table.items() if flag.refused}
    assert refused
    groups = load(COMMANDS[prog])()
    for name, flag in refused.items():
        words = [name, "odd"] if flag.takes else [name]
        with pytest.raises(ConfigError) as caught:
            parse(prog, "", groups, words)
        assert str(caught.value) == f"{' '.join(words)} is not here: {flag.family.why}"


@pytest.mark.parametrize("words", ["--distributed_port=-1", "--distributed-port -1", "--distributed-port=-1.0"])
def test_the_default_may_be_spelled_in_any_way(words: str) -> None:
    assert warnings_of("fairseq-train", words.split()) == []


@pytest.mark.parametrize(
    "words, said",
    [
        ("--distributed_port 5", "--distributed-port 5"),
        ("--distributed-port=5", "--distributed-port 5"),
        ("--distributed-port -5", "--distributed-port -5"),
        ("--heartbeat-timeout=--x", "--heartbeat-timeout --x"),
        ("--wd 3", "--wd 3"),
        ("--nval 3", "--nval 3"),
    ],
)
def test_every_spelling_is_taken_with_its_value(words: str, said: str) -> None:
    prog = "fairseq-train" if "-t" in said or "-p" in said else "fairseq-eval-lm"
    [line] = warnings_of(prog, words.split())
    assert line.startswith(f"no effect here: {said} (")


def test_no_before_a_switch_turns_it_off() -> None:
    assert warnings_of("fairseq-eval-lm", ["--no-use-old-adam", "--no-tpu"]) == []
    with pytest.raises(ConfigError, match="unrecognised argument --no-distributed-port"):
        parse("fairseq-train", "", load(COMMANDS["fairseq-train"])(), ["--no-distributed-port"])


@pytest.mark.parametrize(
    "words, error",
    [
        (["--distributed-port"], r"argument --distributed-port: expected one argument \(see fairseq-train --help\)"),
        (["--distributed-port", "--fp16"], "argument --distributed-port: expected one argument"),
        (["--profile=1"], "--profile takes no value, but has '1'; leave that out"),
        (["--tpu", "--profile", "--lrr", "1"], "--tpu is not here: training is on a GPU"),
        (["--profile", "--lrr", "1"], "unrecognised argument --lrr; did you mean --lr?"),
    ],
)
def test_mistakes_have_one_line(words: list[str], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{error}"):
        parse("fairseq-train", "", load(COMMANDS["fairseq-train"])(), words)


def test_what_stands_behind_two_dashes_is_no_flag() -> None:
    flags = parse("fairseq-train", "", load(COMMANDS["fairseq-train"])(), ["--profile", "--", "--tpu"])
    assert flags.typed["data"] in ("--tpu", ("--tpu",))


def test_a_value_that_may_be_left_out() -> None:
    for words in (["--replace-unk"], ["--replace-unk", "align.txt"]):
        with pytest.raises(ConfigError, match=f"^{' '.join(words)} is not here: "):
            parse("fairseq-generate", "", load(COMMANDS["fairseq-generate"])(), words)


def test_our_own_commands_take_none_of_them() -> None:
    for prog in set(COMMANDS) - set(LETTERS):
        assert foreign_flags(prog) == {}


def test_help_says_how_many_more_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("fairseq-train", "", load(COMMANDS["fairseq-train"])(), ["--tpu", "--help"])
    idle = {flag.names for flag in foreign_flags("fairseq-train").values() if not flag.refused}
    said = f"\nmore flags:\n  {len(idle)} flags of fairseq's are accepted as well, without effect (docs/flags.md)"
    assert said in capsys.readouterr().out


def test_a_slip_in_one_of_them_is_pointed_out() -> None:
    with pytest.raises(ConfigError, match="did you mean --distributed-port"):
        parse("fairseq-train", "", load(COMMANDS["fairseq-train"])(), ["--distributed-prot", "3"])


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.builders.flags_page writes it"


@pytest.mark.slow
def test_the_list_is_still_fairseqs() -> None:
    child, env = ROOT / "tests" / "builders" / "peer_flags_child.py", {**os.environ, **ENVIRONMENT}
    done = subprocess.run([peer_python(), child], capture_output=True, text=True, check=True, env=env, cwd=ROOT.parent)
    assert json.loads(done.stdout) == PEER_FLAGS
