"""Text as the model of a directory reads and writes it: by the ``tokenizer.json`` that lies with it.

text ── tokenizer, + 4 ──→ ids        whole texts; nothing stands between lines, and no </s> behind them
text ←─ tokenizer, − 4 ─── ids        spaces and line breaks as they were
"""

import json
import logging
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fairseq.arrays import Int64s
from fairseq.checkpoints.huggingface import ModelDirectory
from fairseq.data.corpus import symbols
from fairseq.data.corpus.record import NAME as RECORD
from fairseq.data.corpus.record import tokenizer_record
from fairseq.data.dictionary import Dictionary
from fairseq.errors import DataError, MismatchError, shown
from fairseq.models.huggingface.ids import Reader
from fairseq.storage.files import file_sha256
from fairseq.text.model_tokenizer import SHIFT, ModelTokenizer

logger = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
_ENDS_IN = ("generation_config.json", "config.json")  # the first that names an end is in force
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


@dataclass(frozen=True)
class ModelText:
    """Reads and writes the texts of a model.

    Attributes:
        directory: of the model.
        tokenizer: of ``tokenizer.json`` there.
        dictionary: a symbol for each token.
        num_scored: ids that the model has, where a tokenizer may have more.
    """

    directory: Path
    tokenizer: ModelTokenizer
    dictionary: Dictionary
    num_scored: int | None = None

    @classmethod
    def open(cls, directory: str | Path, dictionary: Dictionary, num_scored: int | None = None) -> "ModelText":
        """Returns what reads the texts of a directory's model, which scores so many ids.

        Raises:
            DataError: there is no tokenizer.
            ConfigError: the package ``tokenizers`` is not installed.
        """
        path = Path(directory)
        if not (path / TOKENIZER_FILE).is_file():
            raise DataError(
                f"--path {path} has no {TOKENIZER_FILE}, which its text is read with; copy it there from where the"
                " model came from"
            )
        return cls(path, ModelTokenizer(path, "--path"), dictionary, num_scored)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids of which any ends a text: those that the model generates until, else the tokenizer's.

        What is no token is none: a ``GPT2Config`` of another tokenizer says 50256 all the same.
        """
        for name in _ENDS_IN:
            found = (token + SHIFT for token in _token_ids(self.directory / name, "eos_token_id"))
            if known := frozenset(idx for idx in found if SHIFT <= idx < len(self.dictionary)):
                return known
        return frozenset() if self.tokenizer.eos_id is None else frozenset({self.tokenizer.eos_id})

    def ids_of(self, text: str) -> Int64s:
        """Returns the ids of a text, int64; none of an empty one.

        Raises:
            MismatchError: the model has no such token, though its tokenizer has it.
        """
        found_N = self.tokenizer.encode(text)
        if self.num_scored is not None and len(found_N) and found_N.max() >= self.num_scored:
            token = self.tokenizer.decode([found_N.max()])
            raise MismatchError(
                f"the text has the token {shown(token)} (id {found_N.max()}), which the tokenizer of {self.directory}"
                f" has and its model, of {self.num_scored} ids, has not; leave it out of the text"
            )
        return found_N

    def text_of(self, ids: Iterable[int]) -> str:
        """Returns the text of ids, without an end behind it."""
        kept = [int(idx) for idx in ids]
        if kept and kept[-1] in self.ends:
            del kept[-1]
        return self.tokenizer.decode(kept)

    def line_of(self, ids: Iterable[int]) -> str:
        r"""Returns the text of ids in one line, with ``\n``, ``\r``, ``\t`` and ``\\`` for what they stand for."""
        return self.text_of(ids).translate(_ESCAPED)

    def __getitem__(self, idx: int) -> str:
        """Returns the symbol of a token."""
        return self.dictionary[idx]

    def piece_of(self, idx: int) -> str:
        """Returns the text of a token, its white space too; of an id that is none of the tokenizer's, its symbol."""
        is_token = SHIFT <= idx < SHIFT + self.tokenizer.num_tokens
        return self.tokenizer.piece(idx) if is_token else self.dictionary[idx]


