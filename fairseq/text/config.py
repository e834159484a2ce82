"""Flags of each tokenizer and kind of subwords: its files and settings. Which are used is said in ``pipeline.py``."""

from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import File, Mark, Name
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class MosesConfig:
    """Tokenizer moses."""

    source_lang: Name = flag("en", "language of the text, for abbreviations", aliases=("--moses-source-lang",))
    target_lang: Name = flag("en", "language of what is printed, for its spaces", aliases=("--moses-target-lang",))
    moses_no_dash_splits: bool = flag(False, "do not split words at hyphens")
    moses_no_escape: bool = flag(False, "keep &, <, >, quotes and brackets as they are, rather than as &amp; and so on")


def _needed(bpe: str, **files: str | None) -> None:
    """Raises ConfigError for a file that subwords need and that was not given."""
    for name, path in files.items():
        if not path:
            raise ConfigError(f"--bpe {bpe} needs --{name.replace('_', '-')}, the path of a file")


@dataclass(frozen=True)
class FastBPEConfig:
    """Subwords fastbpe."""

    bpe_codes: File | None = flag(None, "codes of --bpe fastbpe or subword_nmt, the file that their learning wrote")

    def __post_init__(self) -> None:
        _needed("fastbpe", bpe_codes=self.bpe_codes)


@dataclass(frozen=True)
class SubwordNMTConfig:
    """Subwords subword_nmt."""

    bpe_codes: File | None = flag(None, "codes of --bpe fastbpe or subword_nmt, the file that their learning wrote")
    bpe_separator: Mark = flag("@@", "what a subword ends in whose word goes on")

    def __post_init__(self) -> None:
        _needed("subword_nmt", bpe_codes=self.bpe_codes)
        if not self.bpe_separator.strip():
            raise ConfigError("--bpe-separator must be some characters, such as @@, but is empty")


@dataclass(frozen=True)
class SentencePieceConfig:
    """Subwords sentencepiece."""

    sentencepiece_model: File | None = flag(None, "SentencePiece model (.model)")

    def __post_init__(self) -> None:
        _needed("sentencepiece", sentencepiece_model=self.sentencepiece_model)


@dataclass(frozen=True)
class GPT2Config:
    """Subwords gpt2."""

    gpt2_encoder_json: File | None = flag(None, "GPT-2's encoder.json: subwords and their numbers")
    gpt2_vocab_bpe: File | None = flag(None, "GPT-2's vocab.bpe: the pairs to join")

    def __post_init__(self) -> None:
        _needed("gpt2", gpt2_encoder_json=self.gpt2_encoder_json, gpt2_vocab_bpe=self.gpt2_vocab_bpe)


@dataclass(frozen=True)
class ByteLevelConfig:
    """Subwords hf_byte_bpe."""

    bpe_merges: File | None = flag(None, "merges.txt: the pairs to join")
    bpe_vocab: File | None = flag(None, "vocab.json: subwords and their numbers")
    bpe_add_prefix_space: bool = flag(False, "put a space before each line")

    def __post_init__(self) -> None:
        _needed("hf_byte_bpe", bpe_merges=self.bpe_merges, bpe_vocab=self.bpe_vocab)


@dataclass(frozen=True)
class BertConfig:
    """Subwords bert."""

    bpe_vocab_file: File | None = flag(None, "vocab.txt: a subword a line")
    bpe_cased: bool = flag(False, "keep capitals")

    def __post_init__(self) -> None:
        _needed("bert", bpe_vocab_file=self.bpe_vocab_file)


@dataclass(frozen=True)
class ByteBPEConfig:
    """Subwords byte_bpe."""

    sentencepiece_model_path: File | None = flag(None, "SentencePiece model of text as bytes")

    def __post_init__(self) -> None:
        _needed("byte_bpe", sentencepiece_model_path=self.sentencepiece_model_path)
