"""Which files of ``--save-dir`` a run may replace and delete: its own, and nobody else's.

A checkpoint and the JSON beside it say which run wrote them. A run replaces and deletes what bears its own id; links,
directories, files of other runs and of other programs stay, and so does what somebody has made read-only. Where the
run goes on from a checkpoint without an id, it also replaces, but never deletes, checkpoints without one.
"""

import json
import re
import stat
from pathlib import Path
from typing import Any

from fairseq.checkpoints.format import load_extra_state
from fairseq.errors import CheckpointError
from fairseq.storage.directories import other_files
from fairseq.storage.file_kinds import SHARDED_SUFFIX, is_sharded_checkpoint
from fairseq.train.config import LAST, CheckpointConfig
from fairseq.train.origin import Run, run_from

_MOST_JSON_BYTES = 2**24
_WRITTEN = {".pt": (".pt", ".json"), SHARDED_SUFFIX: (SHARDED_SUFFIX,)}


def refuse_foreign(config: CheckpointConfig, run: Run, epoch: int, max_epoch: int, suffix: str = ".pt") -> None:
    """Raises CheckpointError if a file that the run is going to write is there, and is not its own.

    Args:
        config: which checkpoints the run writes, and where.
        run: the run.
        epoch: the one that it begins in.
        max_epoch: its last one; 0 for no bound.
        suffix: of its checkpoints.
    """
    if not (save_dir := Path(config.save_dir)).is_dir():
        return
    for path in sorted(save_dir.iterdir()):
        is_written = path.suffix in _WRITTEN[suffix] and _writes(config, f"{path.stem}.pt", epoch, max_epoch)
        if is_written and (reason := _reason_to_keep(path, run)):
            raise CheckpointError(
                f"{path} {reason}, and this run would replace it; move it, or give another --save-dir"
            )


def may_delete(path: Path, run: Run) -> bool:
    """Returns whether a file is a checkpoint, or the JSON of one, that the run itself has written."""
    return not _reason_to_keep(path, run) and _run_id(path) == run.id


def _reason_to_keep(path: Path, run: Run) -> str:
    """Returns why the run must not replace a file; empty where it may."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return "is a link"
    if is_sharded_checkpoint(path):
        if others := other_files(path):
            return f"holds {others[0].name}, which is no part of it"
    elif not stat.S_ISREG(mode):
        return "is a directory" if stat.S_ISDIR(mode) else "is no file"
    elif path.suffix == SHARDED_SUFFIX:
        return "is a file"
    if not mode & 0o222:
        return "is read-only"
    written_by = _run_id(path)
    if written_by == run.id or (run.is_unmarked and written_by == ""):
        return ""
    return "is of another run" if written_by is not None else "is no checkpoint of ours"


def _run_id(path: Path) -> str | None:
    """Returns the id of the run that wrote a checkpoint or its JSON: empty if it names none, None for other files."""
    extra: Any = load_extra_state(path) if path.suffix != ".json" else _extra_state_of_json(path)
    if not extra:
        return None
    run = run_from(extra.get("run"))
    return "" if run is None else run.id


def _extra_state_of_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            return {}
        record = json.loads(path.read_bytes())
        extra = record["extra_state"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return extra if isinstance(extra, dict) else {}


def _writes(config: CheckpointConfig, name: str, epoch: int, max_epoch: int) -> bool:
    """Returns whether the run may come to write a checkpoint of this name."""
    if name == LAST:
        return not config.no_last_checkpoints
    if name == "checkpoint_best.pt":
        return not config.disable_validation
    if match := re.fullmatch(r"checkpoint(\d+)\.pt", name):
        number = int(match[1])
        within = epoch <= number and (not max_epoch or number <= max_epoch) and number % config.save_interval == 0
        return within and not config.no_epoch_checkpoints
    if match := re.fullmatch(r"checkpoint_(\d+)_(\d+)\.pt", name):
        return config.save_interval_updates > 0 and int(match[1]) >= epoch
    is_best = name.startswith(f"checkpoint.best_{config.best_checkpoint_metric}_")
    return config.keep_best_checkpoints > 0 and not config.disable_validation and is_best
