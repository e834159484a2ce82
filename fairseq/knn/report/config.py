"""The flags of ``fairseq-knnlm report``; imports neither torch nor FAISS."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fairseq.config.flags import flag
from fairseq.config.kinds import Dir, File, Place, Places
from fairseq.knn.config import LEAST_TEMPERATURE


@dataclass(frozen=True)
class ReportConfig:
    """What to show, how neighbours are weighed, and the size of the page."""

    retrieval: Dir = flag(dataclasses.MISSING, "directory that fairseq-eval-lm --save-retrieval wrote", positional=True)
    out: File | None = flag(None, "page to write [default: RETRIEVAL/report.html]")
    lmbda: float | None = flag(
        None, "weight of the neighbours [default: sweep's choice, else that of the run]", minimum=0, maximum=1
    )
    k: int | None = flag(None, "neighbours that vote [default: sweep's choice, else all that were saved]", minimum=1)
    knn_temp: float | Literal["auto"] | None = flag(
        None,
        "temperature of their softmax, or auto [default: sweep's choice, else that of the run]",
        minimum=LEAST_TEMPERATURE,
    )
    data: Place | None = flag(None, "the evaluated text, if it has moved: its directory, or the split without suffix")
    dstore_data: Places | None = flag(
        None, r"the datastore's text, if it has moved; A:B for several (a colon in a name: \:)"
    )
    neighbours: int = flag(8, "neighbours to show for each token", minimum=1, maximum=64)
    max_tokens: int = flag(200_000, "show the first N tokens", minimum=1)
    max_megabytes: float = flag(
        30, "room for neighbours; if it is short, only tokens with the largest gains and harms have them", minimum=0
    )
    overwrite: bool = flag(False, "replace an existing page")
