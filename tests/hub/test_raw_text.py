"""Models that read raw text: ``from_pretrained(…, tokenizer=…, bpe=…)``."""

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.errors import ConfigError, DataError
from fairseq.hub import LanguageModelHub, from_pretrained
from fairseq.hub.files import cache_dir
from tests.builders.cases import Artefacts
from tests.builders.subword_files import byte_level_files, sentencepiece_model, subword_model, subword_nmt_codes

RAW, SPLIT = "lower, low.\nher", "low@@ er , lo@@ w .\nh@@ er"


@pytest.fixture
def directory(artefacts: Artefacts, tmp_path: Path) -> Path:
    return subword_model(artefacts, tmp_path / "wmt")


@pytest.fixture
def hub(directory: Path) -> LanguageModelHub:
    return from_pretrained(directory, "model.pt", tokenizer="moses", bpe="fastbpe")


def test_raw_text_scores_as_its_subwords(directory: Path, hub: LanguageModelHub) -> None:
    plain = from_pretrained(directory)
    assert hub.encode(RAW).tolist() == plain.encode(SPLIT).tolist() == [4, 5, 9, 6, 7, 10, 2, 8, 5, 2]
    assert hub.decode(hub.encode(RAW)) == RAW, "each line on its own"
    assert plain.decode(hub.encode(RAW)) == SPLIT
    ours, split = hub.score(RAW), plain.score(SPLIT)
    assert ours.words == split.words and ours.positional_scores.tolist() == split.positional_scores.tolist()
    assert [each.total for each in hub.score(["low", "her"])] == [x.total for x in plain.score(["lo@@ w", "h@@ er"])]
    assert torch.equal(hub.context_vectors(RAW)[0], plain.context_vectors(SPLIT)[0])


def test_raw_text_goes_on_in_raw_text(directory: Path, hub: LanguageModelHub) -> None:
    plain = from_pretrained(directory)
    theirs = plain.generate("low@@ er , lo@@ w", max_len_b=3, beam=2)
    ours = hub.generate("lower, low", max_len_b=3, beam=2)
    assert [text.tokens_T.tolist() for text in ours] == [text.tokens_T.tolist() for text in theirs]
    sampled = plain.sample("low@@ er , lo@@ w", max_len_b=3, beam=2)
    assert hub.sample("lower, low", max_len_b=3, beam=2) == hub.detokenize(hub.remove_bpe(sampled))


def test_the_steps_have_fairseqs_names(hub: LanguageModelHub) -> None:
    assert hub.tokenize("I don't.") == "I don &apos;t ."
    assert hub.apply_bpe("lower low") == "low@@ er lo@@ w"
    ids = hub.binarize("low@@ er lo@@ w")
    assert ids.tolist() == [4, 5, 6, 7, 2]
    assert hub.string(ids) == "low@@ er lo@@ w"
    assert hub.remove_bpe("low@@ er lo@@ w") == "lower low"
    assert hub.detokenize("I don &apos;t .") == "I don't."


def test_files_beside_the_checkpoint_are_found_and_a_keyword_is_stronger(directory: Path, tmp_path: Path) -> None:
    subword_nmt_codes(directory / "mine.codes")
    (directory / "mine.codes").write_text("#version: 0.2\nl o\n")
    for codes in ("mine.codes", directory / "mine.codes"):  # in the model's directory, or by its path
        lm = from_pretrained(directory, bpe="subword_nmt", bpe_codes=codes)
        assert lm.apply_bpe("lower") == "lo@@ w@@ e@@ r"
    for name in ("code", "bpe.codes"):
        next(path for path in directory.iterdir() if path.name in ("bpecodes", "code")).rename(directory / name)
        assert from_pretrained(directory, bpe="fastbpe").apply_bpe("lower") == "low@@ er"
    sentencepiece_model(directory / "sentencepiece.bpe")
    pieces = from_pretrained(directory, bpe="sentencepiece").apply_bpe("the lower")
    assert pieces.replace(" ", "").replace("▁", " ") == " the lower"


