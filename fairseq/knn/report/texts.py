"""The texts of a retrieval: the one that was scored, and those that the datastores were written from.

Row r of a datastore is token first_position + r of its text, if that text was cut into blocks without regard to its
sentences. The texts of several datastores lie in one array, with a <pad> between them, which stands in none:

    source      [~~~ text of A ~~~] <pad> [~~~~~ text of B ~~~~~]
    ids         A's rows: offset 0        B's rows: offset a

All are compared with the retrieval before anything is shown of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.data.block_dataset import PAD
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.retrieval_parts import RetrievalPart, parts_of

Array = npt.NDArray[Any]

_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class SourceText:
    """The text of one datastore.

    Attributes:
        name: of the datastore, for people.
        offset: id of its first row.
        first_row: where that row stands in ``Texts.source``.
        start: where its text begins there.
        stop: where it ends.
    """

    name: str
    offset: int
    first_row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Texts:
    """Token ids of the scored text and of the datastores', and the words of both.

    Attributes:
        text: every id of the scored split.
        source: every id of the datastores' texts.
        parts: what is where in ``source``, in its order.
        dictionary: the words.
    """

    text: Array
    source: Array
    parts: tuple[SourceText, ...]
    dictionary: Dictionary

    @property
    def source_tokens(self) -> int:
        """Tokens of the datastores' texts."""
        return sum(part.stop - part.start for part in self.parts)

    def part_of(self, positions: Array) -> npt.NDArray[np.int64]:
        """Returns the number of the part that each token of ``source`` belongs to."""
        return np.searchsorted([part.start for part in self.parts], positions, side="right") - 1

    def row_of(self, positions: Array) -> npt.NDArray[np.int64]:
        """Returns the row that each token of ``source`` is in its datastore; negative before the first one."""
        first_rows = np.array([part.first_row for part in self.parts])
        rows: npt.NDArray[np.int64] = positions - first_rows[self.part_of(positions)]
        return rows

    def source_counts(self) -> npt.NDArray[np.int64]:
        """Returns how often each word occurs in the datastores' texts, by id."""
        counts = np.zeros(len(self.dictionary), np.int64)
        for start in range(0, len(self.source), _COUNTED_AT_ONCE):
            counts += np.bincount(self.source[start : start + _COUNTED_AT_ONCE], minlength=len(counts))
        counts[PAD] -= len(self.parts) - 1
        return counts


def open_texts(manifest: Mapping[str, Any], directory: Path, data: str | None, dstore_data: str | None) -> Texts:
    """Returns the texts that a retrieval's manifest names, or that stand where the flags say.

    Args:
        manifest: of the retrieval.
        directory: of the retrieval, for messages.
        data: ``--data``: directory of the scored text, or its split without suffix.
        dstore_data: ``--dstore-data``, likewise; of several datastores, separated by colons.

    Raises:
        DatastoreError: the manifest does not say where the texts are, or which row is which token.
        MismatchError: the dictionary is another one.
    """
    stores = parts_of(manifest, directory)
    if any(store.first_position is None for store in stores):
        raise DatastoreError(
            f"{directory} does not say which token of its text each row of the datastore is; give the datastore a"
            " manifest (fairseq-knnlm adopt), cut with --sample-break-mode none, and retrieve again"
        )
    prefix = _split_prefix(manifest.get("data"), data, "--data", directory)
    given = [None] * len(stores) if dstore_data is None else dstore_data.split(":")
    if len(given) != len(stores):
        raise ConfigError(
            f"--dstore-data names {len(given)}, but {directory} was saved with {len(stores)} datastores; give the text"
            " of each, in their order, separated by colons"
        )
    prefixes = [
        _split_prefix(store.data, place, "--dstore-data", directory) for store, place in zip(stores, given, strict=True)
    ]
    dictionary = _dictionary(manifest, prefix, moved=data is not None)
    text, *sources = [MMapIndexedDataset(name) for name in (prefix, *prefixes)]
    for part, name in zip((text, *sources), (prefix, *prefixes), strict=True):
        part.check_ids(len(dictionary), f"the dictionary of {name.parent}")
    source, parts = _joined(stores, [part.tokens for part in sources])
    return Texts(text.tokens, source, parts, dictionary)


