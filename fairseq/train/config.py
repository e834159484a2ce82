"""Flags of training itself, and ``RunConfig``: all settings of one run."""

from dataclasses import dataclass
from typing import Any

from fairseq.config.common import CommonConfig, DeviceConfig, LossScaleConfig
from fairseq.config.fairseq_fields import defaults_of
from fairseq.config.flags import as_dict, flag, flag_name
from fairseq.config.kinds import Dir, File, Name, Settings
from fairseq.criterions import CRITERIONS
from fairseq.data.config import BatchConfig
from fairseq.errors import ConfigError, did_you_mean, shown
from fairseq.models import architecture_summaries, model_of
from fairseq.models.presets import ARCHITECTURES
from fairseq.optim import LR_SCHEDULERS, OPTIMIZERS
from fairseq.optim.config import OptimizationConfig
from fairseq.storage.file_kinds import SHARDED_SUFFIX
from fairseq.tasks import TASKS
from fairseq.validate.config import ValidationConfig

LAST = "checkpoint_last.pt"
FULLY_SHARDED = "fully_sharded"
REPLICATED = ("legacy_ddp", "c10d", "no_c10d", "pytorch_ddp")  # of --ddp-backend, which are one and the same here
MOST_LETTERS = 50  # of a metric in the name of a file
RESETS = ("reset_optimizer", "reset_lr_scheduler", "reset_dataloader", "reset_meters")


