"""What was measured of indexes, as a table in which the ones worth having are marked.

A row is worth having (Pareto-optimal) if no other is at least as good in bytes per key, queries per second and
quality, and better in one of them. Quality is the loss where it was measured, else the recall.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

COLUMNS = ("", "index", "distances", "probe", "bytes/key", "train s", "add s", "recall", "queries/s", "loss", "gap")


@dataclass(frozen=True)
class Measured:
    """One index, searched in one way.

    Attributes:
        name: specification, or file.
        distances: ``own`` (the index's) or ``keys`` (recomputed from the stored keys).
        probe: lists visited, 0 for an index without any.
        bytes_per_key: of its file.
        train_s: seconds, None where it was there already.
        add_s: likewise.
        recall: share of the k nearest that it found.
        queries_per_s: of the search, distances included.
        loss: mean bits of the mixture; None without targets.
        gap: loss less that of an exact search.
    """

    name: str
    distances: str
    probe: int
    bytes_per_key: float
    train_s: float | None
    add_s: float | None
    recall: float
    queries_per_s: float
    loss: float | None = None
    gap: float | None = None

    def costs(self) -> tuple[float, float, float]:
        """Returns what should be small."""
        return self.bytes_per_key, -self.queries_per_s, -self.recall if self.loss is None else self.loss


def pareto(rows: Sequence[Measured]) -> list[bool]:
    """Returns which rows no other row beats."""
    return [not any(_beats(other.costs(), row.costs()) for other in rows) for row in rows]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def lines(rows: Sequence[Measured]) -> list[str]:
    """Returns the table, a line each; the rows worth having begin with a star."""
    cells = [COLUMNS, *(_cells(row, best) for row, best in zip(rows, pareto(rows), strict=True))]
    widths = [max(len(line[n]) for line in cells) for n in range(len(COLUMNS))]
    return [
        "  ".join(cell.ljust(width) if n < 3 else cell.rjust(width) for n, (cell, width) in enumerate(pairs)).rstrip()
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]


def _cells(row: Measured, best: bool) -> tuple[str, ...]:
    return (
        "*" if best else "", row.name, row.distances, str(row.probe) if row.probe else "", f"{row.bytes_per_key:.1f}",
        _number(row.train_s, ".1f"), _number(row.add_s, ".1f"), f"{row.recall:.4f}", f"{row.queries_per_s:.0f}",
        _number(row.loss, ".4f"), _number(row.gap, "+.4f"),
    )  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def records(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    """Returns the table as plain values for JSON."""
    return [{**asdict(row), "pareto": best} for row, best in zip(rows, pareto(rows), strict=True)]