def text_of_model(checkpoint: Any, dictionary: Dictionary, model: Any) -> ModelText | None:
    """Returns what reads the texts of a model; None of one that reads words.

    Raises:
        DataError: the model is of a directory that has no tokenizer.
    """
    if not isinstance(checkpoint, ModelDirectory):
        return None
    return ModelText.open(checkpoint.path, dictionary, int(model.vocabulary_size))


def dictionary_of(directory: str | Path) -> Dictionary:
    """Returns the dictionary of a directory's tokenizer: the ``dict.txt`` that ``fairseq-preprocess`` makes of it.

    Raises:
        DataError: the tokenizer cannot be read.
        ConfigError: the package ``tokenizers`` is not installed.
    """
    return symbols.dictionary_of(ModelTokenizer(directory, "--path").symbols())


def check_tokenizer(task: Any, directory: str, vocabulary_size: int) -> None:
    """Checks that the texts of a task's data directory are tokens of a model's tokenizer.

    A tokenizer of other bytes is taken where it has the same tokens, with a warning: it may split text in another way.

    Args:
        task: with its dictionary, and where that lies: in a data directory, or with a model.
        directory: of the model.
        vocabulary_size: words that the model scores.

    Raises:
        MismatchError: they are another tokenizer's, or words.
    """
    dictionary, data = task.dictionary, Path(getattr(task, "dictionary_path", directory)).parent
    own, record = tokenizer_sha256(directory), tokenizer_record(data)
    if record is None and not (data / TOKENIZER_FILE).is_file():
        if len(dictionary) != vocabulary_size:
            raise MismatchError(
                f"{data} has {len(dictionary)} words, but the model of --path {directory} scores {vocabulary_size}"
                " tokens; make its data by fairseq-preprocess --only-source --tokenizer"
                f" {shlex.quote(str(directory))} --testpref FILE --destdir DIR, and give that DIR"
            )
        logger.warning("%s does not say which tokenizer its texts have; it is taken for that of %s", data, directory)
    if record is None or own is None or record.sha256 == own:
        return
    if dictionary_of(directory).sha256() != dictionary.sha256():
        raise MismatchError(
            f"{data} has the tokens of {record.directory}, but the tokenizer of --path {directory} is another; give the"
            " model that they are for, or make its data by fairseq-preprocess --tokenizer"
            f" {shlex.quote(str(directory))}"
        )
    logger.warning(
        "the tokenizer.json of %s is not that of %s, which made %s, but has the same tokens",
        directory,
        record.directory,
        data,
    )


def reader_for(task: Any, directory: str, own: Reader) -> Reader:
    """Returns how a model reads the rows of a task's data: as its own tokenizer has it, else as the data's record says.

    Args:
        task: with its dictionary, as ``check_tokenizer`` takes it.
        directory: of the model.
        own: how it reads by what lies in its directory.
    """
    data = Path(getattr(task, "dictionary_path", directory)).parent
    record = tokenizer_record(data)
    if record is None:
        return own
    recorded = Reader(record.opening, record.add_bos and record.opening is not None)
    if (Path(directory) / TOKENIZER_FILE).is_file():
        if own != recorded:
            logger.warning(
                "the tokenizer of %s %s, but by %s it %s: the model's own is in force",
                directory,
                own.in_words,
                data / RECORD,
                recorded.in_words,
            )
        return own
    return recorded


def tokenizer_sha256(directory: str | Path) -> str | None:
    """Returns the hash of a directory's tokenizer; None where there is none."""
    path = Path(directory) / TOKENIZER_FILE
    return file_sha256(path) if path.is_file() else None


def _token_ids(path: Path, name: str) -> Collection[int]:
    """Returns the ids there that a file of settings has under a name: none, one, or a list."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError, AttributeError):
        return ()
    return tuple(token for token in (found if isinstance(found, list) else [found]) if isinstance(token, int))
