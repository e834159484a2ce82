"""``fairseq-train``: train a language model on binarised text."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig, LossScaleConfig
from fairseq.config.fairseq_fields import filled_in
from fairseq.config.flags import Flags, as_dict, flag_name
from fairseq.config.namespace import for_preset
from fairseq.config.registry import Registry
from fairseq.criterions import CRITERIONS
from fairseq.data.config import BatchConfig
from fairseq.errors import ConfigError
from fairseq.models import MODELS, architecture, model_of
from fairseq.models.transformer_config import TransformerConfig
from fairseq.optim import LR_SCHEDULERS, OPTIMIZERS
from fairseq.optim.config import OptimizationConfig, PlateauConfig
from fairseq.runtime.resources import give_freed_memory_back, keep_freed_memory, require_disk
from fairseq.storage.files import locked
from fairseq.storage.inputs import require_directory, require_inputs
from fairseq.tasks import TASKS, make_task, reads_splits
from fairseq.train.config import CheckpointConfig, RunConfig, TrainConfig
from fairseq.validate.config import ValidationConfig
from fairseq_cli.shared.processes import ProcessesConfig, RestartsConfig, leave, start
from fairseq_cli.shared.run import run

if TYPE_CHECKING:
    from fairseq.runtime.distributed import ProcessGroup
    from fairseq.runtime.precision import Precision
    from fairseq.train.loop import Training

MODULE = "fairseq_cli.train"
logger = logging.getLogger(MODULE)  # as a process of several it runs as __main__

DESCRIPTION = """Train a language model on data that fairseq-preprocess wrote. A stopped run goes on from
checkpoint_last.pt in --save-dir when the same command is given again; what it began from (--restore-file,
--finetune-from-model, resets) is then not repeated. With --distributed-world-size, or under torchrun, several
processes train one model."""
EXAMPLES = (
    """# a small model, in minutes on a CPU
fairseq-train data-bin --save-dir checkpoints --decoder-layers 2 --decoder-embed-dim 128 \\
    --decoder-ffn-embed-dim 512 --decoder-attention-heads 4 --optimizer adam --lr 0.003 \\
    --tokens-per-sample 128 --max-tokens 2048 --max-update 500""",
    """# the published model of WikiText-103
