"""The two texts of a retrieval: the one that was scored, and the one that the datastore was written from.

Which row is which token, the retrieval says (fairseq/knn/row_map.py), if the text was cut into blocks without regard to
its sentences. Where a datastore has several sources, their texts stand one behind the other here, with an end of line
between two. Both texts are compared with the retrieval before anything is shown of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.data.block_dataset import EOS
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.row_map import RowMap, joined
from fairseq.knn.row_ranges import checked_ranges

Array = npt.NDArray[Any]

_COUNTED_AT_ONCE = 1 << 22
_LARGEST = 2**53


@dataclass(frozen=True)
class Texts:
    """Token ids of the scored text and of the datastore's, and the words of both.

    Attributes:
        text: every id of the scored split.
        source: every id of the datastore's text.
        rows: where each row stands in ``source``.
        dictionary: the words.
    """

    text: Array
    source: Array
    rows: RowMap
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
    segments = _segments(manifest.get("datastore") or {}, directory)
    prefix = _split_prefix(manifest.get("data"), data, "--data", directory)
    prefixes = [_split_prefix(segment.get("data"), dstore_data, "--dstore-data", directory) for segment in segments]
    dictionary = _dictionary(manifest, prefix, moved=data is not None)
    text, *sources = [MMapIndexedDataset(name) for name in (prefix, *prefixes)]
    for part, name in zip((text, *sources), (prefix, *prefixes), strict=True):
        part.check_ids(len(dictionary), f"the dictionary of {name.parent}")
    maps = [_row_map(segment, directory) for segment in segments]
    if len(sources) == 1:
        return Texts(text.tokens, sources[0].tokens, maps[0], dictionary)
    pieces = [np.append(part.tokens, np.array(EOS, part.tokens.dtype)) for part in sources]
    return Texts(text.tokens, np.concatenate(pieces), joined(maps, [len(piece) for piece in pieces]), dictionary)


def _segments(store: Mapping[str, Any], directory: Path) -> list[Mapping[str, Any]]:
    """Returns the sources of a retrieval's datastore, each with the first token that has a row."""
    segments: Any = store.get("segments", [store])
    sound = isinstance(segments, list) and bool(segments) and all(isinstance(part, Mapping) for part in segments)
    if not sound or any(part.get("first_position") is None for part in segments):
        raise DatastoreError(
            f"{directory} does not say which token of its text each row of the datastore is; give the datastore a"
            " manifest (fairseq-knnlm adopt), cut with --sample-break-mode none, and retrieve again"
        )
    return list(segments)


def _row_map(segment: Mapping[str, Any], directory: Path) -> RowMap:
    first = np.array([int(segment["first_position"])])
    if "spans" not in segment:
        return RowMap(np.zeros(1, np.int64), first, None)
    spans = checked_ranges(segment["spans"], _LARGEST)
    if spans is None or not spans.num_rows:
        raise DatastoreError(f"{directory}: the spans of a source of the datastore are not sound; retrieve again")
    return RowMap(np.zeros(1, np.int64), first, int(spans.stop_R[-1])).within(spans)


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
    at_NK = texts.rows.positions(ids_NK.astype(np.int64))
    if at_NK.size and at_NK.max() >= len(texts.source):
        raise MismatchError(
            f"the datastore's text has {len(texts.source)} tokens, but row {ids_NK.max()} is"
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
