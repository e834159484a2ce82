"""``fairseq-train``: train a language model on binarised text."""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.flags import Flags, as_dict
from fairseq.criterions import CRITERIONS
from fairseq.data.config import BatchConfig, LanguageModelingConfig
from fairseq.errors import CheckpointError, ConfigError
from fairseq.models import MODELS, architecture
from fairseq.optim import LR_SCHEDULERS, OPTIMIZERS
from fairseq.optim.config import OptimizationConfig
from fairseq.runtime.files import locked
from fairseq.runtime.inputs import require_inputs
from fairseq.runtime.log import set_log_format
from fairseq.runtime.resources import keep_freed_memory, require_disk
from fairseq.tasks import TASKS
from fairseq.train.config import CheckpointConfig, TrainConfig
from fairseq_cli.run import run

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from fairseq.checkpoints.format import Checkpoint
    from fairseq.runtime.distributed import ProcessGroup
    from fairseq.runtime.precision import Precision
    from fairseq.train.loop import Training
    from fairseq.train.trainer import Trainer

logger = logging.getLogger(__name__)

DESCRIPTION = """Train a language model on data that fairseq-preprocess has binarised. A run that was stopped goes on
from checkpoint_last.pt in --save-dir. Under torchrun, several processes train one model."""


@dataclass(frozen=True)
class Settings:
    """Every config of one run of the command."""

    common: CommonConfig
    device: DeviceConfig
    train: TrainConfig
    optimization: OptimizationConfig
    checkpoint: CheckpointConfig
    batching: BatchConfig
    task: Any
    model_name: str
    model: Any
    optimizer: Any
    schedule: Any
    criterion: Any

    def fields(self) -> dict[str, Any]:
        """Returns every setting in force, flat, as checkpoints store them."""
        parts = (self.common, self.device, self.batching, self.checkpoint, self.optimization, self.optimizer)
        chosen = [part for part in (*parts, self.schedule, self.criterion, self.task, self.model) if part is not None]
        fields = as_dict(self.train, *chosen)
        for name in ("decoder_input_dim", "decoder_output_dim"):
            if fields.get(name, ...) is None:  # other programs that read the checkpoint want a number
                fields[name] = fields["decoder_embed_dim"]
        if fields.get("max_target_positions", ...) is None:
            fields["max_target_positions"] = fields["tokens_per_sample"] + fields["add_bos_token"]
        return fields


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    registered = [registry.configs() for registry in (TASKS, MODELS, CRITERIONS, OPTIMIZERS, LR_SCHEDULERS)]
    plugged = [config for configs in registered for config in configs]
    return (TrainConfig, *plugged, OptimizationConfig, BatchConfig, CheckpointConfig, DeviceConfig, CommonConfig)


def resolve_settings(flags: Flags) -> Settings:
    """Returns the settings that the flags spell, and warns of flags that nothing chosen uses."""
    train = flags.build(TrainConfig)
    model_name, preset = architecture(train.arch)
    model_config = MODELS.config(model_name)
    assert model_config is not None
    batching = flags.build(BatchConfig)
    if batching.max_tokens is None and batching.max_sentences is None:
        raise ConfigError("--max-tokens or --batch-size is required: how much goes into a batch")
    task_config = TASKS.config(train.task)
    assert task_config is not None

    def chosen(config: type | None) -> Any:
        return flags.build(config) if config is not None else None

    settings = Settings(
        common=flags.build(CommonConfig),
        device=flags.build(DeviceConfig),
        train=train,
        optimization=flags.build(OptimizationConfig),
        checkpoint=flags.build(CheckpointConfig),
        batching=batching,
        task=flags.build(task_config),
        model_name=model_name,
        model=flags.build(model_config, preset),
        optimizer=chosen(OPTIMIZERS.config(train.optimizer)),
        schedule=chosen(LR_SCHEDULERS.config(train.lr_scheduler)),
        criterion=chosen(CRITERIONS.config(train.criterion)),
    )
    flags.warn_unused()
    return settings


def main(argv: Sequence[str]) -> None:
    """Trains."""
    flags = parse("fairseq-train", DESCRIPTION, flag_groups(), argv)
    settings = resolve_settings(flags)
    if isinstance(settings.task, LanguageModelingConfig):
        require_inputs("", settings.task.data, settings.batching.train_subset)

    import torch

    from fairseq.runtime.distributed import join_processes
    from fairseq.runtime.precision import Precision, select_device

    group = join_processes(select_device(settings.device).type)
    precision = Precision(settings.device, select_device(settings.device, group.local_rank))
    torch.manual_seed(settings.common.seed)
    if precision.device.type == "cpu":
        keep_freed_memory()
    if group.rank:
        set_log_format("none")
    try:
        with ExitStack() as stack:
            if group.rank == 0 and not settings.checkpoint.no_save:
                stack.enter_context(locked(Path(settings.checkpoint.save_dir) / "train"))
            build_training(settings, precision, group).run()
    finally:
        group.close()


