"""Flags of fairseq-preprocess."""

from dataclasses import dataclass

from fairseq.config import flag
from fairseq.errors import ConfigError

NUM_SPECIALS = 4


@dataclass(frozen=True)
class PreprocessConfig:
    """Text and dictionary."""

    only_source: bool = flag(False, "binarise text in one language; required, for there is no other kind here")
    trainpref: str | None = flag(None, "training text, one sentence or paragraph a line")
    validpref: str | None = flag(None, "validation text; a comma-separated list makes valid, valid1, …")
    testpref: str | None = flag(None, "test text; a comma-separated list makes test, test1, …")
    destdir: str = flag("data-bin", "directory to write to")
    workers: int = flag(1, "processes; any number of them gives the same bytes", minimum=1)
    overwrite: bool = flag(False, "replace files of an earlier run")
    srcdict: str | None = flag(None, "use this dictionary instead of counting the training text")
    dict_only: bool = flag(False, "write the dictionary only")
    thresholdsrc: int = flag(0, "least count of a word that has an id of its own", minimum=0)
    nwordssrc: int = flag(-1, "most ids in the dictionary, the four specials included; -1: no limit", minimum=-1)
    padding_factor: int = flag(8, "fill the dictionary up to a multiple of N ids", minimum=1)
    dataset_impl: str = flag("mmap", "storage of the data set; mmap only")
    tokenizer: str | None = flag(None, "how words are found; space (between whitespace) only")
    bpe: str | None = flag(None, "subwords; not here yet: split the text beforehand")
    tensorboard_logdir: str | None = flag(
        None, "write TensorBoard logs to this directory", no_effect="preprocessing has no curves to draw"
    )

    def __post_init__(self) -> None:
        if not self.only_source:
            raise ConfigError(
                "--only-source is required: this toolkit is for language models and knows no pairs of languages; add it"
            )
        if self.dataset_impl != "mmap":
            raise ConfigError(
                f"--dataset-impl must be mmap, but is {self.dataset_impl!r}: the other formats are slower, and no"
                " current tool needs them; leave the flag out"
            )
        if self.tokenizer not in (None, "space"):
            raise ConfigError(
                f"--tokenizer must be space, but is {self.tokenizer!r}: words are what whitespace separates; tokenise"
                " the text beforehand and leave the flag out"
            )
        if self.bpe is not None:
            raise ConfigError(
                f"--bpe must not be given yet, but is {self.bpe!r}: words are what whitespace separates; split the text"
                " into subwords beforehand and leave the flag out"
            )
        if self.trainpref is None and self.srcdict is None:
            raise ConfigError("--trainpref or --srcdict is required: a text to count words in, or a dictionary")
        if 0 <= self.nwordssrc < NUM_SPECIALS:
            raise ConfigError(
                f"--nwordssrc must be at least {NUM_SPECIALS}, for the specials, or -1 for no limit, but is"
                f" {self.nwordssrc}; give a larger number"
            )
