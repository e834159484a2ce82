"""``fairseq-validate``: the loss of a checkpoint on whole splits, as training tells it."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from fairseq.checkpoints.huggingface import is_model_directory
from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.flags import resolve
from fairseq.config.path_lists import split_paths
from fairseq.criterions import CRITERIONS
from fairseq.data.config import OWNED_BY_CHECKPOINT
from fairseq.errors import CheckpointError
from fairseq.runtime.interrupts import advising
from fairseq.runtime.log import log_format, prefixed
from fairseq.runtime.resources import keep_freed_memory
from fairseq.storage.inputs import require_inputs
from fairseq.tasks import TASKS, reads_splits
from fairseq.validate.config import ValidateConfig, ValidationConfig
from fairseq_cli.shared.eval_settings import data_of, task_fields
from fairseq_cli.shared.processes import leave
from fairseq_cli.shared.run import run

if TYPE_CHECKING:
    from fairseq.runtime.distributed import ProcessGroup
    from fairseq.runtime.precision import Precision

DESCRIPTION = """Tell the loss of a checkpoint on splits of binarised data, as fairseq-train does when it validates: by
the checkpoint's criterion, in the blocks and batches of its training. fairseq-eval-lm tells the perplexity of a text
with longer contexts, and with neighbours."""
OUTPUT = """A line for each split, on the standard output; of several checkpoints, it begins with the checkpoint:

  valid | valid on 'valid' subset | loss 6.87612 | ppl 117.479 | num_updates 64 | wps 12000 | wpb 500.4 | bsz 8

  loss         bits per token
  ppl          perplexity, 2 ** loss
  num_updates  of the checkpoint
  wps          tokens per second
  wpb, bsz     tokens and blocks in a batch, on average

With --log-format json, a line of JSON: these keys, and fairseq's own (valid_loss, valid_ppl, ...), which are text."""
STOPPED = "nothing is kept of a stopped validation; the same command starts from the beginning"
EXAMPLES = (
    """# the loss of the best checkpoint on valid, as training told it
fairseq-validate data-bin --path checkpoints/checkpoint_best.pt""",
    """# of two checkpoints, on two splits
fairseq-validate data-bin --path checkpoints/checkpoint1.pt:checkpoints/checkpoint2.pt --valid-subset valid,test""",
)
# Sizes of batches: where none is typed, those of the checkpoint's training are in force.
SIZES = ("max_tokens", "max_sentences", "max_tokens_valid", "batch_size_valid")
SEEDS = ("seed", "fixed_validation_seed")  # likewise
LARGEST_BATCH = 36000  # tokens, where a checkpoint says nothing either


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    return (ValidateConfig, *TASKS.configs(), *CRITERIONS.configs(), ValidationConfig, DeviceConfig, CommonConfig)


def main(argv: Sequence[str]) -> None:
    """Validates."""
    without_effect = OWNED_BY_CHECKPOINT
    flags = parse("fairseq-validate", DESCRIPTION, flag_groups(), argv, EXAMPLES, OUTPUT, without_effect)
    config, validation = flags.build(ValidateConfig), flags.build(ValidationConfig)
    device, common = flags.build(DeviceConfig), flags.build(CommonConfig)
    subsets = validation.splits
    fields = task_fields(flags, config.task, config.path, subsets[0])
    for subset in subsets[1:] if reads_splits(config.task) else ():
        require_inputs("", data_of(flags, config.task), subset)
    criterion_flags = [name for cls in CRITERIONS.configs() for name in flags.given(cls)]
    flags.warn_unused()
    paths = [path for path in split_paths(config.path) if path]
    for path in paths:
        if is_model_directory(path):
            raise CheckpointError(
                f"--path {path} is a Hugging Face model, which has no criterion of fairseq-train's;"
                " fairseq-eval-lm tells its perplexity"
            )

    import torch

    from fairseq.runtime.distributed import joined
    from fairseq.runtime.precision import Precision, select_device

    over_checkpoint = (*SIZES, *SEEDS, *criterion_flags)
    typed = {name: flags.typed[name] for name in over_checkpoint if name in flags.typed}
    with joined(select_device(device).type, lambda: "the same command starts again") as group:
        precision = Precision(device, select_device(device, group.local_rank))
        torch.manual_seed(common.seed)
        if precision.device.type == "cpu":
            keep_freed_memory()
        for path in paths:
            for split, values in results_of(replace(config, path=path), validation, typed, fields, precision, group):
                if group.rank == 0:
                    sys.stdout.write(as_line(split, values, path if len(paths) > 1 else None) + "\n")
                    sys.stdout.flush()


