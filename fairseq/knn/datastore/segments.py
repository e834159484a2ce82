"""Runs of a datastore's rows, each of one source, as its manifest has them (fairseq/knn/datastore/manifest.py)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fairseq.knn.datastore.ranges import RowRanges
from fairseq.storage.records import Positive, Record

# What says which text it is and how it was cut; the same of two sources means the same rows.
_SAME_SOURCE = (
    "data_sha256",
    "sample_break_mode",
    "tokens_per_sample",
    "context_window",
    "longest_block",
    "add_bos_token",
    "bos_in_front",
)


class Segment(Record, frozen=True):
    """A run of a datastore's rows, as its manifest has it.

    Attributes:
        settings: text, blocks and context window of the run that wrote them.
        source_rows: how many rows the source has in all.
        spans: which of the source's rows these are.
    """

    settings: dict[str, Any]
    source_rows: Positive
    spans: RowRanges

    def __post_init__(self) -> None:
        last = int(self.spans.stop_R.max(initial=0))
        if last > self.source_rows:
            raise ValueError(f"must have spans of its {self.source_rows} source_rows, but they end at {last}")

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
        pairs, before = [], 0
        for start, stop in self.spans.pairs:
            pairs += left.within(before, before + stop - start).shifted(start - before).pairs
            before += stop - start
        return self.replace(spans=RowRanges.of(pairs))


def first_rows(segments: Iterable[Segment], rows: int) -> list[Segment]:
    """Returns the segments of a datastore's first ``rows`` rows."""
    kept, before = [], 0
    for segment in segments:
        if before < rows:
            kept.append(segment.without(RowRanges.of([[rows - before, segment.rows]])))
        before += segment.rows
    return kept
