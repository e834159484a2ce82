"""Names of checkpoints: which ones a training run writes, and which it keeps.

checkpoint_last.pt            the newest, to resume from
checkpoint_best.pt            the best by the validation metric
checkpoint{N}.pt              after epoch N
checkpoint_{E}_{U}.pt         in epoch E after U updates (--save-interval-updates)
checkpoint.best_loss_{M}.pt   the few best, named by their metric (--keep-best-checkpoints)

With --ddp-backend fully_sharded they are directories, and end in .dcp.
"""

import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from fairseq.runtime.distributed import ProcessGroup
from fairseq.storage.directories import delete_directory, link_directory, recover
from fairseq.storage.files import atomic_write, fsync_directory, remove_leftover, temporary_name
from fairseq.train.config import LAST, CheckpointConfig, RunConfig
from fairseq.train.origin import Run
from fairseq.train.ownership import may_delete


def names_to_write(
    config: CheckpointConfig,
    epoch: int,
    num_updates: int | None,
    metric: float | None,
    is_best: bool,
    suffix: str = ".pt",
) -> list[str]:
    """Returns the names under which the state of this moment is saved; ``checkpoint_last`` comes last.

    Args:
        config: which checkpoints are wanted.
        epoch: the one that the run is in, or that has just ended.
        num_updates: made so far; None at the end of an epoch.
        metric: of the validation that was made for this, if one was.
        is_best: whether it was the best so far.
        suffix: of the names.
    """
    names = []
    if num_updates is None:
        if not config.no_epoch_checkpoints and epoch % config.save_interval == 0:
            names.append(f"checkpoint{epoch}.pt")
    elif config.save_interval_updates and num_updates % config.save_interval_updates == 0:
        names.append(f"checkpoint_{epoch}_{num_updates}.pt")
    if metric is not None and is_best:
        names.append("checkpoint_best.pt")
    if metric is not None and config.keep_best_checkpoints > 0:
        names.append(f"checkpoint.best_{config.best_checkpoint_metric}_{metric:.4f}.pt")
    if not config.no_last_checkpoints:
        names.append(LAST)
    return [name.removesuffix(".pt") + suffix for name in names]


def recover_shards(config: RunConfig, group: ProcessGroup) -> None:
    """Ends the write of checkpoints in shards in which a run was killed, before any process looks for them."""
    if not config.train.is_sharded or config.checkpoint.no_save:
        return
    save_dir = Path(config.checkpoint.save_dir)
    if group.rank == 0 and save_dir.is_dir():
        recover(save_dir, config.suffix)
    group.wait()


def write_all(save_dir: Path, names: list[str], write: Callable[[Path], None], *, is_first: bool = True) -> None:
    """Writes the first file and hard-links the others to it, each by an atomic rename.

    The file that a run resumes from comes last, and each checkpoint after its JSON: if the run is killed in between,
    it resumes from an earlier state and writes all of them again. Of processes that write together the first one links.
    """
    if not names:
        return
    first = save_dir / names[0]
    write(first)
    if not is_first:
        return
    for name in names[1:]:
        fsync_directory(save_dir)
        if first.is_dir():
            link_directory(first, save_dir / name)
            continue
        for suffix in (".json", ".pt"):
            _link(first.with_suffix(suffix), (save_dir / name).with_suffix(suffix))
    fsync_directory(save_dir)


def _link(source: Path, target: Path) -> None:
    temporary = temporary_name(target)
    remove_leftover(temporary)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        with source.open("rb") as whole, atomic_write(target) as copy:
            shutil.copyfileobj(whole, copy)
    else:
        temporary.replace(target)


def delete_old(config: CheckpointConfig, run: Run, suffix: str = ".pt") -> None:
    """Deletes the run's own checkpoints that the flags do not keep; those of others do not count."""
    best = rf"checkpoint\.best_{re.escape(config.best_checkpoint_metric)}_(-?[\d.]+|-?inf|nan)"
    largest = config.maximize_best_checkpoint_metric
    # Names, how many of them are kept, of the largest numbers or the smallest; and of which multiples all are kept.
    policies = (
        (r"checkpoint_\d+_(\d+)", config.keep_interval_updates, True, config.keep_interval_updates_pattern),
        (r"checkpoint(\d+)", config.keep_last_epochs, True, -1),
        (best, config.keep_best_checkpoints or -1, largest, -1),
    )
    for pattern, count, largest_first, always in policies:
        if count < 0:
            continue
        paths = Path(config.save_dir).glob(f"*{suffix}")
        matches = ((re.fullmatch(pattern, path.name.removesuffix(suffix)), path) for path in paths)
        found = [(_number(match[1], largest_first), path) for match, path in matches if match and may_delete(path, run)]
        for number, path in sorted(found, reverse=largest_first)[count:]:
            if always > 0 and number % always == 0:
                continue
            if path.is_dir():
                delete_directory(path)
                continue
            record = path.with_suffix(".json")
            if record.exists() and may_delete(record, run):
                record.unlink()  # first: whoever is killed here finds the checkpoint
            path.unlink()


def _number(text: str, largest_first: bool) -> float:
    """Returns the number in a file name; NaN sorts last."""
    return (-math.inf if largest_first else math.inf) if text == "nan" else float(text)
