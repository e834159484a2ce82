"""What decides the ids of a text, and whether a data directory has the same."""

from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET

from fairseq.data.corpus.record import PreprocessRecord, TokenizerRecord
from fairseq.data.dictionary import Dictionary
from fairseq.text.model_tokenizer import ModelTokenizer


@dataclass(frozen=True)
class Words:
    """What decides the ids: a dictionary, None where the training text makes it, and the tokenizer that has it."""

    dictionary: Dictionary | None = None
    tokenizer: ModelTokenizer | None = None

    @property
    def record(self) -> TokenizerRecord | None:
        """What is recorded of the tokenizer."""
        it = self.tokenizer
        if it is None:
            return None
        ids = (it.opening_id, it.bos_id, it.eos_id)
        return TokenizerRecord(it.sha256, it.num_tokens, *ids, it.adds_bos, str(it.directory))

    def is_vocabulary_of(self, destdir: Path, earlier: PreprocessRecord) -> bool:
        """Returns whether the ids in a data directory are of this dictionary and tokenizer."""
        return self.dictionary is not None and is_there(self.dictionary, destdir) and self.has_tokenizer_of(earlier)

    def has_tokenizer_of(self, earlier: PreprocessRecord) -> bool:
        """Returns whether earlier texts were made of the same tokenizer's tokens, or of words as well."""
        recorded = None if earlier.tokenizer is UNSET else earlier.tokenizer.sha256
        return recorded == (None if self.tokenizer is None else self.tokenizer.sha256)

    def difference_from(self, earlier: PreprocessRecord) -> str:
        """Returns what words earlier texts have, where a tokenizer makes them others than these; else nothing."""
        recorded = None if earlier.tokenizer is UNSET else earlier.tokenizer
        if recorded is None:
            has_words = self.tokenizer is not None and earlier.dictionary is not UNSET
            return ", whose texts are words, not tokens" if has_words else ""
        if self.tokenizer is None:
            return f", whose texts are tokens of --tokenizer {recorded.directory}"
        if not self.has_tokenizer_of(earlier):
            return f", whose texts are tokens of another tokenizer ({recorded.directory}, as it was then)"
        types, own = (earlier.dictionary or {}).get("types"), self.dictionary
        if own is None or types == len(own):
            return ""
        return f", whose texts have {types} types, not {len(own)}: vocab_size of config.json is another"


def is_there(dictionary: Dictionary, destdir: Path) -> bool:
    """Returns whether a data directory has this dictionary, byte for byte."""
    path = destdir / "dict.txt"
    return path.exists() and path.read_bytes() == dictionary.to_bytes()
