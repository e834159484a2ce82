"""Tokenizers and subwords of packages, against what the packages themselves say and examples worked out by hand."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import sacremoses
import sentencepiece

from fairseq.config.flags import resolve
from fairseq.errors import ConfigError, DataError
from fairseq.text.pipeline import TextPipeline, open_pipeline
from tests.builders.subword_files import byte_level_files, sentencepiece_model

LINE = "Hello, world's  end-of & <b> \"q\" I don't ."


def opened(tokenizer: str | None = None, bpe: str | None = None, **settings: Any) -> TextPipeline:
    return open_pipeline(tokenizer, bpe, lambda config: resolve(config, settings))


def test_moses_is_sacremoses() -> None:
    words = "Hello , world &apos;s end @-@ of &amp; &lt; b &gt; &quot; q &quot; I don &apos;t ."  # fairseq 0.12's
    moses = opened("moses")
    assert moses.encode(LINE) == words
    assert moses.decode(words) == sacremoses.MosesDetokenizer("en").detokenize(words.split())
    assert moses.decode(words) == "Hello, world's end-of & < b > \"q\" I don't."
    plain = opened("moses", moses_no_escape=True, moses_no_dash_splits=True).encode("end-of & it's")
    assert plain == "end-of & it 's"
    # The language of the text decides about abbreviations and apostrophes, that of the output about spaces.
    assert opened("moses", source_lang="fr").encode("l'eau") == "l&apos; eau" != moses.encode("l'eau")
    assert opened("moses", target_lang="fr").decode("l&apos; eau") == "l'eau"


def test_space_is_white_space() -> None:
    assert opened("space").encode("a\t b\u00a0 c") == "a b c"
    assert opened("space").decode("a b") == "a b"


def test_a_sentencepiece_model_says_what_its_package_says(tmp_path: Path) -> None:
    path = sentencepiece_model(tmp_path / "spm")
    package = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pipeline = opened(bpe="sentencepiece", sentencepiece_model=str(path))
    for line in ("the lower sea", "", "  slower   stones ", "unknown: ß"):
        pieces = package.encode(line, out_type=str)
        assert pipeline.encode(line) == " ".join(pieces)
        assert pipeline.decode(" ".join(pieces)) == package.decode(pieces)
    with pytest.raises(DataError, match=r"--sentencepiece-model: .*\.vocab is not what it should be"):
        opened(bpe="sentencepiece", sentencepiece_model=str(path.with_suffix(".vocab")))
    of_bytes = opened(bpe="byte_bpe", sentencepiece_model_path=str(path))
    assert of_bytes.encode("the lower  sea") == " ".join(package.encode("the lower sea", out_type=str))
    assert of_bytes.decode(of_bytes.encode("the lower sea")) == " the lower sea", "with a space before, as in fairseq"


@pytest.mark.parametrize("bpe", ["gpt2", "hf_byte_bpe"])
def test_byte_level_subwords_are_numbers(tmp_path: Path, bpe: str) -> None:
    vocab, merges = map(str, byte_level_files(tmp_path))
    files = {"gpt2_encoder_json": vocab, "gpt2_vocab_bpe": merges, "bpe_vocab": vocab, "bpe_merges": merges}
    pipeline = opened(bpe=bpe, **files)
    # l o w e r Ġ lo low er Ġlow are 10 11 12 13 14 15 16 17 18 19
    assert pipeline.encode("lower low") == "17 18 19"
    assert pipeline.decode("17 18 19") == "lower low"
    assert pipeline.decode("<unk> 17 18 99 word 19") == "<unk>lower99word low", "what is no number of a subword stays"
    assert pipeline.encode("") == "" == pipeline.decode("")
    if bpe == "hf_byte_bpe":
        assert opened(bpe=bpe, **files, bpe_add_prefix_space=True).encode("low") == "19"
    with pytest.raises(DataError, match=f"--bpe {bpe}: .* is not what it should be"):
        opened(bpe=bpe, **{**files, "gpt2_vocab_bpe": vocab, "bpe_merges": vocab})


def test_bert_goes_on_with_a_word_by_its_mark(tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[UNK]", "[CLS]", "[SEP]", "low", "##er", "Low", ",", ".", "'", "s"]) + "\n")
    pipeline = opened(bpe="bert", bpe_vocab_file=str(vocab))
    assert pipeline.encode("Lower, low zzz.") == "low ##er , low [UNK] ."
    assert pipeline.decode("low ##er , low .") == "lower, low."
    assert pipeline.decode(pipeline.encode("low's")) == "low's"
    assert opened(bpe="bert", bpe_vocab_file=str(vocab), bpe_cased=True).encode("Lower") == "Low ##er"


def test_a_tokenizer_goes_before_subwords() -> None:
    both = opened("moses", "characters")
    assert both.tokenize("don't.") == "don &apos;t ."
    assert both.apply_bpe("a b") == "a ▁ b"
    assert both.encode("I'm.") == "I ▁ & a p o s ; m ▁ ."
    assert both.decode(both.encode("I'm.")) == "I'm."
    assert not TextPipeline() and both
    assert TextPipeline().encode(" as it is ") == " as it is " == TextPipeline().decode(" as it is ")


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        (("moses", None), "sacremoses"),
        ((None, "sentencepiece"), "sentencepiece"),
        ((None, "fastbpe"), "subword-nmt"),
        ((None, "gpt2"), "tokenizers"),
    ],
)
def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, choice: Any, name: str) -> None:
    def missing(module: str) -> None:
        if module.startswith("fairseq."):
            return original(module)
        raise ImportError(module)

    original: Any = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", missing)
    files = dict.fromkeys(("bpe_codes", "sentencepiece_model", "gpt2_encoder_json", "gpt2_vocab_bpe"), "there")
    with pytest.raises(ConfigError, match=rf"needs the package {name}, .*pip install 'fairseq-knnlm\[subwords\]', or"):
        opened(*choice, **files)


def test_names_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"--bpe fastbp is not a known kind of subwords; did you mean fastbpe\?"):
        opened(bpe="fastbp")
    for bpe, flag in (("gpt2", "gpt2-encoder-json"), ("hf_byte_bpe", "bpe-merges"), ("bert", "bpe-vocab-file")):
        with pytest.raises(ConfigError, match=f"^--bpe {bpe} needs --{flag}, the path of a file$"):
            opened(bpe=bpe)
    with pytest.raises(ConfigError, match="--bpe-separator must be some characters, such as @@, but is empty"):
        opened(bpe="subword_nmt", bpe_codes="codes", bpe_separator=" ")
