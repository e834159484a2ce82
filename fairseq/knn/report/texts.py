"""The two texts of a retrieval: the one that was scored, and the one that the datastore was written from.

Row r of a datastore is token first_position + r of its text, if that text was cut into blocks without regard to its
sentences. Both texts are compared with the retrieval before anything is shown of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import DatastoreError, MismatchError

Array = npt.NDArray[Any]

_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Texts:
    """Token ids of the scored text and of the datastore's, and the words of both.

    Attributes:
        text: every id of the scored split.
        source: every id of the datastore's text.
        first_position: where row 0 stands in ``source``.
        dictionary: the words.
    """

    text: Array
    source: Array
    first_position: int
    dictionary: Dictionary

    def source_counts(self) -> npt.NDArray[np.int64]:
        """Returns how often each word occurs in the datastore's text, by id."""
        counts = np.zeros(len(self.dictionary), np.int64)
        for start in range(0, len(self.source), _COUNTED_AT_ONCE):
            counts += np.bincount(self.source[start : start + _COUNTED_AT_ONCE], minlength=len(counts))
        return counts


def open_texts(manifest: Mapping[str, Any], directory: Path, data: str | None, dstore_data: str | None) -> Texts:
    """Returns the texts that a retrieval's manifest names, or that stand where the flags say.

    Args:
        manifest: of the retrieval.
        directory: of the retrieval, for messages.
        data: ``--data``: directory of the scored text, or its split without suffix.
        dstore_data: ``--dstore-data``, likewise.

    Raises:
        DatastoreError: the manifest does not say where the texts are, or which row is which token.
        MismatchError: the dictionary is another one.
    """
    store = manifest.get("datastore") or {}
    first_position = store.get("first_position")
    if first_position is None:
        raise DatastoreError(
            f"{directory} does not say which token of its text each row of the datastore is; give the datastore a"
            " manifest (fairseq-knnlm adopt), cut with --sample-break-mode none, and retrieve again"
        )
    prefix = _split_prefix(manifest.get("data"), data, "--data", directory)
    source_prefix = _split_prefix(store.get("data"), dstore_data, "--dstore-data", directory)
    dictionary = _dictionary(manifest, prefix, moved=data is not None)
    text, source = MMapIndexedDataset(prefix), MMapIndexedDataset(source_prefix)
    for part, name in ((text, prefix), (source, source_prefix)):
        part.check_ids(len(dictionary), f"the dictionary of {name.parent}")
    return Texts(text.tokens, source.tokens, int(first_position), dictionary)


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
    """Returns where each row stands in the datastore's text; −1 for no row.

    Raises:
        MismatchError: the text is too short to have them.
    """
    at_NK = np.where(ids_NK >= 0, ids_NK.astype(np.int64) + texts.first_position, -1)
    if at_NK.size and at_NK.max() >= len(texts.source):
        raise MismatchError(
            f"the datastore's text has {len(texts.source)} tokens, but row {at_NK.max() - texts.first_position} is"
            f" token {at_NK.max()}; give --dstore-data the text that the datastore was written from"
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
