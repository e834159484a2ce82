"""Flags of how text becomes blocks and batches."""

from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import Dir, Dirs, File, FileList, Name, Place, Split
from fairseq.errors import ConfigError

BREAK_MODES = {
    "none": "every block is full; lines are cut anywhere",
    "complete": "whole lines, as many as fit into a block",
    "complete_doc": "the same, and no block goes beyond a document (an empty line)",
    "eos": "a block for each line",
    "isolated": (
        "blocks that see nothing of each other, the first token of each not scored, as transformers' run_clm has them"
    ),
    "document": (
        "each line (of tokenized data: each document) for itself, in blocks of which the last has all the context that"
        " a row has room for, as lm-evaluation-harness has them"
    ),
}


@dataclass(frozen=True)
class LanguageModelingConfig:
    """Data, and how it is cut into blocks."""

    data: Dirs = flag(
        "data-bin",
        r"directory that fairseq-preprocess wrote; training takes those of A:B in turn, an epoch each (a colon in a"
        r" name: \:)",
        positional=True,
    )
    sample_break_mode: str = flag("none", "how text is cut into blocks", choices=BREAK_MODES)
    tokens_per_sample: int = flag(1024, "tokens in a block, the model's longest context", minimum=1)
    output_dictionary_size: int = flag(
        -1, "limit the output to the first N words", no_effect="the output always covers the whole dictionary"
    )
    add_bos_token: bool = flag(
        False, "begin every block with <s>, which --tokens-per-sample and --max-tokens do not count"
    )


# Settings of the task that belong to the model, and why a flag does not change them where a checkpoint is read.
OWNED_BY_CHECKPOINT = dict.fromkeys(
    ("tokens_per_sample", "add_bos_token"), "the checkpoint's is in force; --model-overrides replaces it"
)
# What is said of them where the directory of a Hugging Face model may be read as well, which has none.
_OF_CHECKPOINT = "a checkpoint's own is in force, and --model-overrides replaces it"
IN_FORCE_WITHOUT_CHECKPOINT = {
    "tokens_per_sample": f"for Hugging Face models (left out: no more than the model's positions); {_OF_CHECKPOINT}",
    "add_bos_token": f"for Hugging Face models; {_OF_CHECKPOINT}",
}


@dataclass(frozen=True)
class BatchConfig:
    """Batches."""

    max_tokens: int | None = flag(
        None, "most tokens in a batch, padding counted, an added <s> not; this or --batch-size is required", minimum=1
    )
    max_sentences: int | None = flag(None, "most blocks in a batch", aliases=("--batch-size",), minimum=1)
    required_batch_size_multiple: int = flag(
        8, "make the number of blocks in a batch a multiple of N where possible", minimum=1
    )
    dataset_impl: str = flag("mmap", "storage of the data", choices=("mmap",))
    train_subset: Split = flag("train", "split to train on")
    curriculum: int = flag(
        0, "do not shuffle the batches of the first N epochs: the shortest blocks come first", minimum=0
    )


NUM_SPECIALS = 4


DOCUMENTS = {
    "file": "a file is one",
    "blank-line": "they stand between blank lines",
    "jsonl": "a JSON object a line",
}


@dataclass(frozen=True)
class PreprocessConfig:
    """Text and dictionary."""

    only_source: bool = flag(False, "the text is in one language; there is no other kind here", required=True)
    trainpref: Place | None = flag(
        None,
        "training text, a sentence or paragraph a line; with --tokenizer DIR, a file or a directory of them; this or"
        " --srcdict or --tokenizer DIR is required",
    )
    validpref: FileList | None = flag(
        None,
        "validation text; with --tokenizer DIR, a file or a directory of them; of several, comma-separated: valid,"
        " valid1, …",
    )
    testpref: FileList | None = flag(
        None,
        "test text; with --tokenizer DIR, a file or a directory of them; of several, comma-separated: test, test1, …",
    )
    destdir: Dir = flag("data-bin", "directory to write to")
    workers: int = flag(1, "processes; the result is the same for any number", minimum=1)
    overwrite: bool = flag(False, "replace the files of an earlier run")
    srcdict: File | None = flag(None, "use this dictionary (dict.txt) instead of making one from the training text")
    dict_only: bool = flag(False, "write only the dictionary")
    thresholdsrc: int = flag(0, "words that occur less than N times become <unk>", minimum=0)
    nwordssrc: int = flag(
        -1, "most words in the dictionary, its four special symbols included (-1: no limit)", minimum=-1
    )
    padding_factor: int = flag(8, "fill the dictionary up to a multiple of N words", minimum=1)
    dataset_impl: str = flag("mmap", "storage of the data", choices=("mmap",))
    tokenizer: Dir | None = flag(
        None,
        "directory of a Hugging Face model's tokenizer.json: whole documents become its tokens; or 'space': words are"
        " what whitespace separates (default)",
    )
    documents: str | None = flag(
        None, "with --tokenizer DIR, what a document is (default: jsonl for *.jsonl, else file)", choices=DOCUMENTS
    )
    jsonl_field: Name = flag("text", "with --tokenizer DIR, field of a JSON object that has the document's text")
    document_glob: Name | None = flag(
        None, "with --tokenizer DIR, names of the files to take from a directory, comma-separated: '*.py,*.md'"
    )
    bpe: Name | None = flag(None, "not supported: split the text into subwords beforehand")
    tensorboard_logdir: Dir | None = flag(
        None, "directory of TensorBoard logs", no_effect="preprocessing has no curves to draw"
    )

    def __post_init__(self) -> None:
        if not self.only_source:
            raise ConfigError(
                "--only-source is required: this toolkit is for language models and knows no pairs of languages; add it"
            )
        self._check_tokenizer()
        if self.bpe is not None:
            raise ConfigError(
                f"--bpe must not be given, but is {self.bpe!r}: words are what whitespace separates (in"
                " fairseq, too, where the flag has no effect); split the text into subwords beforehand and leave it out"
            )
        if self.trainpref is None and self.srcdict is None and self.tokenizer_directory is None:
            raise ConfigError(
                "--trainpref or --srcdict is required: a text to make the dictionary from, or a dictionary"
            )
        if 0 <= self.nwordssrc < NUM_SPECIALS:
            raise ConfigError(
                f"--nwordssrc must be at least {NUM_SPECIALS}, for the specials, or -1 for no limit, but is"
                f" {self.nwordssrc}; give a larger number"
            )

    @property
    def tokenizer_directory(self) -> str | None:
        """Directory of a model's tokenizer; None where words are what whitespace separates."""
        return None if self.tokenizer == "space" else self.tokenizer

    def _check_tokenizer(self) -> None:
        """Raises ConfigError for a tokenizer that is none, or that does not go with other flags."""
        directory = self.tokenizer_directory
        if directory is None:
            own = {"--documents": self.documents, "--document-glob": self.document_glob}
            for name, value in own.items():
                if value is not None:
                    raise ConfigError(
                        f"{name} needs --tokenizer DIR, the directory of a model's tokenizer.json; add it"
                    )
            return
        for name, default in (("srcdict", None), ("thresholdsrc", 0), ("nwordssrc", -1)):
            if getattr(self, name) != default:
                raise ConfigError(
                    f"--{name} does not go with --tokenizer {directory}, whose tokens are the dictionary; leave one out"
                )