fairseq-train data-bin --save-dir checkpoints --arch transformer_lm_wiki103 --criterion adaptive_loss \\
    --optimizer nag --lr 0.0001 --max-lr 1.0 --lr-scheduler cosine --warmup-updates 16000 \\
    --warmup-init-lr 1e-07 --lr-period-updates 270000 --t-mult 2 --lr-shrink 0.75 --min-lr 1e-09 \\
    --clip-norm 0.1 --max-tokens 3072 --update-freq 3 --tokens-per-sample 3072 --max-update 286000 --fp16""",
)


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    registered = [registry.configs() for registry in (TASKS, MODELS, CRITERIONS, OPTIMIZERS, LR_SCHEDULERS)]
    plugged = [config for configs in registered for config in configs]
    settings = (OptimizationConfig, BatchConfig, ValidationConfig, CheckpointConfig)
    processes = (ProcessesConfig, RestartsConfig)
    return (TrainConfig, *plugged, *settings, *processes, DeviceConfig, LossScaleConfig, CommonConfig)


def run_config(flags: Flags) -> RunConfig:
    """Returns what the flags spell, and warns of flags that nothing chosen uses."""
    train = flags.build(TrainConfig)
    model = model_of(train.arch)
    _, preset = architecture(train.arch, for_preset(flags, MODELS.config(model) or TransformerConfig))
    batching = flags.build(BatchConfig)
    if batching.max_tokens is None and batching.max_sentences is None:
        raise ConfigError("--max-tokens or --batch-size is required: the size of a batch, such as --max-tokens 2048")

    def chosen(registry: Registry, name: str, *weaker: Mapping[str, Any]) -> Any:
        config = registry.config(name)
        return None if config is None else flags.build(config, *weaker)

    config = RunConfig(
        common=flags.build(CommonConfig),
        device=flags.build(DeviceConfig),
        scaling=flags.build(LossScaleConfig),
        train=train,
        optimization=flags.build(OptimizationConfig),
        checkpoint=flags.build(CheckpointConfig),
        batching=batching,
        validation=flags.build(ValidationConfig),
        task=chosen(TASKS, train.task),
        model=chosen(MODELS, model, preset),
        optimizer=chosen(OPTIMIZERS, train.optimizer),
        schedule=chosen(LR_SCHEDULERS, train.lr_scheduler),
        criterion=chosen(CRITERIONS, train.criterion),
    )
    if isinstance(config.schedule, PlateauConfig) and config.checkpoint.disable_validation:
        raise ConfigError("--lr-scheduler reduce_lr_on_plateau needs validations; leave out --disable-validation")
    flags.warn_unused()
    if "ddp_backend" in flags.typed and not train.is_sharded:
        logger.warning(
            "--ddp-backend %s has no effect: gradients are always added once, after the last batch of an update",
            train.ddp_backend,
        )
    config = _without_references(config)
    looks_back = isinstance(config.schedule, PlateauConfig)
    if config.checkpoint.reset_lr_scheduler and not config.checkpoint.reset_optimizer and not looks_back:
        logger.warning(
            "--reset-lr-scheduler has no effect without --reset-optimizer: a schedule depends on updates and epoch"
        )
    return config


def _without_references(config: RunConfig) -> RunConfig:
    """Returns the settings with those values that plugins take from other flags."""
    parts = {name: getattr(config, name) for name in ("task", "model", "optimizer", "schedule", "criterion")}
    shared = (config.common, config.device, config.batching, config.validation, config.checkpoint, config.optimization)
    settings = as_dict(*filter(None, parts.values()), config.train, *shared)
    return replace(config, **{name: filled_in(part, settings) for name, part in parts.items()})


def main(argv: Sequence[str]) -> None:
    """Trains."""
    flags = parse("fairseq-train", DESCRIPTION, flag_groups(), argv, EXAMPLES)
    processes = flags.build(ProcessesConfig)
    max_restarts = flags.build(RestartsConfig).max_restarts
    if (number := processes.to_start(MODULE, argv, max_restarts=max_restarts)) > 0:
        start_processes(number, max_restarts, flags, argv)
        return
    config = run_config(flags)
    if reads_splits(config.train.task):
        subsets = [] if config.checkpoint.disable_validation else config.validation.splits
        for subset in (config.batching.train_subset, *subsets):
            require_inputs("", config.task.data, subset)
    if not config.checkpoint.no_save:
        require_directory("--save-dir", config.checkpoint.save_dir, text=config.train.is_sharded)
    if (logdir := config.train.tensorboard_logdir) is not None:
        for part in ("train", *config.validation.splits):
            require_directory("--tensorboard-logdir", f"{logdir}/{part}", text=True)

    import torch

    from fairseq.runtime.distributed import TorchProcesses, joined
    from fairseq.runtime.precision import Precision, select_device

    kind: type[TorchProcesses] = TorchProcesses
    if config.train.is_sharded:
        from fairseq.runtime.sharding import ShardingProcesses  # torch's part of it takes a second to import

        kind = ShardingProcesses
    last = Path(config.checkpoint.save_dir) / config.last
    with joined(select_device(config.device).type, lambda: how_to_go_on(last), several=kind) as group:
        precision = Precision(config.device, select_device(config.device, group.local_rank), config.scaling)
        if group.world_size == 1 and processes.distributed_world_size is None and precision.device.type == "cuda":
            say_idle_gpus(torch.cuda.device_count())
        torch.manual_seed(config.common.seed)
        if precision.device.type == "cpu":
            (give_freed_memory_back if group.is_sharded else keep_freed_memory)()
        with ExitStack() as stack:
            if group.rank == 0 and not config.checkpoint.no_save:
                stack.enter_context(locked(Path(config.checkpoint.save_dir) / "train"))
            build_training(config, precision, group).run()


def start_processes(processes: int, max_restarts: int, flags: Flags, argv: Sequence[str]) -> None:
    """Runs this command in several processes on this machine; they look at the other flags.

    Raises:
        ConfigError: there are fewer GPUs, or a restart could not go on from anything.
    """
    checkpoint, device = flags.build(CheckpointConfig), flags.build(DeviceConfig)
    last = Path(checkpoint.save_dir) / flags.build(TrainConfig).last
    for name in ("no_save", "no_last_checkpoints", "no_save_optimizer_state"):
        if max_restarts and getattr(checkpoint, name):
            raise ConfigError(
                f"--max-restarts goes on from {last.name}, and {flag_name(name)} leaves nothing to go on from"
            )

    hint = "" if max_restarts or checkpoint.no_save else ", as --max-restarts 3 would do by itself"
    start(MODULE, argv, processes, device, lambda: how_to_go_on(last) + hint, max_restarts)


def how_to_go_on(last: Path) -> str:
    """Returns what the same command does after a run that could not save where it stood."""
    if last.exists():
        return f"the same command goes on from {last}"
    return f"there is no {last} yet, and the same command starts from the beginning"


def say_idle_gpus(number: int) -> None:
    """Logs how to train on all GPUs, where there are several: fairseq takes them all without being told."""
    if number > 1:
        logger.info("training on one of %d GPUs; --distributed-world-size %d trains on all of them", number, number)


def build_training(config: RunConfig, precision: "Precision", group: "ProcessGroup") -> "Training":
    """Returns the run, restored from a checkpoint where there is one."""
    from fairseq.criterions.build import build_criterion
    from fairseq.train.fully_sharded import layers_of, require_one_pass, require_package
    from fairseq.train.loop import Training
    from fairseq.train.trainer import Trainer

    names = config.train
    task = make_task(names.task, config.task)
    model = task.build_model(model_of(names.arch), config.model)
    num_parameters = sum(p.numel() for p in model.parameters())
    size = f"{num_parameters:,} parameters, {len(task.dictionary)} ids"
    logger.info("%s: %s, %s on %s", names.arch, size, precision.name, precision.device)
    if group.rank == 0 and not config.checkpoint.no_save:
        # Weights, and as many numbers again of the optimizer's; a checkpoint is written before the old one goes.
        require_disk(Path(config.checkpoint.save_dir), 2 * 4 * num_parameters, "make room for a checkpoint")
    layers = []
    if names.is_sharded:
        require_package()
        layers = layers_of(model, names.optimizer, precision)
    model = group.placed(model, layers, precision.device)
    lr_schedule = LR_SCHEDULERS.get(names.lr_scheduler)(config.schedule, config.optimization)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer_args = () if config.optimizer is None else (config.optimizer,)
    trainer = Trainer(
        model,
        build_criterion(
            CRITERIONS.get(names.criterion),
            config.criterion,
            task,
            precision.device,
            sentence_avg=config.optimization.sentence_avg,
        ),
        OPTIMIZERS.get(names.optimizer)(parameters, lr_schedule(0, 1), *optimizer_args),
        lr_schedule,
        precision,
        group,
        config.optimization.clip_norm,
        config.common.seed,
    )
    if names.is_sharded:
        require_one_pass(trainer.criterion, names.criterion)
    return Training(config, task, trainer)


def cli_main() -> None:
    """Entry point of the console script."""
    leave(run("fairseq-train", main, knows_ranks=True))


if __name__ == "__main__":
    cli_main()