def _joined(stores: Sequence[RetrievalPart], texts: Sequence[Array]) -> tuple[Array, tuple[SourceText, ...]]:
    """Returns the texts in one array, and what is where in it; a single text stays where it is."""
    parts, pieces, start = [], list[Array](), 0
    for store, text in zip(stores, texts, strict=True):
        assert store.first_position is not None
        stop = start + len(text)
        parts.append(SourceText(Path(store.prefix).name, store.offset, start + store.first_position, start, stop))
        pieces += [text, np.full(1, PAD, text.dtype)]
        start = stop + 1
    return (texts[0] if len(texts) == 1 else np.concatenate(pieces[:-1])), tuple(parts)


def _split_prefix(recorded: Any, given: str | None, flag: str, directory: Path) -> Path:
    if given is None:
        if not recorded:
            raise DatastoreError(f"{directory} does not say where the text is; give {flag}, its directory or its split")
        if not Path(f"{recorded}.idx").is_file():
            raise DatastoreError(
                f"{directory} was made with {recorded}, which is not there; give {flag} where it is now"
            )
        return Path(recorded)
    if Path(f"{given}.idx").is_file() or not recorded:
        return Path(given)
    return Path(given) / Path(recorded).name


def _dictionary(manifest: Mapping[str, Any], prefix: Path, *, moved: bool) -> Dictionary:
    recorded = manifest.get("dictionary")
    path = Path(recorded) if recorded and not moved else prefix.parent / "dict.txt"
    dictionary = Dictionary.load(path)
    wanted = (manifest.get("identity") or {}).get("dictionary_sha256")
    if wanted is not None and wanted != dictionary.sha256():
        raise MismatchError(
            f"the retrieval was made with dictionary {wanted[:12]}, but {path} is {dictionary.sha256()[:12]}; give"
            " --data the directory with the dictionary of the run"
        )
    return dictionary


def check_targets(texts: Texts, position_N: Array, target_N: Array) -> None:
    """Raises MismatchError where the scored text is not the one that was scored."""
    inside = len(position_N) == 0 or (position_N.min() >= 0 and position_N.max() < len(texts.text))
    if not inside or not np.array_equal(texts.text[position_N], target_N):
        raise MismatchError(
            "the scored text must be the one that the retrieval was made with, but its tokens differ; give --data the"
            " directory of the run"
        )


def source_positions(texts: Texts, ids_NK: Array) -> npt.NDArray[np.int64]:
    """Returns where each row stands in the datastores' texts; −1 for no row.

    Raises:
        MismatchError: a text is too short to have them.
    """
    ids_NK = ids_NK.astype(np.int64)
    at_NK = np.full(ids_NK.shape, -1, np.int64)
    ends = [*(part.offset for part in texts.parts[1:]), np.inf]
    for part, end in zip(texts.parts, ends, strict=True):
        there_NK = (ids_NK >= part.offset) & (ids_NK < end)
        at_NK[there_NK] = found = ids_NK[there_NK] - part.offset + part.first_row
        if found.size and (last := int(found.max())) >= part.stop:
            raise MismatchError(
                f"the datastore's text has {part.stop - part.start} tokens, but row {last - part.first_row} is token"
                f" {last - part.start}; give --dstore-data the text that the datastore was written from"
            )
    return at_NK


def check_hits(texts: Texts, source_at_NK: Array, target_N: Array, hits_NK: Array) -> None:
    """Raises MismatchError where a neighbour is a hit in the retrieval and not in the text, or the other way round."""
    found_NK = (texts.source[np.maximum(source_at_NK, 0)] == target_N[:, None]) & (source_at_NK >= 0)
    wrong = int((found_NK != hits_NK.astype(bool)).sum())
    if wrong:
        raise MismatchError(
            f"{wrong} of {found_NK.size} neighbours have another value in the datastore's text than in the datastore;"
            " give --dstore-data the text that the datastore was written from"
        )
