"""Flags of how text becomes blocks and batches."""

from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.errors import ConfigError

BREAK_MODES = ("none", "complete", "complete_doc", "eos")


@dataclass(frozen=True)
class LanguageModelingConfig:
    """Task: language modelling."""

    data: str = flag(
        "data-bin",
        r"directory of binarised data; DATA1:DATA2 takes one per epoch in turn (\: is a colon in a name)",
        positional=True,
    )
    sample_break_mode: str = flag("none", "how the token stream is cut into blocks", choices=BREAK_MODES)
    tokens_per_sample: int = flag(1024, "tokens in a block", minimum=1)
    output_dictionary_size: int = flag(
        -1, "limit the model's output to the first N ids", no_effect="the output always covers the whole dictionary"
    )
    add_bos_token: bool = flag(False, "put <s> before every block")


@dataclass(frozen=True)
class BatchConfig:
    """Batches."""

    max_tokens: int | None = flag(None, "padded tokens in a batch", minimum=1)
    max_sentences: int | None = flag(None, "blocks in a batch", aliases=("--batch-size",), minimum=1)
    required_batch_size_multiple: int = flag(8, "make the number of rows a multiple of N where it can be", minimum=1)
    skip_invalid_size_inputs_valid_test: bool = flag(
        False, "leave out validation blocks that are longer than the model's positions, with a warning"
    )
    dataset_impl: str = flag("mmap", "storage of the data set", choices=("mmap",))
    train_subset: str = flag("train", "name of the data to train on")
    valid_subset: str = flag("valid", "names of the data to validate on, comma-separated")


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
    dataset_impl: str = flag("mmap", "storage of the data set", choices=("mmap",))
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
