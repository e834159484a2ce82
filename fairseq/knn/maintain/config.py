"""Flags of ``fairseq-knnlm adopt`` and ``forget``."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import AnyStoreFile, Dir, File, Prefix, Rows, Split, Title
from fairseq.data.config import BREAK_MODES
from fairseq.errors import ConfigError
from fairseq.knn.datastore.config import parse_rows


@dataclass(frozen=True)
class ForgetConfig:
    """What to forget; leave it out to see what is forgotten."""

    prefix: Prefix = flag(
        dataclasses.MISSING, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy", positional=True
    )
    document: Title | None = flag(
        None,
        "forget a document: its title or file, or SPLIT#NUMBER, as fairseq-knnlm rows PREFIX --documents lists them; of"
        " tokenized data also all files that a pattern fits, such as 'src/*.py'",
    )
    rows: Rows | None = flag(None, "forget the rows from FIRST on, before STOP")
    source: Split | None = flag(None, "forget all rows of a text: its split, such as valid, or the end of its path")
    following: int = flag(
        0,
        "with --document: also forget the N rows after it, whose contexts reach back into it",
        minimum=0,
    )
    dry_run: bool = flag(False, "say what would be forgotten, and change nothing")
    compact: bool = flag(False, "remove what is forgotten from the files; rows get new numbers")
    indexfile: tuple[File, ...] = flag((), "with --compact: the datastore's indexes")
    save_interval_s: float = flag(60.0, "seconds between two states from which a stopped run resumes", minimum=0)

    def __post_init__(self) -> None:
        given = [name for name in ("document", "rows", "source") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"--{given[0]} and --{given[1]} exclude each other; run the command once for each")
        if self.following and self.document is None:
            raise ConfigError("--following names rows after a document; give --document")
        if self.indexfile and not self.compact:
            raise ConfigError("--indexfile is for --compact: until then, searches pass over what is forgotten")
        if self.compact and given:
            # One command for both, given again after it was stopped, would forget what has got these numbers since.
            raise ConfigError(
                f"--{given[0]} and --compact are two commands: forget first, then compact what is forgotten"
            )
        if self.dry_run and not given:
            raise ConfigError("--dry-run says what would be forgotten; give --document, --rows or --source")
        if self.rows is not None:
            parse_rows(self.rows)


@dataclass(frozen=True)
class AdoptConfig:
    """The other tool's datastore, and the one to make of it."""

    source: AnyStoreFile = flag(
        dataclasses.MISSING, "prefix of the datastore's files, or its file of keys or of values", positional=True
    )
    dstore_mmap: Prefix | None = flag(None, "prefix of the new datastore [default: the old one's]")
    dstore_size: int | None = flag(None, "number of rows [default: from the files' names and sizes]", minimum=1)
    dimension: int | None = flag(None, "width of a key [default: from the files' names and sizes]", minimum=1)
    dstore_fp16: bool = flag(False, "keys are float16 [default: from the files' names and sizes]")
    copy: bool = flag(False, "copy files that do not change, instead of linking to them")
    overwrite: bool = flag(False, "replace existing files, but never the other tool's")


@dataclass(frozen=True)
class OriginConfig:
    """Text (checks and mends values) and model (checks keys) that it came from."""

    data: Dir | None = flag(
        None, "directory of the binarised text; where a model's tokenizer made it, values become its ids"
    )
    dictionary_only: bool = flag(False, "use only the dictionary of --data, and compare no values with the text")
    gen_subset: Split = flag("train", "split that it was written from")
    path: File | None = flag(None, "checkpoint, or directory of a Hugging Face model, that the keys were written with")
    context_window: int = flag(0, "--context-window that it was written with", minimum=0)
    tokens_per_sample: int | None = flag(
        None,
        "tokens_per_sample of the checkpoint, context window included [default: from --path]; with a model's tokenizer"
        " run_clm's --block_size, 1024 if left out",
        minimum=1,
    )
    stride: int | None = flag(None, "with a model's tokenizer and --path: run_clm's --stride [default: 512]", minimum=1)
    sample_break_mode: str = flag("none", "how the text was cut into blocks", choices=BREAK_MODES)

    def __post_init__(self) -> None:
        if self.path and not self.data:
            raise ConfigError("--path says which keys to expect only together with the text; give --data as well")
        if self.dictionary_only and (self.path or not self.data):
            raise ConfigError(
                "--dictionary-only is for --data alone, whose dictionary it takes; give --data, and leave --path out"
            )
        if self.data and self.context_window and not self.path and self.tokens_per_sample is None:
            raise ConfigError(
                f"--context-window {self.context_window} skips whole blocks at the start of the text; give"
                " --tokens-per-sample or --path, which say how long a block is"
            )
        if self.tokens_per_sample is not None and self.context_window >= self.tokens_per_sample:
            raise ConfigError(
                f"--context-window {self.context_window} must be smaller than --tokens-per-sample"
                f" {self.tokens_per_sample}"
            )
