"""Where the gain comes from: tokens in groups, and what each group adds.

The mean gain in bits is a sum over groups: Σ_g (N_g / N) · mean gain of g. The share of a group is its term of that
sum, so that the shares of one table add up to the whole gain.

Legend: N scored tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fairseq.arrays import Float64s, Int64s, UInt8s
from fairseq.data.dictionary import EOS, SPECIALS
from fairseq.knn.report.scores import Columns

NUM_DISTANCE_GROUPS = 10
FREQUENCIES = (1, 10, 100, 1_000, 10_000, 100_000)  # least occurrences of each group but the first
OVERLAPS = (0, 1, 2, 3, 5, 9, 17, 33)  # least length of each group but the first, which has no hit
WORD = "word"
KINDS = ("words", "words with digits", "numbers", "punctuation", "end of line", "special symbols")


@dataclass(frozen=True)
class Grouping:
    """A way to put tokens into groups.

    Attributes:
        title: heading of the table.
        note: what the groups are.
        labels: of the groups.
        code_N: uint8, the group of each token.
    """

    title: str
    note: str
    labels: tuple[str, ...]
    code_N: UInt8s


def gain_by_group(grouping: Grouping, gain_N: Float64s) -> list[tuple[str, float]]:
    """Returns the label and the share of the mean gain, in bits a token, of every group that has tokens."""
    size = len(grouping.labels)
    with np.errstate(invalid="ignore"):  # a gain of ∞ beside one of −∞
        share_bits = np.bincount(grouping.code_N, gain_N, size) / math.log(2) / len(gain_N)
    count = np.bincount(grouping.code_N, minlength=size)
    return [(grouping.labels[group], float(share_bits[group])) for group in np.flatnonzero(count)]


def by_frequency(count_N: Int64s, unit: str = WORD) -> Grouping:
    """Groups tokens by how often they occur in the datastore's text."""
    code_N = np.searchsorted(FREQUENCIES, count_N, side="right").astype(np.uint8)
    labels = ("never", *_ranges(FREQUENCIES))
    return Grouping(f"How often the {unit} occurs", "occurrences in the datastore's text", labels, code_N)


def by_distance(nearest_N: Float64s) -> Grouping:
    """Groups tokens by the distance of the nearest neighbour: ten groups of equal size, as far as ties allow."""
    found_N = np.isfinite(nearest_N)
    quantiles = np.linspace(0, 1, NUM_DISTANCE_GROUPS + 1)[1:-1]
    inner = np.unique(np.quantile(nearest_N[found_N], quantiles)) if found_N.any() else np.empty(0)
    code_N = np.searchsorted(inner, nearest_N, side="left").astype(np.uint8)
    code_N[~found_N] = len(inner) + 1
    edges = [f"{edge:.4g}" for edge in inner]
    between = [f"{low} – {high}" for low, high in pairwise(edges)]
    labels = (f"≤ {edges[0]}", *between, f"> {edges[-1]}") if edges else ("any",)
    note = "distance of the nearest neighbour, in groups of about equal size"
    return Grouping("How near the nearest neighbour is", note, (*labels, "no neighbour"), code_N)


def by_kind(symbols: Sequence[str], target_N: Int64s, unit: str = WORD) -> Grouping:
    """Groups tokens by what they are: words, numbers, punctuation."""
    code_V = np.array([_kind(symbol, idx) for idx, symbol in enumerate(symbols)], np.uint8)
    labels = KINDS if unit == WORD else tuple(kind.replace("words", "letters") for kind in KINDS)
    return Grouping("What the token is", "by its characters", labels, code_V[target_N])


def by_overlap(overlap_N: Int64s, unit: str = WORD) -> Grouping:
    """Groups tokens by how much of their context stands in the datastore word for word."""
    code_N = np.searchsorted(OVERLAPS, overlap_N, side="right").astype(np.uint8)
    note = (
        f"{unit}s right before the token that stand, the same, before one of its nearest hits; long runs are text that"
        " the datastore has seen: quotations, formulas, or a leak"
    )
    labels = ("no hit", *_ranges(OVERLAPS))
    return Grouping("How much of the context is verbatim in the datastore", note, labels, code_N)


def groupings(
    columns: Columns, symbols: Sequence[str], target_N: Int64s, count_N: Int64s, unit: str = WORD
) -> tuple[Grouping, ...]:
    """Returns the four ways to group the tokens, each of which is called a ``unit``."""
    return (
        by_frequency(count_N, unit),
        by_distance(columns.nearest_N),
        by_kind(symbols, target_N, unit),
        by_overlap(columns.overlap_N, unit),
    )


def _kind(symbol: str, idx: int) -> int:
    if idx == EOS or "\n" in symbol:
        return KINDS.index("end of line")
    if idx < len(SPECIALS):
        return KINDS.index("special symbols")
    letters, digits = any(map(str.isalpha, symbol)), any(map(str.isdigit, symbol))
    if letters:
        return KINDS.index("words with digits" if digits else "words")
    return KINDS.index("numbers" if digits else "punctuation")


def _ranges(least: Sequence[int]) -> list[str]:
    """Returns ``1 – 9, 10 – 99, ≥ 100`` for 1, 10, 100; a group of one number is that number."""
    labels = [f"{low:,}" if low == high - 1 else f"{low:,} – {high - 1:,}" for low, high in pairwise(least)]
    return [*labels, f"≥ {least[-1]:,}"]