def results_of(
    config: ValidateConfig,
    validation: ValidationConfig,
    typed: Mapping[str, Any],
    fields: Mapping[str, Any],
    precision: "Precision",
    group: "ProcessGroup",
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yields the name of each split with what a checkpoint's loss comes to there.

    Args:
        config: what is validated, one checkpoint.
        validation: on which splits.
        typed: sizes of batches, seeds and settings of the criterion that were typed; else the checkpoint's hold.
        fields: settings of the task that were typed.
        precision: device and number format.
        group: the processes that share the batches out.
    """
    from fairseq.checkpoints.format import Checkpoint
    from fairseq.criterions.state import load_criterion_state
    from fairseq.tasks.opening import open_models
    from fairseq.validate.criterion import criterion_of
    from fairseq.validate.splits import load_splits
    from fairseq.validate.validation import validate_on

    inherited = ("sample_break_mode",)
    named = config.path, config.task, config.model_overrides
    opened = open_models(*named, fields, precision, also_from_checkpoint=inherited)
    (checkpoint,), (model,) = opened.checkpoints, opened.models
    assert isinstance(checkpoint, Checkpoint)
    criterion = criterion_of(checkpoint.fields, opened.task, precision.device, config.criterion, typed)
    if config.criterion in (None, checkpoint.fields.get("criterion")):
        load_criterion_state(criterion, checkpoint.criterion_state, config.path, "name another --criterion")
    seed = seed_of(checkpoint.fields, typed, checkpoint.num_updates)
    if not any(name in typed for name in SIZES):
        validation = resolve(ValidationConfig, asdict(validation), known_sizes(checkpoint.fields))
        config = resolve(ValidateConfig, asdict(config), known_sizes(checkpoint.fields))
    bounds = config.max_tokens, config.max_sentences
    if not any((*bounds, validation.max_tokens_valid, validation.batch_size_valid)):
        bounds = LARGEST_BATCH, None
    splits = load_splits(opened.task, validation, *bounds, opened.max_positions, group)
    with advising(STOPPED):
        for split in splits:
            result = validate_on(split, model, criterion, precision, group, seed)
            yield split.split, {**result.values(), "num_updates": checkpoint.num_updates, **result.speed()}


def known_sizes(fields: Mapping[str, Any]) -> dict[str, int]:
    """Returns the sizes of batches that a checkpoint was validated with, by our names."""
    found = [("max_sentences", fields.get("batch_size")), *((name, fields.get(name)) for name in SIZES)]
    return {name: value for name, value in found if value is not None}


def seed_of(fields: Mapping[str, Any], typed: Mapping[str, Any], num_updates: int) -> int:
    """Returns the seed that training validated a checkpoint with, where none is typed."""
    from fairseq.validate.validation import validation_seed

    known = {name: fields[name] for name in SEEDS if name in fields}
    return validation_seed(
        resolve(ValidationConfig, known, typed), resolve(CommonConfig, known, typed).seed, num_updates
    )


def as_line(split: str, values: Mapping[str, float], path: str | None) -> str:
    """Returns what is printed of a split: a line, or one of JSON."""
    if log_format() == "json":
        of_file = {} if path is None else {"path": path}
        return json.dumps({**of_file, "part": split, **values, **prefixed(split, values)})
    shown = " | ".join(f"{name} {value:.6g}" for name, value in values.items())
    return f"{'' if path is None else f'{path} | '}{split} | valid on '{split}' subset | {shown}"


def cli_main() -> None:
    """Entry point of the console script."""
    leave(run("fairseq-validate", main, knows_ranks=True))


if __name__ == "__main__":
    cli_main()