def test_files_beside_the_checkpoint_turn_nothing_on(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert from_pretrained(directory).encode("lower").tolist() == [3, 2], "one word, unknown"
        assert not said(caplog)
        from_pretrained(directory, bpe="fastbpe")
    codes = str(directory / "bpecodes")
    assert said(caplog) == [("INFO", f"raw text is read by bpe='fastbpe', bpe_codes={codes!r} beside the checkpoint")]


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    records = [(record.levelname, record.getMessage()) for record in caplog.records]
    return [record for record in records if "raw text" in record[1]]


def with_settings(directory: Path, bpe: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    """Writes them into the checkpoint, where fairseq 0.12 has them: its own hub applies those of ``cfg``."""
    with torch.serialization.safe_globals([Namespace]):
        checkpoint = torch.load(directory / "model.pt", weights_only=True)
    fields = vars(checkpoint["args"])
    checkpoint["args"] = None
    checkpoint["cfg"] = {
        "task": {"_name": "language_modeling", "tokens_per_sample": fields["tokens_per_sample"]},
        "model": {**fields, "_name": "transformer_lm"},
        "bpe": bpe,
        "tokenizer": tokenizer,
    }
    torch.save(checkpoint, directory / "model.pt")


def test_settings_of_the_checkpoint_hold_until_others_are_given(directory: Path, tmp_path: Path) -> None:
    moses = {"_name": "moses", "source_lang": "en", "target_lang": "en", "moses_no_escape": True}
    with_settings(directory, {"_name": "fastbpe", "bpe_codes": str(tmp_path / "gone")}, moses)
    lm = from_pretrained(directory)
    assert lm.tokenize("don't") == "don 't" and lm.apply_bpe("lower") == "low@@ er", "codes that are there go first"
    assert from_pretrained(directory, moses_no_escape=False).tokenize("don't") == "don &apos;t"
    assert from_pretrained(directory, tokenizer="space").tokenize("don't") == "don't"
    (directory / "bpecodes").unlink()
    with pytest.raises(DataError, match=r"gone does not exist.*from_pretrained\(…, tokenizer=None, bpe=None\) takes"):
        from_pretrained(directory)
    assert from_pretrained(directory, tokenizer=None, bpe=None).encode("er").tolist() == [5, 2]


def test_what_nobody_asked_for_is_said(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Texts that are already split would be split once more, and score otherwise."""
    with_settings(directory, {"_name": "fastbpe", "bpe_codes": "/gone"}, {"_name": "moses"})
    codes = f"bpe_codes={str(directory / 'bpecodes')!r} beside the checkpoint"
    mine, split = " of the checkpoint's settings", "for texts that are already split, give"
    for given, expect in (
        ({}, f"tokenizer='moses'{mine}, bpe='fastbpe'{mine}, {codes}; {split} tokenizer=None, bpe=None"),
        ({"bpe": None}, f"tokenizer='moses'{mine}; {split} tokenizer=None"),
        ({"tokenizer": "space"}, f"tokenizer='space', bpe='fastbpe'{mine}, {codes}; {split} bpe=None"),
    ):
        caplog.clear()
        from_pretrained(directory, **given)
        assert said(caplog) == [("WARNING", f"raw text is read by {expect}")]
    for quiet in ({"tokenizer": None, "bpe": None}, {"tokenizer": "moses", "bpe": "fastbpe", "bpe_codes": "bpecodes"}):
        caplog.clear()
        from_pretrained(directory, **quiet)
        assert not said(caplog)


def test_a_published_name_brings_its_tokenizer_and_subwords(
    directory: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.hub.test_archives import make_archive

    archive = cache_dir() / "downloads" / "wmt19.en.tar.bz2"
    archive.parent.mkdir(parents=True)
    make_archive(archive, {f"wmt19.en/{path.name}": path for path in directory.iterdir()})
    hub = torch.hub.load(str(Path(__file__).resolve().parents[2]), "transformer_lm.wmt19.en", source="local")
    assert hub.encode("lower, low.").tolist() == [4, 5, 9, 6, 7, 10, 2]
    [(level, line)] = said(caplog)
    assert level == "WARNING" and "tokenizer='moses' of the model's name, bpe='fastbpe' of the model's name" in line
    given = from_pretrained("transformer_lm.wmt19.en", tokenizer="moses", bpe="fastbpe", moses_source_lang="en")
    assert given.encode("lower, low.").tolist() == [4, 5, 9, 6, 7, 10, 2]
    words = from_pretrained("transformer_lm.wmt19.en", tokenizer=None, bpe=None)
    assert words.encode("low@@ er").tolist() == [4, 5, 2]


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        ({"bpe": "fastbp"}, r"^bpe must be one of .*did you mean fastbpe\?"),
        ({"bpe_code": "x"}, r"did you mean bpe_codes\?"),
        ({"bpe": "sentencepiece"}, "^bpe='sentencepiece' needs sentencepiece_model, the path of a file$"),
        ({"bpe": "fastbpe", "bpe_codes": "gone"}, "^bpe_codes: gone does not exist; give the path of a file$"),
        ({"tokenizer": 3}, "^tokenizer must be text, but is 3$"),
    ],
)
def test_what_is_refused_in_one_line(directory: Path, given: dict[str, Any], expect: str) -> None:
    with pytest.raises((ConfigError, DataError), match=expect) as caught:
        from_pretrained(directory, **given)
    assert "\n" not in str(caught.value)


STEPS = ("encode", "score", "tokenize", "apply_bpe", "binarize", "detokenize", "remove_bpe")


@pytest.mark.parametrize("bpe", [None, "fastbpe", "bytes"])
@pytest.mark.parametrize("step", STEPS)
def test_each_step_refuses_what_is_no_text(directory: Path, step: str, bpe: str | None) -> None:
    lm = from_pretrained(directory, bpe=bpe)
    for given in (3, None, b"low", torch.tensor([[4, 2], [5, 2]])):
        with pytest.raises(ConfigError, match=r"^a text must be a string, or .*, but is .*$") as caught:
            getattr(lm, step)(given)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"half of a character, '\\ud800' at 3; read its file as UTF-8, or take"):
        getattr(lm, step)("low\ud800")


@pytest.mark.parametrize("step", ["string", "decode"])
def test_the_way_back_refuses_what_is_no_id(hub: LanguageModelHub, step: str) -> None:
    for given in ("low", 3, None, ["a"], [4.5], torch.tensor(4), [[4], [5, 2]], torch.zeros(2, 2, 2)):
        with pytest.raises(ConfigError, match=r"^ids must be whole numbers in a row, but are .*; lm\.encode") as caught:
            getattr(hub, step)(given)
        assert "\n" not in str(caught.value)
    for given in ([40], [-1], torch.tensor([4, 40])):
        with pytest.raises(ConfigError, match=r"^a token must be an id from 0 to 39, but is "):
            getattr(hub, step)(given)
    assert getattr(hub, step)([]) == ""
    assert hub.string(torch.tensor([[4, 2], [5, 2]])) == "low@@\ner"


@pytest.mark.parametrize(
    "given",
    [
        {"bpe": "fastbpe", "bpe_codes": ...},
        {"bpe": "sentencepiece", "sentencepiece_model": ...},
        {"bpe": "gpt2", "gpt2_encoder_json": "encoder.json", "gpt2_vocab_bpe": ...},
        {"bpe": "hf_byte_bpe", "bpe_vocab": "encoder.json", "bpe_merges": ...},
        {"bpe": "bert", "bpe_vocab_file": ...},
    ],
)
def test_an_empty_file_is_refused(directory: Path, given: dict[str, Any]) -> None:
    """The library for bytes takes one without merges, and every letter was a subword."""
    byte_level_files(directory)
    (directory / "empty").touch()
    with pytest.raises(DataError, match=r"empty is empty; give a file of that kind$"):
        from_pretrained(directory, **{name: "empty" if value is ... else value for name, value in given.items()})


def test_a_path_may_begin_at_home(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(directory))
    (directory / "bpecodes").rename(directory / "mine")
    assert from_pretrained(directory, bpe="fastbpe", bpe_codes="~/mine").apply_bpe("lower") == "low@@ er"


def test_a_setting_without_its_tool_is_named(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        from_pretrained(directory, bpe_codes=directory / "bpecodes", moses_source_lang="en")
    assert [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()] == [
        "bpe_codes has no effect without the bpe= that it belongs to",
        "source_lang has no effect without the tokenizer= that it belongs to",
    ]
