"""The flags of ``fairseq-knnlm report``; imports neither torch nor FAISS."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.knn.config import LEAST_TEMPERATURE


@dataclass(frozen=True)
class ReportConfig:
    """The saved retrieval that is shown, how its neighbours are weighed, and how large the page may be."""

    retrieval: str = flag(dataclasses.MISSING, "directory that fairseq-eval-lm --save-retrieval wrote", positional=True)
    out: str | None = flag(None, "the page; report.html in the directory if left out")
    lmbda: float | None = flag(None, "weight of the neighbours; that of the run if left out", minimum=0, maximum=1)
    k: int | None = flag(None, "the nearest neighbours that vote; all that were saved if left out", minimum=1)
    knn_temp: float | None = flag(
        None, "temperature of their softmax; that of the run if left out", minimum=LEAST_TEMPERATURE
    )
    data: str | None = flag(None, "where the scored text is now: its directory, or the split without suffix")
    dstore_data: str | None = flag(
        None, r"where the datastore's text is now, likewise; of several, separated by colons (\: is a colon in a name)"
    )
    neighbours: int = flag(8, "neighbours of a token that are shown", minimum=1, maximum=64)
    max_tokens: int = flag(200_000, "tokens that are shown, the first ones", minimum=1)
    max_megabytes: float = flag(
        30, "room for neighbours; where it is short, tokens with the largest change have them", minimum=0
    )
    overwrite: bool = flag(False, "replace a page that is there")
