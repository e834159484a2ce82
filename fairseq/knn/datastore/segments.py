"""Where the rows of a datastore come from: its segments, one for each source that was written into it.

    rows     0 ──────────── 5000 ─────── 7400
    segment  train           valid             what a source gave, in order
    spans    [0, 1200)       [0, 2400)         which of the source's own rows are left after a compaction
             [1700, 5500)

A source is a text and the way it was cut into blocks (the manifest's ``settings``); its rows are numbered from 0, as a
datastore of it alone would have them. A datastore that was written in one go and never compacted records no segments:
it has one, of all its rows. Appending adds a segment, and leaves those before it as they were: so an index that was
built before is known by the id that the datastore had then (``earlier_states``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest import DatastoreManifest
from fairseq.knn.datastore.ranges import RowRanges, checked_ranges

# What says which text it is and how it was cut; the same of two sources means the same rows.
_SAME_SOURCE = (
    "data_sha256",
    "sample_break_mode",
    "tokens_per_sample",
    "context_window",
    "longest_block",
    "add_bos_token",
)
_MOST_ROWS = 2**53


@dataclass(frozen=True)
class Segment:
    """A run of a datastore's rows.

    Attributes:
        settings: text, blocks and context window of the run that wrote them.
        source_rows: how many rows the source has in all.
        spans: which of the source's rows these are.
    """

    settings: dict[str, Any]
    source_rows: int
    spans: RowRanges

    @property
    def rows(self) -> int:
        """Rows in the datastore."""
        return self.spans.num_rows

    @property
    def name(self) -> str:
        """The name of the text's split."""
        data = self.settings.get("data")
        return Path(data).name if isinstance(data, str) and data else "a text that is not recorded"

    def is_called(self, name: str) -> bool:
        """Returns whether the text's path ends in ``name``: ``train``, ``data-bin/train``, …."""
        data, wanted = Path(str(self.settings.get("data") or "")).parts, Path(name).parts
        return len(wanted) > 0 and data[-len(wanted) :] == wanted

    def is_of(self, settings: dict[str, Any]) -> bool:
        """Returns whether the rows are of a source of these settings."""
        known = self.settings.get("data_sha256") is not None
        return known and all(self.settings.get(name) == settings.get(name) for name in _SAME_SOURCE)

    def without(self, forgotten: RowRanges) -> "Segment":
        """Returns what is left when some of its rows are taken out; they are numbered from the segment's first."""
        left = forgotten.complement(self.rows)
        pieces = []
        for start, stop in left.pairs:  # a run of rows may go over several spans of the source
            inside = RowRanges.of([[start, stop]])
            pieces += _source_pairs(self.spans, inside)
        return replace(self, spans=RowRanges.of(pieces))

    def record(self) -> dict[str, Any]:
        """Returns the segment as the manifest has it."""
        return {"settings": self.settings, "source_rows": self.source_rows, "spans": self.spans.pairs}


def _source_pairs(spans: RowRanges, rows: RowRanges) -> list[list[int]]:
    """Returns the source's rows at some places among those of the spans."""
    pairs, before = [], 0
    for start, stop in spans.pairs:
        inside = rows.within(before, before + stop - start)
        pairs += inside.shifted(start - before).pairs
        before += stop - start
    return pairs


def segments_of(manifest: DatastoreManifest, where: str | Path) -> list[Segment]:
    """Returns the segments of a datastore, in the order of its rows.

    Args:
        manifest: of the datastore.
        where: its file, for messages.

    Raises:
        DatastoreError: they are not sound, or are not of as many rows as there are.
    """
    if not manifest.segments:
        return [Segment(manifest.settings, manifest.rows, RowRanges.of([[0, manifest.rows]]))]
    segments = []
    for number, record in enumerate(manifest.segments):
        settings, source_rows = record.get("settings"), record.get("source_rows")
        sound = isinstance(settings, dict) and type(source_rows) is int and 0 < source_rows < _MOST_ROWS
        spans = checked_ranges(record.get("spans"), source_rows) if sound else None  # type: ignore[arg-type]
        if not isinstance(settings, dict) or not isinstance(source_rows, int) or spans is None or not spans.num_rows:
            raise DatastoreError(
                f"{where}: segment {number} must have settings, source_rows and spans of rows, but is"
                f" {str(record)[:80]!r}; restore the manifest"
            )
        segments.append(Segment(settings, source_rows, spans))
    total = sum(segment.rows for segment in segments)
    if total != manifest.rows:
        raise DatastoreError(
            f"{where}: the segments must have the {manifest.rows} rows of the datastore, but have {total}; restore the"
            " manifest"
        )
    return segments


def first_rows(segments: list[Segment], rows: int) -> list[Segment]:
    """Returns the segments of a datastore's first ``rows`` rows."""
    kept, before = [], 0
    for segment in segments:
        if before < rows:
            kept.append(segment.without(RowRanges.of([[rows - before, segment.rows]])))
        before += segment.rows
    return kept


def with_segments(manifest: DatastoreManifest, segments: list[Segment]) -> DatastoreManifest:
    """Returns a manifest of other rows: those of ``segments``."""
    first, rows = segments[0], sum(segment.rows for segment in segments)
    bare = len(segments) == 1 and first.rows == first.source_rows
    records = () if bare else tuple(segment.record() for segment in segments)
    return replace(manifest, rows=rows, settings=first.settings, segments=records)


def earlier_states(manifest: DatastoreManifest, where: str | Path) -> Iterator[DatastoreManifest]:
    """Yields the datastore as it is, then as it was before each of its appended segments, the latest first."""
    segments = segments_of(manifest, where)
    for count in range(len(segments), 0, -1):
        yield with_segments(manifest, segments[:count])
