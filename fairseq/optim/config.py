"""Flags of optimizers and learning rate schedules."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.config.flags import flag
from fairseq.errors import ConfigError


def _weight_decay() -> Any:
    meaning = "weight decay: g ← g + wd·p in sgd, adagrad and adadelta, p ← p·(1 − lr·wd) in others"
    return flag(0.0, meaning, aliases=("--wd",), minimum=0)


def _warmup_updates(default: int) -> Any:
    return flag(default, "updates during which the learning rate rises to its maximum, in every schedule", minimum=0)


@dataclass(frozen=True)
class OptimizationConfig:
    """Length of training, learning rate, batches per update."""

    max_epoch: int = flag(0, "stop after this many epochs (0: no limit)", aliases=("--me",), minimum=0)
    max_update: int = flag(0, "stop after this many updates (0: no limit)", aliases=("--mu",), minimum=0)
    stop_time_hours: float = flag(
        0.0, "stop after this many hours, those of the run before it was resumed included (0: no limit)", minimum=0
    )
    clip_norm: float = flag(25.0, "clip gradients to this norm (0: never)", minimum=0)
    sentence_avg: bool = flag(False, "divide gradients and loss by the number of blocks, not of tokens")
    update_freq: tuple[int, ...] = flag((1,), "batches per update; a list has a number for each epoch", minimum=1)
    lr: tuple[float, ...] = flag(
        (0.25,),
        "learning rate; for the fixed schedule, a list has one for each epoch",
        aliases=("--learning-rate",),
        minimum=0,
    )
    min_lr: float = flag(-1.0, "lowest learning rate; with --max-lr, the rate at which training stops (-1: none)")
    stop_min_lr: float = flag(-1.0, "stop when the learning rate falls to this (-1: never)")


@dataclass(frozen=True)
class NAGConfig:
    """Optimizer nag."""

    momentum: float = flag(0.99, "momentum of nag and sgd", minimum=0, maximum=1)
    weight_decay: float = _weight_decay()


@dataclass(frozen=True)
class AdamConfig:
    """Optimizers adam and adamw."""

    adam_betas: tuple[float, ...] = flag((0.9, 0.999), "decay rates of the two moments", minimum=0, maximum=1)
    adam_eps: float = flag(1e-8, "added to the denominator, against division by 0", minimum=0)
    weight_decay: float = _weight_decay()


@dataclass(frozen=True)
class SGDConfig:
    """Optimizer sgd."""

    momentum: float = flag(0.0, "momentum of nag and sgd", minimum=0, maximum=1)
    weight_decay: float = _weight_decay()


@dataclass(frozen=True)
class AdagradConfig:
    """Optimizer adagrad."""

    weight_decay: float = _weight_decay()


@dataclass(frozen=True)
class AdamaxConfig:
    """Optimizer adamax."""

    adamax_betas: tuple[float, ...] = flag((0.9, 0.999), "decay rates of the two moments", minimum=0, maximum=1)
    adamax_eps: float = flag(1e-8, "added to the gradient's size, against division by 0", minimum=0)
    weight_decay: float = _weight_decay()
    no_bias_correction: bool = flag(False, "not in torch's Adamax, which always corrects: refused")

    def __post_init__(self) -> None:
        if self.no_bias_correction:
            raise ConfigError("--no-bias-correction is not in torch's Adamax, which always corrects; leave it out")


@dataclass(frozen=True)
class AdadeltaConfig:
    """Optimizer adadelta."""

    adadelta_rho: float = flag(0.9, "decay rate of the running means", minimum=0, maximum=1)
    adadelta_eps: float = flag(1e-6, "added to the means, against division by 0", minimum=0)
    weight_decay: float = _weight_decay()


@dataclass(frozen=True)
class AdafactorConfig:
    """Optimizer adafactor.

    torch's: it always scales the rate by the size of each weight, and caps it at 1/√updates.
    """

    adafactor_eps: tuple[float, ...] = flag(
        (1e-30, 1e-3), "least squared gradient, and least size of a weight that the rate is scaled by", minimum=0
    )
    clip_threshold: float = flag(1.0, "largest root mean square of an update before the rate", minimum=1)
    decay_rate: float = flag(-0.8, "power of the number of updates that the memory of squared gradients follows")
    beta1: float | None = flag(None, "momentum: not in torch's Adafactor, refused", minimum=0, maximum=1)
    scale_parameter: bool = flag(False, "scale the rate by the size of each weight; required, as torch's always does")
    relative_step: bool = flag(False, "a rate of the optimizer's own: refused; --lr 0.01 is the same cap")
    warmup_init: bool = flag(False, "a warm-up of the optimizer's own: refused; see --lr-scheduler")
    weight_decay: float = _weight_decay()

    def __post_init__(self) -> None:
        refused = {
            "--beta1": (self.beta1 is not None, "it has no momentum; leave it out"),
            "--relative-step": (self.relative_step, "the rate is the schedule's, at most 1/√updates; give --lr 0.01"),
            "--warmup-init": (self.warmup_init, "the rate is the schedule's; give --warmup-updates"),
        }
        for name, (given, instead) in refused.items():
            if given:
                raise ConfigError(f"{name} is not in torch's Adafactor: {instead}")
        if not self.scale_parameter:
            raise ConfigError(
                "--optimizer adafactor needs --scale-parameter: torch's Adafactor always scales the rate by the size of"
                " each weight"
            )
        if len(self.adafactor_eps) != 2:
            raise ConfigError(f"--adafactor-eps must be two numbers, (1e-30, 1e-3), but is {self.adafactor_eps}")
        if self.decay_rate >= 0:
            raise ConfigError(f"--decay-rate must be below 0, such as -0.8, but is {self.decay_rate}")


@dataclass(frozen=True)
class CosineConfig:
    """Schedule cosine.

    Two spellings: ``--max-lr MAX --lr MIN --min-lr STOP`` (2019), or ``--lr MAX --min-lr MIN --stop-min-lr STOP``.
    """

    warmup_updates: int = _warmup_updates(0)
    warmup_init_lr: float = flag(
        -1.0, "learning rate of the first update [default: lowest rate (cosine), 0 (inverse_sqrt)]"
    )
    max_lr: float | None = flag(
        None, "highest learning rate; then --lr is the lowest, and --min-lr where training stops"
    )
    t_mult: float = flag(1.0, "each period is this many times as long as the one before", minimum=1)
    lr_period_updates: float = flag(-1.0, "updates in the first period (-1: all of --max-update after the warm-up)")
    lr_shrink: float = flag(0.1, "each period's rates are this fraction of the one before", minimum=0)


@dataclass(frozen=True)
class InverseSqrtConfig:
    """Schedule inverse_sqrt."""

    warmup_updates: int = _warmup_updates(4000)
    warmup_init_lr: float = flag(-1.0, "learning rate of the first update [default: 0]")


@dataclass(frozen=True)
class FixedConfig:
    """Schedule fixed."""

    warmup_updates: int = _warmup_updates(0)
    force_anneal: int | None = flag(None, "from epoch N on, shrink the learning rate once an epoch", minimum=1)
    lr_shrink: float = flag(
        0.1, "factor by which --force-anneal (fixed) and each period (cosine) shrink the rate", minimum=0
    )


@dataclass(frozen=True)
class PolynomialDecayConfig:
    """Schedule polynomial_decay."""

    warmup_updates: int = _warmup_updates(0)
    end_learning_rate: float = flag(0.0, "learning rate at the end", minimum=0)
    power: float = flag(1.0, "exponent of the decay", minimum=0)
    total_num_update: int | None = flag(None, "update at which the end is reached [default: --max-update]", minimum=1)


@dataclass(frozen=True)
class TriangularConfig:
    """Schedule triangular."""

    max_lr: float | None = flag(None, "highest rate; --lr is the lowest [required]")
    lr_period_updates: float = flag(5000.0, "updates of a period, up and down again", minimum=2)
    lr_shrink: float = flag(0.1, "each period's highest rate is this fraction of the one before", minimum=0)
    shrink_min: bool = flag(False, "shrink the lowest rate as well")


@dataclass(frozen=True)
class PlateauConfig:
    """Schedule reduce_lr_on_plateau."""

    lr_shrink: float = flag(0.1, "factor by which the rate falls", minimum=0)
    lr_threshold: float = flag(1e-4, "share of the best metric by which a better one must be better", minimum=0)
    lr_patience: int = flag(0, "epochs without a better metric that are borne before the rate falls", minimum=0)
    warmup_updates: int = _warmup_updates(0)
    warmup_init_lr: float = flag(-1.0, "learning rate of the first update [default: 0]")
    maximize_best_checkpoint_metric: bool = field(default="${checkpoint.maximize_best_checkpoint_metric}")  # type: ignore[assignment]


@dataclass(frozen=True)
class StepConfig:
    """Schedule step."""

    lr_deacy_period: int = flag(25000, "updates between two falls", aliases=("--lr-decay-period",), minimum=1)
    lr_decay: float = flag(0.5, "factor of each fall", minimum=0)
    warmup_updates: int = _warmup_updates(0)
    warmup_init_lr: float = flag(-1.0, "learning rate of the first update [default: 0]")


@dataclass(frozen=True)
class TriStageConfig:
    """Schedule tri_stage."""

    warmup_steps: int = flag(0, "updates of the rise", minimum=0)
    hold_steps: int = flag(0, "updates at --lr after it", minimum=0)
    decay_steps: int = flag(0, "updates of the fall after them", minimum=0)
    phase_ratio: tuple[float, ...] | None = flag(
        None, "shares of --max-update that rise, level stretch and fall have, such as (0.1, 0.4, 0.5)", minimum=0
    )
    init_lr_scale: float = flag(0.01, "rate of the first update, as a share of --lr", minimum=0)
    final_lr_scale: float = flag(0.01, "rate at the end, as a share of --lr", minimum=1e-12)
