"""Flags of how text becomes blocks and batches."""

from dataclasses import dataclass

from fairseq.config import flag

BREAK_MODES = ("none", "complete", "complete_doc", "eos")


@dataclass(frozen=True)
class LanguageModelingConfig:
    """Task: language modelling."""

    data: str = flag(
        "data-bin", "directory of binarised data; DATA1:DATA2 takes one per epoch in turn", positional=True
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
