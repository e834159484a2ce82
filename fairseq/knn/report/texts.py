"""The texts of a retrieval: the one that was scored, and those that the datastores were written from.

Which row is which token, the retrieval says (fairseq/knn/retrieval/datastores.py), if the texts were cut into blocks
without regard to their sentences. A datastore has one text, or several where rows were appended to it. All lie in one
array, in the order of ids, with a <pad> between them, which stands in none:

    source      [~~~ A's first ~~~] <pad> [~~~ A's second ~~~] <pad> [~~~~~ B's ~~~~~]
    ids         0 …                       r …                        a … (offset of B)

All are compared with the retrieval before anything is shown of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fairseq.arrays import Array, Int64s
from fairseq.config.path_lists import split_paths
from fairseq.data.dictionary import PAD, Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.passages.split_text import SplitText, open_split
from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore.provenance import split_at
from fairseq.knn.datastore.row_map import RowMap, joined
from fairseq.knn.retrieval.datastores import RetrievalPart
from fairseq.knn.retrieval.format import RetrievalManifest
from fairseq.knn.retrieval.retrieval import Retrieval

_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class StoreText:
    """A text that rows of a datastore were written from.

    Attributes:
        store: the number of the datastore.
        first_id: id of its first row.
        first_row: that row's number in the datastore.
        start: where the text begins in ``Texts.source``.
        stop: where it ends.
    """

    store: int
    first_id: int
    first_row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Texts:
    """Token ids of the scored text and of the datastores', and the words of both.

    Attributes:
        text: every id of the scored split.
        source: every id of the datastores' texts.
        parts: what is where in ``source``, in its order, which is that of the ids.
        rows: where the row of each id stands in ``source``.
        stores: names of the datastores, for people.
        dictionary: the words.
        split: the scored text as people read it.
        sources: the datastores' texts, likewise, one for each of ``parts``.
    """

    text: Array
    source: Array
    parts: tuple[StoreText, ...]
    rows: RowMap
    stores: tuple[str, ...]
    dictionary: Dictionary
    split: SplitText
    sources: tuple[SplitText, ...]

    @property
    def source_tokens(self) -> int:
        """Tokens of the datastores' texts."""
        return sum(part.stop - part.start for part in self.parts)

    def pieces_of_rows(self) -> dict[str, list[int]]:
        """Returns the pieces of ``source`` in which tokens and rows count on together, ascending.

        ``at``: where each begins; ``row``: which row of its datastore that is; ``store``: the datastore's number.
        """
        first_id, first_row, store = (
            np.array([getattr(part, name) for part in self.parts]) for name in ("first_id", "first_row", "store")
        )
        part_P = np.searchsorted(first_id, self.rows.row_P, side="right") - 1
        row_P = self.rows.row_P - first_id[part_P] + first_row[part_P]
        return {"at": self.rows.at_P.tolist(), "row": row_P.tolist(), "store": store[part_P].tolist()}

    @cached_property
    def count_V(self) -> Int64s:  # noqa: N802 - an array by its shape
        """How often each word occurs in the datastores' texts, by id."""
        counts = np.zeros(len(self.dictionary), np.int64)
        for start in range(0, len(self.source), _COUNTED_AT_ONCE):
            counts += np.bincount(self.source[start : start + _COUNTED_AT_ONCE], minlength=len(counts))
        counts[PAD] -= len(self.parts) - 1
        return counts


def open_texts(retrieval: Retrieval, data: str | None, dstore_data: str | None) -> Texts:
    """Returns the texts that a retrieval's manifest names, or that stand where the flags say.

    Args:
        retrieval: the retrieval.
        data: ``--data``: directory of the scored text, or its split without suffix.
        dstore_data: ``--dstore-data``, likewise; of several datastores, separated by colons.

    Raises:
        ConfigError: ``dstore_data`` does not name as many places as there are datastores, or a split for several.
        DatastoreError: the manifest does not say where the texts are, or which row is which token.
        MismatchError: the dictionary is another one.
    """
    stores, directory = retrieval.parts, retrieval.directory
    if any(text.map is None for store in stores for text in store.texts):
        raise DatastoreError(
            f"{directory} does not say which token of its text each row of the datastore is; give the datastore a"
            " manifest (fairseq-knnlm adopt), cut with --sample-break-mode none or document, and retrieve again"
        )
    prefix = _split_prefix(retrieval.manifest.data, data, "--data", directory)
    prefixes = _source_prefixes(stores, dstore_data, directory)
    dictionary = _dictionary(retrieval.manifest, prefix, moved=data is not None)
    text, *sources = [MMapIndexedDataset(name) for name in (prefix, *prefixes)]
    for part, name in zip((text, *sources), (prefix, *prefixes), strict=True):
        part.check_ids(len(dictionary), f"the dictionary of {name.parent}")
    names = tuple(Path(store.prefix).name for store in stores)
    split, *read = (
        open_split(name, part, dictionary) for part, name in zip((text, *sources), (prefix, *prefixes), strict=True)
    )
    joined_texts = _joined(stores, [part.tokens for part in sources])
    return Texts(text.tokens, *joined_texts, names, dictionary, split, tuple(read))