@dataclass(frozen=True)
class TrainConfig:
    """What is trained, and how."""

    task: Name = flag("language_modeling", "task", choices=TASKS.summaries)
    arch: Name = flag(
        "transformer_lm",
        "model, with a preset of its size and parts; the model's flags change them",
        aliases=("-a",),
        choices=architecture_summaries,
    )
    criterion: str = flag("cross_entropy", "loss", choices=CRITERIONS.summaries)
    optimizer: str = flag("nag", "optimizer", choices=OPTIMIZERS.summaries)
    lr_scheduler: str = flag("fixed", "learning rate schedule", choices=LR_SCHEDULERS.summaries)
    tensorboard_logdir: Dir | None = flag(
        None, "write TensorBoard logs to this directory (needs the extra [tensorboard])"
    )
    ddp_backend: Name = flag(
        "legacy_ddp",
        "fully_sharded: the processes share the model out, layer by layer, and write checkpoints in shards (.dcp);"
        " all others: each has the whole model, and gradients are added once an update",
    )

    def __post_init__(self) -> None:
        if self.ddp_backend == "slowmo":
            raise ConfigError("--ddp-backend slowmo is not here: gradients are added at every update; leave it out")
        if self.ddp_backend not in (FULLY_SHARDED, *REPLICATED):
            raise ConfigError(
                f"--ddp-backend must be one of {', '.join((FULLY_SHARDED, *REPLICATED))}, but is"
                f" {shown(self.ddp_backend)}{did_you_mean(self.ddp_backend, (FULLY_SHARDED,))}"
            )

    @property
    def is_sharded(self) -> bool:
        """Whether processes share the model out, and checkpoints are directories."""
        return self.ddp_backend == FULLY_SHARDED

    @property
    def suffix(self) -> str:
        """What names of checkpoints end in: they are files, or directories of shards."""
        return SHARDED_SUFFIX if self.is_sharded else ".pt"

    @property
    def last(self) -> str:
        """Name of the newest checkpoint, which a run goes on from."""
        return LAST.removesuffix(".pt") + self.suffix


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints and validation."""

    save_dir: Dir = flag("checkpoints", "directory of checkpoints; a stopped run goes on from the one that is there")
    restore_file: File = flag(LAST, "checkpoint to begin from; when the run is resumed, its own last one counts")
    finetune_from_model: File | None = flag(
        None, "begin a new run with the weights of this checkpoint, and nothing else of it"
    )
    reset_optimizer: bool = flag(False, "begin with a new optimizer, at update 0, and forget the best loss so far")
    reset_lr_scheduler: bool = flag(
        False, "forget the validations by which reduce_lr_on_plateau lowered the rate; other schedules keep nothing"
    )
    reset_dataloader: bool = flag(False, "begin at the first batch of the first epoch")
    reset_meters: bool = flag(False, "forget the best loss so far, and --patience")
    optimizer_overrides: Settings = flag(
        "{}", "settings of the optimizer that replace those of its flags, such as \"{'weight_decay': 0.01}\""
    )
    save_interval: int = flag(1, "save after every N epochs", minimum=1)
    save_interval_updates: int = flag(0, "validate and save after every N updates (0: never)", minimum=0)
    keep_interval_updates: int = flag(-1, "keep the last N checkpoints of --save-interval-updates (-1: all)")
    keep_interval_updates_pattern: int = flag(
        -1, "keep those of every N updates as well, whatever --keep-interval-updates says (-1: none)"
    )
    keep_last_epochs: int = flag(-1, "keep the last N epoch checkpoints (-1: all)")
    keep_best_checkpoints: int = flag(
        -1, "also keep the N best checkpoints, with their metric in their names (-1: none)"
    )
    no_save: bool = flag(False, "save nothing")
    no_epoch_checkpoints: bool = flag(False, "save only the last and the best checkpoint")
    no_last_checkpoints: bool = flag(False, "do not save checkpoint_last.pt")
    no_save_optimizer_state: bool = flag(
        False, "save no optimizer state: smaller files, from which training cannot be resumed"
    )
    best_checkpoint_metric: Name = flag(
        "loss", "validation metric by which the best is chosen: loss, ppl, or another one that the criterion tells"
    )
    maximize_best_checkpoint_metric: bool = flag(False, "the largest metric is the best, not the smallest")
    patience: int = flag(-1, "stop after N validations without improvement (-1: never)")
    validate_interval: int = flag(1, "validate after every N epochs", minimum=1)
    validate_interval_updates: int = flag(
        0, "also validate after every N updates; only a new best is saved (0: never)", minimum=0
    )
    validate_after_updates: int = flag(0, "do not validate before update N", minimum=0)
    disable_validation: bool = flag(False, "never validate")

    def __post_init__(self) -> None:
        metric = self.best_checkpoint_metric
        if self.keep_best_checkpoints > 0 and ("/" in metric or not metric.isprintable() or len(metric) > MOST_LETTERS):
            raise ConfigError(
                f"--keep-best-checkpoints puts the metric into names of files, which {shown(metric)} does not go into"
                f" (no / and no control characters, at most {MOST_LETTERS} letters); leave it out, or rename the metric"
            )
        if self.finetune_from_model is None:
            return
        more = [name for name in RESETS if getattr(self, name)] + ["restore_file"] * (self.restore_file != LAST)
        if more:
            raise ConfigError(
                f"--finetune-from-model resets everything by itself, and does not go with {flag_name(more[0])}; leave"
                " one of them out"
            )


@dataclass(frozen=True)
class RunConfig:
    """Every setting of one training run.

    ``task``, ``model``, ``optimizer``, ``schedule`` and ``criterion`` are the configs of those that were chosen by
    name; a plugin's may be of any class, or None.
    """

    common: CommonConfig
    device: DeviceConfig
    scaling: LossScaleConfig
    train: TrainConfig
    optimization: OptimizationConfig
    checkpoint: CheckpointConfig
    batching: BatchConfig
    validation: ValidationConfig
    task: Any
    model: Any
    optimizer: Any
    schedule: Any
    criterion: Any

    @property
    def suffix(self) -> str:
        """What names of checkpoints end in: they are files, or directories of shards."""
        return self.train.suffix

    @property
    def last(self) -> str:
        """Name of the newest checkpoint, which a run goes on from."""
        return self.train.last

    @property
    def _parts(self) -> list[Any]:
        run = (self.common, self.device, self.scaling, self.batching, self.validation, self.checkpoint)
        named = (self.optimizer, self.schedule, self.criterion, self.task, self.model)
        return [self.train, *(part for part in (*run, self.optimization, *named) if part is not None)]

    def defaults(self) -> dict[str, Any]:
        """Returns what ``fields`` has where no flag and no preset says anything, for settings that have a default."""
        return {name: value for part in self._parts for name, value in defaults_of(type(part)).items()}

    def fields(self) -> dict[str, Any]:
        """Returns every setting, flat, as checkpoints store them."""
        fields = as_dict(*self._parts)
        # Other programs that read the checkpoint want what is in force, not what stands for it.
        for name in ("decoder_input_dim", "decoder_output_dim"):
            if fields.get(name, ...) is None:
                fields[name] = fields["decoder_embed_dim"]
        if fields.get("adaptive_input") and not fields["adaptive_input_cutoff"]:
            fields["adaptive_input_cutoff"] = fields["adaptive_softmax_cutoff"]
        fields["use_plasma_view"] = False  # fairseq-validate there takes what is not said for on
        if "output_dictionary_size" in fields:
            fields["output_dictionary_size"] = -1
        preset_of_others = self.train.arch in ARCHITECTURES and fields.get("decoder_normalize_before")
        if model_of(self.train.arch) == "transformer_lm" and not preset_of_others:
            fields["arch"] = "transformer_lm"  # fairseq's other presets overrule where LayerNorms are
        is_open = fields.get("max_target_positions", ...) is None
        if is_open and "tokens_per_sample" in fields:  # a plugin's task may have no such setting
            fields["max_target_positions"] = fields["tokens_per_sample"] + bool(fields.get("add_bos_token"))
        return fields
