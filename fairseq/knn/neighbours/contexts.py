"""Whether the rows of a datastore were written with contexts like those of the evaluated tokens.

With a context window of W and blocks of B tokens, a token has from W to W + B − 1 tokens before it:

    datastore   W 1536, B 1536      1536 to 3071
    evaluation  W 2560, B 512       2560 to 3071      the published run: every row has more than half of 2560

Windows need not be equal. A model of 256 positions on WikiText-2, evaluated with W 192 (λ 0.25, T 3, 1,024 neighbours,
valid split by article; 252.06 without neighbours), with datastores of the same text:

    rows with     W 192, B 64     W 128, B 128     W 0, B 256     W 0, B 16
    perplexity    237.89          237.20           237.74         241.86

So only rows of very short contexts are found less well. A run warns where most tokens of one side have less than half
of the context that every token of the other has, and tells it where a tenth have. Blocks that are sentences or
documents have no length of their own, and only their window counts.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairseq.knn.datastore.store import Datastore

logger = logging.getLogger(__name__)

_OF_ONE_LENGTH = ("none", "complete", "isolated")  # modes whose blocks are, nearly
TOLD_SHARE, WARNED_SHARE = 0.1, 0.5


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
        return cls(window, size if settings.get("sample_break_mode") in _OF_ONE_LENGTH else 1)

    def share_short_of(self, other: "Cut") -> float:
        """Returns the share of tokens with less than half of the context that every token of another cut has."""
        least = -(-other.window // 2)
        return min(max(least - self.window, 0), self.block_size) / self.block_size


def tell_of_contexts(stores: Sequence[Datastore], evaluated: Cut) -> None:
    """Logs a line, and what to do, where rows and evaluated tokens have contexts of different lengths: the worst."""
    worst, line = TOLD_SHARE, None
    for store in stores:
        for segment in store.manifest.all_segments if store.manifest is not None else ():
            cut = Cut.of(segment.settings)
            if cut is None:
                continue
            named, window = f"--context-window {cut.window}", f"--context-window {evaluated.window}"
            written = f"{store.prefix} was written with {named}, and this run has {window}"
            for share, who, than, remedy in (
                (cut.share_short_of(evaluated), "rows", "evaluated token", f"write the datastore with {window}"),
                (evaluated.share_short_of(cut), "evaluated tokens", "row", f"evaluate with {named}"),
            ):
                if share > worst:
                    less = f"less than half of the context that every {than} has"
                    worst, line = share, f"{written}: {share:.0%} of the {who} have {less}; {remedy} for like contexts"
    if line is not None:
        logger.log(logging.WARNING if worst > WARNED_SHARE else logging.INFO, line)
