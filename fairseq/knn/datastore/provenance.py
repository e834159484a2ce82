"""Where a row comes from: its source, document, line, and place in the text; and the rows of a document.

    row ── segment ── row of the source ── token of the text ── line ── document
           (manifest.py)              (row_map.py)    (.idx)    (data/passages)

Nothing of this is stored for each row: how the text was cut says it, and the segments what was appended or taken out.
That a text is the one that the rows were written from, its checksum says, and the rows' values, which are its tokens.

Legend: N rows.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Array, Int64s
from fairseq.config.flags import coerce
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.config import BREAK_MODES
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.passages.documents import Documents
from fairseq.data.passages.split_text import Passage, SplitText, open_split
from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore.format import values_path
from fairseq.knn.datastore.manifest import Segment
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.row_map import source_map
from fairseq.knn.datastore.store import Datastore


@dataclass(frozen=True)
class Place:
    """Where a row comes from.

    Attributes:
        row: in the datastore.
        position: of its token, counted from the text's first.
        line: of the text, counted from 0; of a file that was tokenized whole, from 1.
        token_of_line: which token of its line it is.
        document: number in its text, None before the first one.
    """

    row: int
    source: "Source"
    position: int
    line: int
    token_of_line: int
    document: int | None


class Source:
    """A segment of a datastore with its text.

    Args:
        segment: the segment.
        first_row: its first row in the datastore.
        prefix: of the text's files.
        dictionary: of the text.
        document_start: pattern of a document's first line; what the text looks like decides without.

    Attributes:
        text: its lines.
        map: from the segment's rows, counted from 0, to tokens of the text.

    Raises:
        MismatchError: the text is not the one that the rows were written from.
    """

    def __init__(
        self, segment: Segment, first_row: int, prefix: Path, dictionary: Dictionary, document_start: str | None
    ) -> None:
        self.segment, self.first_row, self.prefix, self.dictionary = segment, first_row, prefix, dictionary
        self._document_start = document_start
        self.text = MMapIndexedDataset(prefix)
        self.text.check_ids(len(dictionary), str(prefix.parent / "dict.txt"))
        dataset = _dataset(self.text, segment.settings)
        recorded = segment.settings.get("data_sha256")
        if isinstance(recorded, str) and (sha256 := dataset.sha256()) != recorded:
            raise MismatchError(
                f"{self.text.tokens_path} has sha256 {sha256[:12]}, but the rows were written from {recorded[:12]};"
                " give --data the directory that holds that text now"
            )
        whole = source_map(dataset)
        if whole.rows is None or whole.rows < segment.source_rows:
            raise MismatchError(
                f"{prefix} gives {whole.rows} rows, cut as the datastore's, but there are {segment.source_rows}; give"
                " --data the directory that holds the text that it was written from"
            )
        self.map = whole.within(segment.spans)

    @cached_property
    def split(self) -> SplitText:
        """The text as people read it."""
        return open_split(self.prefix, self.text, self.dictionary, self._document_start)

    @property
    def documents(self) -> Documents:
        """The documents of the text."""
        return self.split.documents

    def position(self, row: int) -> int:
        """Returns which token of the text a row of the datastore is."""
        return int(self.map.positions(np.array([row - self.first_row]))[0])

    def around(self, row: int, before: int, after: int) -> Passage:
        """Returns a row's token with the text around it, up to so many tokens before it and after it."""
        return self.split.around(self.position(row), before, after)

    def title(self, document: int) -> str:
        """Returns the title of a document: its first line, or the file that it is."""
        return self.split.name_of(document)

    def rows_of(self, document: int) -> RowRanges:
        """Returns the rows of the datastore whose tokens stand in a document."""
        start, stop = int(self.documents.start_D[document]), int(self.documents.stop_D[document])
        return self.map.rows_of(start, stop).shifted(self.first_row)


def _dataset(text: MMapIndexedDataset, settings: dict[str, Any]) -> BlockDataset:
    """Returns the blocks of a text, cut as a segment's settings say."""
    try:
        mode, size = settings["sample_break_mode"], coerce(settings["tokens_per_sample"], int, "tokens_per_sample")
        window = coerce(settings["context_window"], int, "context_window")
    except (KeyError, ConfigError) as err:
        raise DatastoreError(
            f"the datastore's manifest does not say how its text was cut ({err}); fairseq-knnlm adopt --data writes it"
        ) from err
    if mode not in BREAK_MODES or size < 1 or window < 0:
        raise DatastoreError(
            f"the datastore's manifest says that its text was cut by {mode!r}, {size}, {window}, which cannot be;"
            " restore it"
        )
    dataset = BlockDataset(text.tokens, text.sizes, mode, size, window, bool(settings.get("add_bos_token")))
    longest = settings.get("longest_block")
    return dataset if type(longest) is not int else dataset.without_longer_than(longest)[0]


