"""Raw text becomes the words that a model knows, and comes back: tokenizers, and subwords (``--bpe``).

A plugin adds one with ``@register_tokenizer("name", config=C)`` or ``@register_bpe("name", config=C)`` over a factory
``(config) → encoder``, which has ``encode(line) → line`` and ``decode(line) → line``; see ``pipeline.py``.
"""

from fairseq.config.registry import Registry
from fairseq.text.config import (
    BertConfig,
    ByteBPEConfig,
    ByteLevelConfig,
    FastBPEConfig,
    GPT2Config,
    MosesConfig,
    SentencePieceConfig,
    SubwordNMTConfig,
)

TOKENIZERS = Registry("tokenizer", "--tokenizer")
register_tokenizer = TOKENIZERS.register
BPES = Registry("kind of subwords", "--bpe")
register_bpe = BPES.register

TOKENIZERS.add("moses", "fairseq.text.tokenizers:Moses", MosesConfig, "of the Moses toolkit, by sacremoses")
TOKENIZERS.add("space", "fairseq.text.tokenizers:space", summary="white space between words becomes one space")

BPES.add("fastbpe", "fairseq.text.pair_codes:fastbpe", FastBPEConfig, "codes of fastBPE")
BPES.add("subword_nmt", "fairseq.text.pair_codes:subword_nmt", SubwordNMTConfig, "codes of subword-nmt")
BPES.add("sentencepiece", "fairseq.text.sentencepiece:SentencePiece", SentencePieceConfig, "a SentencePiece model")
BPES.add("gpt2", "fairseq.text.byte_level:gpt2", GPT2Config, "GPT-2's; words are their numbers")
BPES.add("hf_byte_bpe", "fairseq.text.byte_level:hf_byte_bpe", ByteLevelConfig, "the same, of Hugging Face's files")
BPES.add("bert", "fairseq.text.byte_level:Bert", BertConfig, "BERT's WordPiece")
BPES.add("byte_bpe", "fairseq.text.sentencepiece:ByteBPE", ByteBPEConfig, "a SentencePiece model of bytes")
BPES.add("bytes", "fairseq.text.characters:Bytes", summary="a word for each byte of UTF-8")
BPES.add("characters", "fairseq.text.characters:Characters", summary="a word for each character")