def _source_prefixes(stores: Sequence[RetrievalPart], given: str | None, directory: Path) -> list[Path]:
    """Returns where each text of each datastore is."""
    places = [None] * len(stores) if given is None else split_paths(given)
    if len(places) != len(stores):
        raise ConfigError(
            f"--dstore-data names {len(places)}, but {directory} was saved with {len(stores)} datastores; give the text"
            " of each, in their order, separated by colons"
        )
    prefixes = []
    for store, place in zip(stores, places, strict=True):
        if len(store.texts) > 1 and Path(f"{place}.idx").is_file():
            raise ConfigError(
                f"--dstore-data {place} is one text, but {store.prefix} was written from {len(store.texts)}; give the"
                " directory that holds them all"
            )
        prefixes += [_split_prefix(text.data, place, "--dstore-data", directory) for text in store.texts]
    return prefixes


def _joined(stores: Sequence[RetrievalPart], tokens: Sequence[Array]) -> tuple[Array, tuple[StoreText, ...], RowMap]:
    """Returns the texts in one array, what is where in it, and where each id is; a single text stays where it is."""
    parts, maps, pieces, start, first_id, taken = [], [], list[Array](), 0, 0, iter(tokens)
    for number, store in enumerate(stores):
        for text in store.texts:
            assert text.map is not None
            source = next(taken)
            parts.append(StoreText(number, first_id, first_id - store.offset, start, start + len(source)))
            maps.append(text.map)
            pieces += [source, np.full(1, PAD, source.dtype)]
            start, first_id = start + len(source) + 1, first_id + (text.map.rows or 0)
    rows = joined(maps, [part.stop - part.start + 1 for part in parts])
    return (tokens[0] if len(tokens) == 1 else np.concatenate(pieces[:-1])), tuple(parts), rows


def _split_prefix(recorded: str | None, given: str | None, flag: str, directory: Path) -> Path:
    if given is not None:
        return split_at(recorded, given) if recorded else Path(given)
    if not recorded:
        raise DatastoreError(f"{directory} does not say where the text is; give {flag}, its directory or its split")
    if not Path(f"{recorded}.idx").is_file():
        raise DatastoreError(f"{directory} was made with {recorded}, which is not there; give {flag} where it is now")
    return Path(recorded)


def _dictionary(manifest: RetrievalManifest, prefix: Path, *, moved: bool) -> Dictionary:
    path = Path(manifest.dictionary) if manifest.dictionary and not moved else prefix.parent / "dict.txt"
    dictionary = Dictionary.load(path)
    wanted = manifest.identity.dictionary_sha256
    if wanted is not None and wanted != dictionary.sha256():
        raise MismatchError(
            f"the retrieval was made with dictionary {wanted[:12]}, but {path} is {dictionary.sha256()[:12]}; give"
            " --data the directory with the dictionary of the run"
        )
    return dictionary


def check_targets(text: Array, position_N: Array, target_N: Array) -> None:
    """Raises MismatchError where a text is not the one that was scored."""
    inside = position_N.min() >= 0 and position_N.max() < len(text)
    if not inside or not np.array_equal(text[position_N], target_N):
        raise MismatchError(
            "the scored text must be the one that the retrieval was made with, but its tokens differ; give the data"
            " directory of the run"
        )


def source_positions(texts: Texts, ids_NK: Array) -> Int64s:
    """Returns where each row stands in the datastores' texts; −1 for no row.

    Raises:
        MismatchError: a text is too short to have them.
    """
    ids_NK = ids_NK.astype(np.int64)
    at_NK = texts.rows.positions(ids_NK)
    ends = [*(part.first_id for part in texts.parts[1:]), np.inf]
    for part, end in zip(texts.parts, ends, strict=True):
        last = int(ids_NK.max(initial=-1, where=ids_NK < end))
        at = int(texts.rows.positions(np.array(last)))
        if last >= part.first_id and at >= part.stop:
            raise MismatchError(
                f"the datastore's text has {part.stop - part.start} tokens, but row"
                f" {last - part.first_id + part.first_row} is token {at - part.start}; give --dstore-data the text that"
                " the datastore was written from"
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