def split_at(recorded: str, given: str | Path | None) -> Path:
    """Returns where a split is, without suffix.

    Args:
        recorded: where it was.
        given: where it is now, if not there: its directory, or the split itself.
    """
    if given is None:
        return Path(recorded)
    return Path(given) if Path(f"{given}.idx").is_file() else Path(given) / Path(recorded).name


class Provenance:
    """The sources of a datastore's rows.

    Args:
        store: the datastore.
        data: ``--data``: directory of the texts, where they have moved; of a single text, also its split.
        document_start: ``--document-start``.

    Attributes:
        segments: of the datastore.
        first_row_S: the first row of each, and one more entry: all rows.
    """

    def __init__(self, store: Datastore, data: str | Path | None = None, document_start: str | None = None) -> None:
        self.store, self._data, self._document_start = store, data, document_start
        self.segments = store.require_manifest().all_segments
        self.first_row_S = np.cumsum([0, *(segment.rows for segment in self.segments)])
        self._sources: dict[int, Source] = {}

    def segment_of(self, row: int) -> int:
        """Returns the number of a row's segment."""
        return int(np.searchsorted(self.first_row_S, row, side="right")) - 1

    def rows_of_segment(self, number: int) -> RowRanges:
        """Returns the rows of a segment."""
        return RowRanges.of([self.first_row_S[number : number + 2].tolist()])

    def source(self, number: int) -> Source:
        """Returns a segment with its text.

        Raises:
            DatastoreError: the manifest does not name it, or it is not there.
            MismatchError: it is another text, or has another dictionary.
        """
        if number in self._sources:
            return self._sources[number]
        segment, wanted = self.segments[number], self.store.model.dictionary_sha256
        recorded = segment.settings.get("data")
        if not isinstance(recorded, str) or not recorded:
            raise DatastoreError(
                f"{self.store.prefix} does not say of which text its rows {self.first_row_S[number]} to"
                f" {self.first_row_S[number + 1] - 1} are; fairseq-knnlm adopt --data writes it down"
            )
        prefix = split_at(recorded, self._data)
        if not Path(f"{prefix}.idx").is_file():
            raise DatastoreError(
                f"{self.store.prefix} was written from {recorded}, but there is no {prefix}.idx; give --data the"
                " directory that holds the text now"
            )
        dictionary = Dictionary.load(prefix.parent / "dict.txt")
        if wanted not in (None, dictionary.sha256()):
            raise MismatchError(
                f"{self.store.prefix} was written with dictionary {str(wanted)[:12]}, but"
                f" {prefix.parent / 'dict.txt'} is {dictionary.sha256()[:12]}; give --data the directory of its text"
            )
        source = Source(segment, int(self.first_row_S[number]), prefix, dictionary, self._document_start)
        self._sources[number] = source
        return source

    def sources(self) -> list[Source]:
        """Returns every segment with its text."""
        return [self.source(number) for number in range(len(self.segments))]

    def place(self, row: int) -> Place:
        """Returns where a row comes from, after comparing its value with the text."""
        source = self.source(self.segment_of(row))
        self.check_values(source, np.array([row]))
        position = source.position(row)
        return Place(row, source, position, *source.split.line_of(position), source.documents.of(position))

    def check_values(self, source: Source, row_N: Int64s) -> None:
        """Raises MismatchError where the values of rows are not the text's tokens, DatastoreError without values."""
        if not len(self.store.values_N):
            raise DatastoreError(
                f"{values_path(self.store.prefix)} is not on this machine; copy it here to see the rows' text"
            )
        at_N = source.map.positions(row_N - source.first_row)
        token_N: Array = source.text.tokens[at_N]
        wrong_N = np.flatnonzero(token_N != self.store.values_N[row_N])
        if len(wrong_N):
            row = int(row_N[wrong_N[0]])
            raise MismatchError(
                f"{self.store.prefix}: row {row} holds the value {int(self.store.values_N[row])}, but token"
                f" {int(at_N[wrong_N[0]])} of {source.prefix} is {int(token_N[wrong_N[0]])}; give --data the directory"
                " that holds the text that the datastore was written from"
            )
