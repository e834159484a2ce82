"""Tokenizers and subwords by the names that plugins import: ``register_tokenizer``, ``register_bpe``."""

from fairseq.text import BPES as BPES
from fairseq.text import TOKENIZERS as TOKENIZERS
from fairseq.text import register_bpe as register_bpe
from fairseq.text import register_tokenizer as register_tokenizer
