"""Whether the rows of a datastore were written with contexts like those of the evaluated tokens.

A key is near a query if both vectors stand for like contexts, and a vector of a short context says less. With a context
window of W and blocks of B tokens, a token has from W to W + B − 1 tokens before it:

    datastore   W 1536, B 1536      1536 to 3071
    evaluation  W 2560, B 512       2560 to 3071      the published run: every row has more than half of 2560

Windows need not be equal, then: a longer one costs time, and the last hundreds of many tokens change little. Two cuts
are told apart where a tenth of the tokens of one have less than half of the context that every token of the other has.
Blocks that are sentences or documents have no length of their own, and only their window counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairseq.knn.datastore.store import Datastore

SHORT_SHARE = 0.1


@dataclass(frozen=True)
class Cut:
    """How a text was cut: the context window, and the tokens of a block, 1 where blocks have no length of their own."""

    window: int
    block_size: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Cut | None":
        """Returns the cut of a datastore's text, or of an evaluation's; None where it is not known."""
        window, size = settings.get("context_window"), settings.get("tokens_per_sample")
        if type(window) is not int or type(size) is not int or size < 1:
            return None
        return cls(window, size if settings.get("sample_break_mode") in ("none", "complete") else 1)

    def share_short_of(self, other: "Cut") -> float:
        """Returns the share of tokens with less than half of the context that every token of another cut has."""
        least = -(-other.window // 2)
        return min(max(least - self.window, 0), self.block_size) / self.block_size


def context_warning(stores: Sequence[Datastore], evaluated: Cut) -> str | None:
    """Returns a warning, and what to do, where rows and evaluated tokens have contexts of different lengths."""
    for store in stores:
        for segment in store.manifest.all_segments if store.manifest is not None else ():
            cut = Cut.of(segment.settings)
            if cut is None:
                continue
            named, window = f"--context-window {cut.window}", f"--context-window {evaluated.window}"
            if (share := cut.share_short_of(evaluated)) > SHORT_SHARE:
                return (
                    f"{store.prefix} was written with {named}, and this run has {window}: {share:.0%} of the rows have"
                    " less than half of the context that every evaluated token has, and are found less well; write the"
                    f" datastore with {window}, or evaluate with {named}"
                )
            if (share := evaluated.share_short_of(cut)) > SHORT_SHARE:
                return (
                    f"this run has {window}, and {store.prefix} was written with {named}: {share:.0%} of the evaluated"
                    " tokens have less than half of the context that every row has, and find less; evaluate with"
                    f" {named}"
                )
    return None