def build_training(settings: Settings, precision: "Precision", group: "ProcessGroup") -> "Training":
    """Returns the run, restored from a checkpoint where there is one."""
    from fairseq.optim.lr_schedules import stop_lr
    from fairseq.train.loop import Schedule, Training
    from fairseq.train.trainer import Trainer

    task = TASKS.get(settings.train.task)(settings.task)
    model = task.build_model(settings.model_name, settings.model).to(precision.device)
    num_parameters = sum(p.numel() for p in model.parameters())
    logger.info(
        "%s: %s parameters, %d ids, %s on %s",
        settings.train.arch,
        f"{num_parameters:,}",
        len(task.dictionary),
        precision.name,
        precision.device,
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    if group.rank == 0 and not settings.checkpoint.no_save:
        # Weights, and as many numbers again of the optimizer's; a checkpoint is written before the old one goes.
        require_disk(Path(settings.checkpoint.save_dir), 2 * 4 * num_parameters, "make room for a checkpoint")
    optimizer_args = (settings.optimizer,) if settings.optimizer is not None else ()
    schedule_args = (settings.schedule, settings.optimization)
    lr_schedule = LR_SCHEDULERS.get(settings.train.lr_scheduler)(*schedule_args)
    optimizer = OPTIMIZERS.get(settings.train.optimizer)(parameters, lr_schedule(0, 1), *optimizer_args)
    trainer = Trainer(
        model,
        CRITERIONS.get(settings.train.criterion),
        optimizer,
        lr_schedule,
        precision,
        group,
        settings.optimization.clip_norm,
        settings.common.seed,
    )
    schedule = Schedule(
        settings.optimization,
        settings.checkpoint,
        stop_lr(settings.schedule, settings.optimization),
        settings.common.log_interval,
    )
    training = Training(
        task, trainer, settings.train, settings.batching, schedule, settings.common.seed, settings.fields()
    )
    restore(training, trainer, settings)
    return training


def restore(training: "Training", trainer: "Trainer", settings: Settings) -> None:
    """Goes on from ``--restore-file`` if it is there.

    Raises:
        CheckpointError: a file that was asked for by name is missing, or does not fit.
    """
    from fairseq.checkpoints.format import load_checkpoint
    from fairseq.models.upgrade import load_state

    config = settings.checkpoint
    default = CheckpointConfig().restore_file
    path = Path(config.restore_file)
    if config.restore_file == default:
        path = Path(config.save_dir) / default
        if not path.exists():
            return
    checkpoint = load_checkpoint(path)
    training.task.check_dictionary(checkpoint)
    problems = load_state(trainer.model, checkpoint.state)
    if problems:
        raise CheckpointError(
            f"the weights of {path} do not fit the model that the flags describe: {'; '.join(problems[:3])};"
            " give the flags that it was trained with, or another --save-dir"
        )
    if not config.reset_optimizer:
        _restore_optimizer(checkpoint, trainer, settings)
    if not config.reset_lr_scheduler:
        trainer.num_updates = checkpoint.num_updates
    training.restore(checkpoint.extra_state, position=not config.reset_dataloader, meters=not config.reset_meters)
    logger.info("resumed from %s: epoch %d, %d updates done", path, training.epoch, trainer.num_updates)


def _restore_optimizer(checkpoint: "Checkpoint", trainer: "Trainer", settings: Settings) -> None:
    hint = "--reset-optimizer starts a new one (with --reset-lr-scheduler --reset-dataloader for a new run)"
    if checkpoint.optimizer_state is None:
        raise CheckpointError(f"{checkpoint.path} has no optimizer state; {hint}")
    if "written_by" not in checkpoint.extra_state:
        raise CheckpointError(f"{checkpoint.path} has the optimizer state of another program; {hint}")
    if checkpoint.optimizer_name != settings.train.optimizer:
        raise CheckpointError(
            f"{checkpoint.path} has the state of optimizer {checkpoint.optimizer_name}, but --optimizer is"
            f" {settings.train.optimizer}; {hint}"
        )
    in_force = [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
    try:
        trainer.optimizer.load_state_dict(dict(checkpoint.optimizer_state))
        _check_moments(trainer.optimizer)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
        raise CheckpointError(f"the optimizer state of {checkpoint.path} is damaged ({err}); {hint}") from err
    for group, settings_now in zip(trainer.optimizer.param_groups, in_force, strict=True):
        # The state is the file's; momentum, weight decay and the like are the flags'.
        group.update({k: v for k, v in settings_now.items() if k not in ("lr", "lr_old")})


def _check_moments(optimizer: "Optimizer") -> None:
    """Raises ValueError where a moment has not the shape of its parameter."""
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            shape = getattr(moment, "shape", ())
            if len(shape) and shape != parameter.shape:
                raise ValueError(f"{name} of shape {tuple(shape)} for a parameter of shape {tuple(parameter.shape)}")


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run("fairseq-train", main))


if __name__ == "__main__":
    cli_main()
