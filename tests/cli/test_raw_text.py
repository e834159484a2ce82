"""``--tokenizer`` and ``--bpe`` in the commands: raw text goes in, and comes out."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.cases import Artefacts
from tests.builders.subword_files import subword_model
from tests.builders.tiny_lm import Command, Outcome

RAW, SPLIT = "lower, low.\nher\n", "low@@ er , lo@@ w .\nh@@ er\n"


@pytest.fixture
def model(artefacts: Artefacts, tmp_path: Path) -> Path:
    return subword_model(artefacts, tmp_path / "wmt")


@pytest.fixture
def tools(model: Path) -> list[Any]:
    return ["--tokenizer", "moses", "--bpe", "fastbpe", "--bpe-codes", model / "bpecodes"]


@pytest.fixture
def ask(command: Command, model: Path, tmp_path: Path) -> Any:
    """Returns ``ask(command, text, *flags)``."""

    def call(prog: str, text: str, *words: object) -> Outcome:
        (tmp_path / "text").write_text(text)
        sound = [model, "--path", model / "model.pt", "--cpu", "--input", tmp_path / "text"]
        return command(prog, *sound, *words)

    return call


def printed(outcome: Outcome, kind: str) -> list[str]:
    """Returns the last field of each line of a kind."""
    assert outcome.code == 0, outcome.err
    return [line.split("\t")[-1] for line in outcome.out.splitlines() if line.startswith(f"{kind}-")]


def by_hand(text: str) -> str:
    """Returns subwords as Moses's detokenizer writes their words; none of these ask for more."""
    words = f"{text} ".replace("@@ ", "").rstrip()
    return re.sub(r" ([,.])", r"\1", words).replace("&apos;", "'").replace(" 't", "'t")


def test_lines_are_split_as_the_model_has_them_and_texts_come_back(ask: Any, tools: list[Any]) -> None:
    beam = ["--beam", 3, "--max-len-b", 6]
    raw, split = (ask("fairseq-interactive", *words, *beam) for words in ((RAW, *tools), (SPLIT,)))
    for kind in "SHP":
        assert printed(raw, kind) == printed(split, kind)
    assert printed(raw, "S") == SPLIT.splitlines()
    assert printed(raw, "D") == [by_hand(text) for text in printed(split, "D")]
    assert printed(split, "D") == printed(split, "H")
    joined = ask("fairseq-interactive", RAW, *tools, *beam, "--post-process")
    assert printed(joined, "S") == ["lower , low .", "her"]
    assert printed(joined, "D") == printed(raw, "D")


def test_a_tokenizer_alone_detokenises_words_that_were_joined(ask: Any) -> None:
    flags = ["--tokenizer", "moses", "--post-process", "subword_nmt", "--beam", 1, "--max-len-b", 6]
    outcome = ask("fairseq-interactive", "her don't\n", *flags)
    assert printed(outcome, "S") == ["<unk> don &apos;t"], "no subwords: a word is looked up as it is"
    assert printed(outcome, "D") == [by_hand(text) for text in printed(outcome, "H")]
    assert any("not in the dictionary, and read as <unk>: her" in warning for warning in outcome.warnings)


