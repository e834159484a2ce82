"""The mean of several checkpoints' weights, as a checkpoint; what else it holds is the first one's."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fairseq.checkpoints.config import AverageConfig
from fairseq.checkpoints.format import Checkpoint, load_checkpoint, load_constants, save_checkpoint
from fairseq.errors import ConfigError, MismatchError, counted
from fairseq.storage.file_kinds import is_sharded_checkpoint
from fairseq.storage.files import locked
from fairseq.storage.marks import CHECKPOINT, CHECKPOINT_SUMMARY
from fairseq.storage.outputs import claim, reads

_EPOCHS = r"checkpoint(?P<value>\d+)\.pt"
_UPDATES = r"checkpoint_\d+_(?P<value>\d+)\.pt"
_BEST = r"checkpoint\.best_(?P<metric>.+)_(?P<value>-?[\d.]+|-?inf)\.pt"


def average(config: AverageConfig) -> str:
    """Writes the mean of some checkpoints, and returns which they were, as a line.

    Raises:
        ConfigError: there are too few, or the output may not be written.
        CheckpointError: one cannot be read.
        MismatchError: they are not of one model.
    """
    paths = chosen(config)
    output = Path(config.output)
    claim("--output", output, CHECKPOINT, overwrite=config.overwrite)
    claim("--output", output.with_suffix(".json"), CHECKPOINT_SUMMARY, overwrite=config.overwrite)
    reads(*paths)
    with locked(output):
        first, state = mean_of(paths)
        save_checkpoint(
            output,
            fields=first.fields,
            model_state={**load_constants(paths[0]), **state},
            optimizer_state=first.optimizer_state,
            optimizer_name=first.optimizer_name,
            num_updates=first.num_updates,
            # It is no file of the run's, which would replace it and go on from it.
            extra_state={name: value for name, value in first.extra_state.items() if name != "run"},
            criterion_state=first.criterion_state,
        )
    return f"{output}: the mean of {counted(len(paths), 'checkpoint')}: {', '.join(map(str, paths))}"


def mean_of(paths: Sequence[Path]) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Returns the first checkpoint, and the mean of all weights: float32, of sums in float64.

    Names that share a tensor in the first share their mean.
    """
    first = load_checkpoint(paths[0])
    sums = {name: tensor.double() for name, tensor in first.state.items() if tensor.is_floating_point()}
    for path in paths[1:]:
        other = load_checkpoint(path)
        _require_same_model(first, other)
        for name, total in sums.items():
            total += other.state[name]
    means: dict[str, Tensor] = {}
    by_storage: dict[tuple[Any, ...], Tensor] = {}
    for name, tensor in first.state.items():
        if name not in sums:
            means[name] = tensor
            continue
        where = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        means[name] = by_storage.setdefault(where, (sums[name] / len(paths)).float())
    return first, means


def _require_same_model(first: Checkpoint, other: Checkpoint) -> None:
    shapes, others = ({name: tuple(t.shape) for name, t in one.state.items()} for one in (first, other))
    names = sorted(name for name in {*shapes, *others} if shapes.get(name) != others.get(name))
    if names:
        found = " and ".join(str(one.get(names[0], "missing")) for one in (shapes, others))
        raise MismatchError(
            f"{first.path} and {other.path} are not of one model: {names[0]} is {found}; average checkpoints of one run"
        )
    dictionaries = [one.extra_state.get("dictionary_sha256") for one in (first, other)]
    if None not in dictionaries and dictionaries[0] != dictionaries[1]:
        raise MismatchError(
            f"{first.path} and {other.path} were trained with different dictionaries; average checkpoints of one run"
        )


def chosen(config: AverageConfig) -> list[Path]:
    """Returns the files that the flags name, the newest or best first where they are of a directory.

    Raises:
        ConfigError: a directory has too few, or was given without saying which of it are meant.
    """
    inputs = [Path(name) for name in config.inputs]
    pattern, number, what = config.wanted(_EPOCHS, _UPDATES, _BEST)
    if number is None:
        for path in inputs:
            if path.is_dir() and not is_sharded_checkpoint(path):
                raise ConfigError(
                    f"--inputs {path} is a directory; say which of its checkpoints: --num-epoch-checkpoints N,"
                    " --num-update-checkpoints N or --num-best-checkpoints N"
                )
        return inputs
    if len(inputs) != 1 or not inputs[0].is_dir():
        raise ConfigError(f"{what} needs one directory for --inputs, but it is {' '.join(config.inputs)}")
    matches = [match for path in inputs[0].iterdir() if (match := re.fullmatch(pattern, path.name))]
    metrics = sorted({match["metric"] for match in matches}) if pattern == _BEST else []
    if len(metrics) > 1:
        raise ConfigError(
            f"{what} needs checkpoints that are the best by one metric, but {inputs[0]} has some by"
            f" {' and by '.join(metrics)}; name the files themselves"
        )
    found = [(float(match["value"]), inputs[0] / match[0]) for match in matches]
    bound = math.inf if config.checkpoint_upper_bound is None else config.checkpoint_upper_bound
    found = [pair for pair in found if pattern == _BEST or pair[0] <= bound]
    if len(found) < number:
        raise ConfigError(f"{what} {number}: {inputs[0]} has only {counted(len(found), 'such checkpoint')}; lower it")
    largest = pattern != _BEST or _largest_is_best(found[0][1])
    return [path for _, path in sorted(found, reverse=largest)[:number]]


def _largest_is_best(path: Path) -> bool:
    fields: Mapping[str, Any] = load_checkpoint(path).fields
    return bool(fields.get("maximize_best_checkpoint_metric"))
