"""Subwords of Hugging Face's tokenizers: GPT-2's, byte-level ones, BERT's. All files are local ones."""

import itertools

from fairseq.text.config import BertConfig, ByteLevelConfig, GPT2Config
from fairseq.text.packages import package, reading


class ByteLevel:
    """Byte-level subwords, whose numbers are the dictionary's words: ``This is`` → ``1212 318`` with GPT-2's files.

    Args:
        flag: what asked for them, for messages.
        vocab: ``encoder.json`` or ``vocab.json``: subwords and their numbers.
        merges: ``vocab.bpe`` or ``merges.txt``: the pairs to join.
        add_prefix_space: whether a space is put before each line.
    """

    def __init__(self, flag: str, vocab: str | None, merges: str | None, *, add_prefix_space: bool = False) -> None:
        tokenizers = package("tokenizers", flag)
        with reading(flag, vocab, merges):
            self._tokenizer = tokenizers.ByteLevelBPETokenizer(vocab, merges, add_prefix_space=add_prefix_space)

    def encode(self, line: str) -> str:
        """Returns the numbers of a line's subwords, a space between them."""
        return " ".join(map(str, self._tokenizer.encode(line).ids))

    def decode(self, line: str) -> str:
        """Returns numbers as text; what is none of them, such as ``<unk>``, stays as it is."""
        runs = itertools.groupby(line.split(), self._is_number)
        return "".join(self._tokenizer.decode(list(map(int, run))) if known else "".join(run) for known, run in runs)

    def _is_number(self, word: str) -> bool:
        return word.isdecimal() and len(word) < 10 and self._tokenizer.id_to_token(int(word)) is not None


def gpt2(config: GPT2Config) -> ByteLevel:
    """Returns GPT-2's subwords."""
    return ByteLevel("--bpe gpt2", config.gpt2_encoder_json, config.gpt2_vocab_bpe)


def hf_byte_bpe(config: ByteLevelConfig) -> ByteLevel:
    """Returns the subwords of a tokenizer that Hugging Face's library trained."""
    space = config.bpe_add_prefix_space
    return ByteLevel("--bpe hf_byte_bpe", config.bpe_vocab, config.bpe_merges, add_prefix_space=space)


class Bert:
    """BERT's WordPiece: ``##`` goes on with a word."""

    def __init__(self, config: BertConfig) -> None:
        tokenizers = package("tokenizers", "--bpe bert")
        with reading("--bpe-vocab-file", config.bpe_vocab_file):
            self._tokenizer = tokenizers.BertWordPieceTokenizer(config.bpe_vocab_file, lowercase=not config.bpe_cased)
        self._decoder = tokenizers.decoders.WordPiece()

    def encode(self, line: str) -> str:
        """Returns the subwords of a line, a space between them, without ``[CLS]`` and ``[SEP]``."""
        return " ".join(self._tokenizer.encode(line, add_special_tokens=False).tokens)

    def decode(self, line: str) -> str:
        """Returns subwords as text, without spaces before punctuation and around an apostrophe."""
        text: str = self._decoder.decode(line.split())
        return text.replace(" ' ", "'")
