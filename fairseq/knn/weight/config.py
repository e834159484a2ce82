"""The flags of weights of each token's own, for fitting and for evaluating; imports neither torch nor FAISS."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.errors import ConfigError
from fairseq.knn.config import LEAST_TEMPERATURE


@dataclass(frozen=True)
class LmbdaModelConfig:
    """A weight λ of each token's own."""

    lmbda_model: str | None = flag(
        None,
        "with --knnlm, instead of --lmbda: file of fairseq-knnlm fit-lmbda, which gives each token its own λ (with a"
        " cache of weight μ a share of 1 − μ); --k and --knn-temp are those that it was fitted with",
    )
    skip_retrieval: float = flag(
        0.0,
        "with --lmbda-model: share of the searches to skip, those that are expected to gain least",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        if self.skip_retrieval and not self.lmbda_model:
            raise ConfigError("--skip-retrieval needs to know which searches gain least; give --lmbda-model FILE")


@dataclass(frozen=True)
class FitLmbdaConfig:
    """What is fitted, and on what."""

    directory: str = flag(
        dataclasses.MISSING, "what fairseq-eval-lm --save-retrieval has written: the text to fit on", positional=True
    )
    out: str = flag(dataclasses.MISSING, "JSON file to write the fitted weight to")
    apply: str | None = flag(None, "another retrieval, on which the fitted weight is reported: the test text")
    k: tuple[int, ...] = flag(
        (), "neighbours; of several, the best on held-out folds; all that were saved if left out", minimum=1
    )
    knn_temp: tuple[float, ...] = flag(
        (), "temperatures T of p_kNN, likewise; that of the retrieval's run if left out", minimum=LEAST_TEMPERATURE
    )
    folds: int = flag(
        5, "runs of consecutive blocks, each judged by what was fitted on the others", minimum=2, maximum=100
    )
    dstore_filename: str | None = flag(
        None,
        "prefix of the datastore, if it is not where the retrieval found it; of several, separated by colons"
        r" (\: is a colon in a name)",
    )
    dictionary: str | None = flag(None, "dict.txt, if it is not where the retrieval found it")
    overwrite: bool = flag(False, "replace a file that stands in the way")
    allow_mismatch: bool = flag(False, "only warn when retrievals, datastore and dictionary do not belong together")
