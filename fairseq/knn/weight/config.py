"""The flags of weights of each token's own, for fitting and for evaluating; imports neither torch nor FAISS."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fairseq.config.flags import flag
from fairseq.config.kinds import Dir, File, Prefixes
from fairseq.errors import ConfigError
from fairseq.knn.config import LEAST_TEMPERATURE


@dataclass(frozen=True)
class LmbdaModelConfig:
    """A weight λ for each token."""

    lmbda_model: File | None = flag(
        None,
        "with --knnlm, instead of --lmbda: a file of fairseq-knnlm fit-lmbda gives each token its own λ; --k and"
        " --knn-temp come from that file; with a cache of weight μ, λ is multiplied by 1 − μ",
    )
    skip_retrieval: float = flag(
        0.0,
        "with --lmbda-model: skip this share of the searches, those that are expected to gain least",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        if self.skip_retrieval and not self.lmbda_model:
            raise ConfigError("--skip-retrieval needs to know which searches gain least; give --lmbda-model FILE")


@dataclass(frozen=True)
class FitLmbdaConfig:
    """What to fit, and to which text."""

    directory: Dir = flag(
        dataclasses.MISSING,
        "directory that fairseq-eval-lm --save-retrieval wrote: the text to fit to",
        positional=True,
    )
    out: File = flag(dataclasses.MISSING, "JSON file to write the fitted weight to")
    apply: Dir | None = flag(None, "another saved retrieval, to report the fitted weight on: the test text")
    k: tuple[int, ...] = flag(
        (),
        "neighbours that vote; of several numbers, the best on held-out folds [default: sweep's choice, else the best"
        " for a fixed λ]",
        minimum=1,
    )
    knn_temp: tuple[float | Literal["auto"], ...] = flag(
        (),
        "temperatures T of p_kNN, as for --k; auto: the temperatures that sweep tries; each is fitted",
        minimum=LEAST_TEMPERATURE,
    )
    folds: int = flag(
        5, "folds of cross-validation: parts of the text, each judged by a fit to the others", minimum=2, maximum=100
    )
    dstore_filename: Prefixes | None = flag(
        None,
        r"prefix of the datastore, if it has moved; A:B for several (a colon in a name: \:)",
    )
    dictionary: File | None = flag(None, "dict.txt, if it has moved")
    overwrite: bool = flag(False, "replace an existing file")
    allow_mismatch: bool = flag(False, "only warn if retrievals, datastore and dictionary do not belong together")
