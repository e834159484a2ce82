"""How a run began, and from which checkpoint a command goes on.

Every checkpoint records its run: an id, which all checkpoints of one directory's run share, and how the run began (from
which file, with which resets and settings). So a command that is given again, after a kill or to train longer, goes on
from ``checkpoint_last.pt`` instead of beginning from ``--restore-file``, or applying a reset, a second time.

    checkpoint_last.pt        flags                           the command
    not there                 no --restore-file               begins a new run
    not there                 --restore-file X, or            begins from X
                              --finetune-from-model X
    there                     no --restore-file, no --reset   goes on
    there                     --reset-… or --restore-file X   goes on, if the run began so; else, for resets and for X
                                                              of the same run, begins from it; else is refused
    there                     --finetune-from-model X         goes on, if the run began from X or does not say; else is
                                                              refused

Ids are hashes, not random: equal commands write equal bytes. Settings that have their default are not in the hash of
settings, so that a run is known again by a later version, which has more of them.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fairseq.checkpoints.format import load_extra_state, recorded_names
from fairseq.config.common import CommonConfig, DeviceConfig, LossScaleConfig
from fairseq.config.fairseq_fields import REFERENCE
from fairseq.errors import CheckpointError
from fairseq.storage.file_kinds import SHARDED_RECORD, SHARDED_SUFFIX
from fairseq.storage.files import file_sha256
from fairseq.storage.inputs import require_checkpoint
from fairseq.train.config import FULLY_SHARDED, LAST, RESETS, CheckpointConfig, RunConfig
from fairseq.validate.config import ValidationConfig

logger = logging.getLogger(__name__)

# A command that differs in these only is the same run, trained longer, watched or saved otherwise, or elsewhere.
_GROUPS = (CheckpointConfig, ValidationConfig, CommonConfig, DeviceConfig, LossScaleConfig)
_BESIDE = {field.name for group in _GROUPS for field in fields(group)} - {"seed", "optimizer_overrides"}
_BESIDE |= {"max_epoch", "max_update", "stop_time_hours", "stop_min_lr", "tensorboard_logdir"}
_BESIDE |= {"checkpoint_activations", "offload_activations", "use_plasma_view"}
_FORM = "not default: "  # of a hash of settings; older ones, of all settings that there were, have no such mark
_UNMARKED = "unmarked "


@dataclass(frozen=True)
class Origin:
    """How a run began.

    Attributes:
        settings: hash of the settings that determine its updates.
        file: the checkpoint that it began from, as it was spelled; empty for none.
        sha256: of that file.
        resets: what was not restored from it, by the flags' names.
    """

    settings: str
    file: str = ""
    sha256: str = ""
    resets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """What a checkpoint records of its run.

    Attributes:
        id: shared by all checkpoints of the run.
        origin: how it began; None where a checkpoint does not say.
    """

    id: str
    origin: Origin | None

    @property
    def is_unmarked(self) -> bool:
        """Whether the run was begun by a program that records no runs."""
        return self.id.startswith(_UNMARKED)

    def record(self) -> dict[str, Any]:
        """Returns what a checkpoint stores."""
        origin = None if self.origin is None else {**asdict(self.origin), "resets": list(self.origin.resets)}
        return {"id": self.id, "began": origin}


def run_from(record: Any) -> Run | None:
    """Returns the run that a checkpoint stores; None where it has none, or one of another form."""
    if not isinstance(record, Mapping) or not isinstance(record.get("id"), str):
        return None
    began = record.get("began")
    if not isinstance(began, Mapping) or not isinstance(began.get("resets"), (list, tuple)):
        return Run(record["id"], None)
    settings, file, sha256 = (str(began.get(name, "")) for name in ("settings", "file", "sha256"))
    return Run(record["id"], Origin(settings, file, sha256, tuple(map(str, began["resets"]))))


@dataclass(frozen=True)
class Start:
    """What a command does first.

    Attributes:
        path: the checkpoint that it loads; None for a new run.
        resets: what is not restored from it.
        run: what its checkpoints record.
    """

    path: Path | None
    resets: tuple[str, ...]
    run: Run


def choose_start(config: RunConfig) -> Start:
    """Returns what a command begins or goes on with.

    Raises:
        CheckpointError: a file that was asked for by name is missing, or ``--save-dir`` holds another run.
    """
    wanted = config.checkpoint
    last, settings = Path(wanted.save_dir) / config.last, settings_sha256(config)
    file, resets = wanted.restore_file, tuple(name for name in RESETS if getattr(wanted, name))
    if wanted.finetune_from_model is not None:
        file, resets = wanted.finetune_from_model, RESETS
    if file != LAST:
        require_checkpoint(file)
        file = LAST if Path(file).resolve() == last.resolve() else file
    path = last if file == LAST else Path(file)
    if not last.exists():
        if path == last:
            _refuse_other_form(config, last)
        return (
            Start(None, (), _new_run(Origin(settings))) if path == last else _begin(path, file, resets, settings, last)
        )
    if wanted.no_save and path != last:  # it replaces nothing
        return _begin(path, file, resets, settings, last)
    own = _in_todays_form(_run_of(last), last, config)
    if path == last and not resets:
        return Start(last, (), own)
    if _began_so(own, path, file, resets, settings, wanted.finetune_from_model is not None):
        begun_with = "" if wanted.finetune_from_model is not None else _without(resets)
        logger.info("%s began from %s%s, and goes on", last, file, begun_with)
        return Start(last, (), own)
    if wanted.finetune_from_model is None and (path == last or _run_of(path).id == own.id):
        return _begin(path, file, resets, settings, last)
    flag, how = "--restore-file", f"{_without(resets)} with these settings"
    if wanted.finetune_from_model is not None:
        flag, how = "--finetune-from-model", ""
    raise CheckpointError(
        f"{last} is there, and its run did not begin from {file}{how}; give another --save-dir to begin from {file}, or"
        f" leave {flag} out to go on from {last.name}"
    )


def settings_sha256(config: RunConfig, known: Collection[str] = ()) -> str:
    """Returns the hash of the settings that determine updates and have not their default.

    Args:
        config: the settings.
        known: settings that are in it whatever they are.
    """
    settings, defaults = config.fields(), config.defaults()
    hashed = {}
    for name in settings.keys() - _BESIDE:
        default = defaults.get(name, ...)
        if isinstance(default, str) and (match := REFERENCE.fullmatch(default)):
            default = settings.get(match[1])
        if name in known or _as_json(settings[name]) != _as_json(default):
            hashed[name] = settings[name]
    return ("" if known else _FORM) + hashlib.sha256(_as_json(hashed).encode()).hexdigest()


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _in_todays_form(run: Run, last: Path, config: RunConfig) -> Run:
    """Returns a run whose hash of settings has today's form, where it is an older one of these settings.

    That was of every setting that the program had; which they were, ``checkpoint_last.pt`` says.
    """
    origin = run.origin
    if origin is None or origin.settings.startswith(_FORM):
        return run
    known = recorded_names(last)
    if not known or origin.settings != settings_sha256(config, known):
        return run
    return Run(run.id, replace(origin, settings=settings_sha256(config)))


def _begin(path: Path, file: str, resets: tuple[str, ...], settings: str, last: Path) -> Start:
    """Returns the start of a run from a checkpoint; one of the same directory is of the same run."""
    origin = Origin(settings, file, _sha256(path), resets)
    in_place = path.resolve().parent == last.resolve().parent
    return Start(path, resets, Run(_run_of(path).id, origin) if in_place else _new_run(origin))


def _new_run(origin: Origin) -> Run:
    return Run(hashlib.sha256(json.dumps(asdict(origin)).encode()).hexdigest()[:32], origin)


def _refuse_other_form(config: RunConfig, last: Path) -> None:
    """Raises CheckpointError where --save-dir has the other kind of checkpoint, from which nobody asked to begin."""
    other = last.with_suffix(".pt" if config.train.is_sharded else SHARDED_SUFFIX)
    if other.exists():
        how = "without" if config.train.is_sharded else "with"
        raise CheckpointError(
            f"{other} is there, of a run {how} --ddp-backend {FULLY_SHARDED}; give --restore-file {other} to go on from"
            " it, or another --save-dir"
        )


def _sha256(path: Path) -> str:
    """Returns the hash of a checkpoint; of one in shards, that of its record, which has those of its files."""
    return file_sha256(path / SHARDED_RECORD if path.is_dir() else path)


def _run_of(path: Path) -> Run:
    """Returns the run that a checkpoint belongs to; one that names none has an id of its own."""
    require_checkpoint(path)
    return run_from(load_extra_state(path).get("run")) or Run(_UNMARKED + _sha256(path)[:32], None)


def _began_so(own: Run, path: Path, file: str, resets: tuple[str, ...], settings: str, is_first_only: bool) -> bool:
    """Returns whether a run began as the flags say: from this file, with these resets and settings.

    ``is_first_only`` is for a model that only the first launch starts from, whatever the settings of the next ones. A
    file that the run itself has written anew since it began is known by its name and by its own record.
    """
    origin = own.origin
    if is_first_only:
        return origin is None or origin.file == file or origin.sha256 == _sha256(path)
    if origin is None or (origin.settings, origin.resets) != (settings, resets):
        return False
    if origin.file == file:
        written_by = _run_of(path).origin
        is_own = written_by is not None and replace(written_by, settings=settings) == origin  # of whichever form
        return is_own or origin.sha256 == _sha256(path)
    return origin.sha256 == _sha256(path)


def _without(resets: tuple[str, ...]) -> str:
    return f" (--{', --'.join(resets)})".replace("_", "-") if resets else ""
