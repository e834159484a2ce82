"""Flags of ``fairseq-knnlm adopt`` and ``forget``."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.data.config import BREAK_MODES
from fairseq.errors import ConfigError
from fairseq.knn.datastore.config import parse_rows


@dataclass(frozen=True)
class ForgetConfig:
    """What is forgotten of which datastore; without, what has been forgotten so far is told, or compacted."""

    prefix: str = flag(
        dataclasses.MISSING, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy", positional=True
    )
    document: str | None = flag(
        None, "a document: its title, or SPLIT#NUMBER, as fairseq-knnlm rows PREFIX --documents lists them"
    )
    rows: str | None = flag(None, "rows, from the first number to before the second: A:B")
    source: str | None = flag(None, "every row of a text: the name of its split, such as valid, or the end of its path")
    following: int = flag(
        0,
        "with --document: the rows of so many tokens after it as well, whose contexts reach back into it",
        minimum=0,
    )
    dry_run: bool = flag(False, "say what would be forgotten, and change nothing")
    compact: bool = flag(False, "take the forgotten rows out of the files as well; rows are numbered anew")
    indexfile: tuple[str, ...] = flag((), "with --compact: indexes of the datastore, comma-separated")
    save_interval_s: float = flag(60.0, "seconds of writing between two states to resume from", minimum=0)

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
    """The datastore of another tool, and the one to make of it."""

    source: str = flag(
        dataclasses.MISSING, "prefix of the datastore's files, or its file of keys or values", positional=True
    )
    dstore_mmap: str | None = flag(None, "prefix of the new datastore; where the old one is, if left out")
    dstore_size: int | None = flag(None, "rows, where neither names nor sizes of the files tell", minimum=1)
    dimension: int | None = flag(None, "width of a key, likewise", minimum=1)
    dstore_fp16: bool = flag(False, "keys are float16, likewise")
    copy: bool = flag(False, "copy files that stay as they are, instead of linking them")
    overwrite: bool = flag(False, "replace what stands in the way; never the old datastore's files")


@dataclass(frozen=True)
class OriginConfig:
    """The run that wrote it: values are checked against the text, and mended from it; keys against the model."""

    data: str | None = flag(None, "directory of the binarised text")
    gen_subset: str = flag("train", "name of the text")
    path: str | None = flag(None, "checkpoint that made the keys")
    context_window: int = flag(0, "--context-window of that run", minimum=0)
    tokens_per_sample: int | None = flag(
        None, "tokens_per_sample of the checkpoint, context window included; --path tells", minimum=1
    )
    sample_break_mode: str = flag("none", "how the token stream was cut into blocks", choices=BREAK_MODES)

    def __post_init__(self) -> None:
        if self.path and not self.data:
            raise ConfigError("--path says which keys to expect only together with the text; give --data as well")
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
