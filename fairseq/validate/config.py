"""Flags of validation, in training and by itself."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.common import MODEL_OVERRIDES
from fairseq.config.flags import flag
from fairseq.config.kinds import Files, Name, Settings, Splits
from fairseq.criterions import CRITERIONS
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class ValidationConfig:
    """Validation: which splits, in which batches."""

    valid_subset: Splits = flag("valid", "splits to validate on")
    combine_valid_subsets: bool = flag(
        False,
        "take each split together with those of its name and a number, valid with valid1, valid2, …, as one text",
        aliases=("--combine-val",),
    )
    ignore_unused_valid_subsets: bool = flag(
        False,
        "do not mind further splits in the data directory",
        no_effect="only the splits of --valid-subset are looked for",
    )
    skip_invalid_size_inputs_valid_test: bool = flag(
        False, "leave out validation blocks that are longer than the model can read, with a warning"
    )
    max_tokens_valid: int | None = flag(None, "most tokens in a batch of validation [default: --max-tokens]", minimum=1)
    batch_size_valid: int | None = flag(
        None,
        "most blocks in a batch of validation [default: --batch-size]",
        aliases=("--max-sentences-valid",),
        minimum=1,
    )
    max_valid_steps: int | None = flag(
        None, "validate on the first N batches of each split, the shortest blocks first", aliases=("--nval",), minimum=1
    )
    fixed_validation_seed: int | None = flag(
        None,
        "seed of every validation, for a criterion that draws random numbers [default: --seed + updates]",
        minimum=0,
    )

    @property
    def splits(self) -> list[str]:
        """The names of ``--valid-subset``, each once."""
        return list(dict.fromkeys(self.valid_subset.split(",")))

    def __post_init__(self) -> None:
        if "" in self.splits:
            raise ConfigError(
                f"--valid-subset must be names with commas between them, such as valid,test, but is"
                f" {self.valid_subset!r}; leave out the comma too many"
            )


@dataclass(frozen=True)
class ValidateConfig:
    """Model to validate."""

    path: Files = flag(
        dataclasses.MISSING, r"checkpoint to validate; those of A:B one after the other (a colon in a name: \:)"
    )
    task: Name = flag("language_modeling", "task; others come from plugins")
    criterion: str | None = flag(None, "loss [default: the checkpoint's]", choices=CRITERIONS.summaries)
    model_overrides: Settings = flag("{}", MODEL_OVERRIDES)
    max_tokens: int | None = flag(
        None, "most tokens in a batch, padding counted, an added <s> not [default: as when it was trained]", minimum=1
    )
    max_sentences: int | None = flag(
        None, "most blocks in a batch [default: as when it was trained]", aliases=("--batch-size",), minimum=1
    )
    dataset_impl: str = flag("mmap", "storage of the data", choices=("mmap",))
    required_batch_size_multiple: int = flag(
        8, "number of blocks in a batch", minimum=1, no_effect="a validation's batches are as large as they may be"
    )