def test_texts_of_a_split_come_back_raw(command: Command, model: Path, tools: list[Any], tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text(SPLIT)
    data = tmp_path / "data"
    words = ["--only-source", "--srcdict", model / "dict.txt", "--testpref", tmp_path / "test.txt", "--destdir", data]
    assert command("fairseq-preprocess", *words).code == 0
    sound = [data, "--path", model / "model.pt", "--cpu", "--prefix-size", 2, "--max-len-b", 4, "--beam", 2]
    sound += ["--sample-break-mode", "eos"]
    plain, raw = command("fairseq-generate", *sound), command("fairseq-generate", *sound, *tools)
    for kind in "STHP":
        assert printed(raw, kind) == printed(plain, kind)
    assert printed(raw, "D") == [by_hand(text) for text in printed(plain, "H")]
    # What reads a split only takes the flags without effect, as fairseq does.
    evaluated = command("fairseq-eval-lm", *sound[:4], *tools)
    assert evaluated.code == 0
    assert any(warning.startswith("no effect here: --tokenizer moses, --bpe fastbpe") for warning in evaluated.warnings)


def test_lines_are_scored_as_the_model_has_them(ask: Any, tools: list[Any]) -> None:
    raw, split = (ask("fairseq-score-lm", text, "--json", *words) for text, words in ((RAW, tools), (SPLIT, [])))
    found, wanted = ([json.loads(line) for line in outcome.out.splitlines()] for outcome in (raw, split))
    assert found == wanted
    assert [token["token"] for token in found[0]["tokens"]] == [*SPLIT.splitlines()[0].split(), "</s>"]
    unknown = [
        token["unknown"] for token in json.loads(ask("fairseq-score-lm", "zz\n", "--json", *tools).out)["tokens"][:-1]
    ]
    assert unknown == ["z@@", "z"], "the subwords that are not in the dictionary"


def test_sentencepieces_words_are_counted(command: Command, artefacts: Artefacts, tmp_path: Path) -> None:
    """A word for each ▁, and for each </s>: the counts that a line's own words give."""
    model = subword_model(artefacts, tmp_path / "pieces")
    pieces = (model / "dict.txt").read_text().replace("low@@ ", "▁low ").replace("lo@@ ", "▁lo ").replace("h@@ ", "▁h ")
    (model / "dict.txt").write_text(pieces)
    text = "▁low er ▁lo w\n▁h er\n▁low ▁lo er w er\n\n"
    (tmp_path / "test.txt").write_text(text)
    data = tmp_path / "data"
    words = ["--only-source", "--srcdict", model / "dict.txt", "--testpref", tmp_path / "test.txt", "--destdir", data]
    assert command("fairseq-preprocess", *words).code == 0
    results = tmp_path / "results.json"
    sound = [data, "--path", model / "model.pt", "--cpu", "--sample-break-mode", "eos", "--results-path", results]
    assert command("fairseq-eval-lm", *sound).code == 0
    plain = json.loads(results.read_text())
    joined = command("fairseq-eval-lm", *sound, "--overwrite", "--post-process", "sentencepiece", "--output-word-stats")
    record = json.loads(results.read_text())
    num_words = text.count("▁") + text.count("\n")
    assert record["targets"] - record["targets_joined_to_the_next"] == num_words
    assert record["log_p_sum_nats"] == pytest.approx(plain["log_p_sum_nats"], abs=1e-9)
    assert record["loss_base2"] == pytest.approx(-plain["log_p_sum_nats"] / num_words / np.log(2))
    counts = {row[0]: int(row[1]) for row in (line.split("\t") for line in joined.out.splitlines()) if len(row) == 6}
    assert counts == {"</s>": 4, "lower": 1, "low": 2, "her": 1, "loerwer": 1}


@pytest.mark.parametrize(
    ("flags", "expect"),
    [
        ("--bpe fastbp", "--bpe must be one of fastbpe, subword_nmt, .*; did you mean fastbpe?"),
        ("--bpe fastbpe", "--bpe fastbpe needs --bpe-codes, the path of a file"),
        ("--bpe fastbpe --bpe-codes gone", "--bpe-codes: gone does not exist; give the path of a file"),
        (
            "--tokenizer nltk",
            "--tokenizer nltk is not here: it is for NLTK, which downloads .*; there are moses, space",
        ),
        ("--bpe gpt2 --gpt2-encoder-json x", "--bpe gpt2 needs --gpt2-vocab-bpe, the path of a file"),
    ],
)
@pytest.mark.parametrize("prog", ["fairseq-interactive", "fairseq-score-lm"])
def test_what_is_refused(ask: Any, prog: str, flags: str, expect: str) -> None:
    error = ask(prog, "low\n", *flags.split()).error
    assert re.search(re.escape(expect).replace(r"\.\*", ".*"), error), error


def test_a_flag_of_another_kind_of_subwords_is_named(ask: Any, tools: list[Any]) -> None:
    warnings = ask("fairseq-score-lm", "low\n", *tools, "--sentencepiece-model", "x").warnings
    [warning] = [warning for warning in warnings if "no effect" in warning]
    assert warning.startswith("--sentencepiece-model x has no effect")


def test_the_flags_of_a_plugins_tokenizer_are_the_commands(ask: Any, tmp_path: Path) -> None:
    """As fairseq's plugins write it; what it imports is where they look for it."""
    plugin = tmp_path / "raw_text_plugin.py"
    plugin.write_text(
        '''
from dataclasses import dataclass

from fairseq.config import flag
from fairseq.data.encoders import register_bpe, register_tokenizer


@dataclass(frozen=True)
class UpperConfig:
    """Tokenizer upper."""

    upper_mark: str = flag("!", "what goes before a word")


@register_tokenizer("upper", dataclass=UpperConfig)
class Upper:
    """small letters"""

    def __init__(self, config):
        self.mark = config.upper_mark

    def encode(self, line):
        return line.lower().replace(self.mark, "")

    def decode(self, line):
        return self.mark + line.upper()


@register_bpe("whole")
class Whole:
    """words as they are"""

    def __init__(self, config):
        pass

    def encode(self, line):
        return line

    def decode(self, line):
        return line
'''
    )
    words = ["--user-dir", plugin, "--tokenizer", "upper", "--bpe", "whole", "--upper-mark", "?"]
    outcome = ask("fairseq-interactive", "?ER W\n", *words, "--beam", 1, "--max-len-b", 3)
    assert printed(outcome, "S") == ["er w"]
    assert printed(outcome, "D") == [f"?{printed(outcome, 'H')[0].upper()}"]
