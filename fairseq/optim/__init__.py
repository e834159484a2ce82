"""Optimizers and learning rate schedules.

A plugin adds an optimizer with ``@register_optimizer("name", config=…)`` over ``(parameters, lr, config) → Optimizer``,
and a schedule with ``@register_lr_scheduler("name", config=…)`` over ``(config, optimization) → Schedule``, where a
schedule is a pure function ``(num_updates, epoch) → learning rate``.
"""

from typing import Any

from fairseq.config.registry import Registry
from fairseq.optim.config import (
    AdadeltaConfig,
    AdafactorConfig,
    AdagradConfig,
    AdamaxConfig,
    AdamConfig,
    CosineConfig,
    FixedConfig,
    InverseSqrtConfig,
    NAGConfig,
    PlateauConfig,
    PolynomialDecayConfig,
    SGDConfig,
    StepConfig,
    TriangularConfig,
    TriStageConfig,
)
from fairseq.plugins.foreign_names import not_here

OPTIMIZERS = Registry("optimizer", "--optimizer")
register_optimizer = OPTIMIZERS.register
OPTIMIZERS.add(
    "nag",
    "fairseq.optim.optimizers:build_nag",
    NAGConfig,
    "Nesterov's accelerated gradient; the published recipes use it",
)
OPTIMIZERS.add(
    "adam", "fairseq.optim.optimizers:build_adam", AdamConfig, "Adam, with decoupled weight decay; a good first choice"
)
OPTIMIZERS.add(
    "sgd", "fairseq.optim.optimizers:build_sgd", SGDConfig, "stochastic gradient descent, with momentum if given"
)
OPTIMIZERS.add("adagrad", "fairseq.optim.optimizers:build_adagrad", AdagradConfig, "Adagrad")
OPTIMIZERS.add("adamw", "fairseq.optim.optimizers:build_adam", AdamConfig, "another name of adam")
OPTIMIZERS.add("adadelta", "fairseq.optim.optimizers:build_adadelta", AdadeltaConfig, "Adadelta")
OPTIMIZERS.add("adamax", "fairseq.optim.optimizers:build_adamax", AdamaxConfig, "Adam with the largest gradient")
OPTIMIZERS.add(
    "adafactor",
    "fairseq.optim.optimizers:build_adafactor",
    AdafactorConfig,
    "torch's Adafactor, of little memory; with --scale-parameter, without momentum",
)

LR_SCHEDULERS = Registry("schedule", "--lr-scheduler")
register_lr_scheduler = LR_SCHEDULERS.register
LR_SCHEDULERS.add("fixed", "fairseq.optim.lr_schedules:fixed", FixedConfig, "the rates of --lr, epoch by epoch")
LR_SCHEDULERS.add(
    "cosine", "fairseq.optim.lr_schedules:cosine", CosineConfig, "falls along a cosine, once or in periods"
)
LR_SCHEDULERS.add(
    "inverse_sqrt",
    "fairseq.optim.lr_schedules:inverse_sqrt",
    InverseSqrtConfig,
    "falls with the root of the number of updates",
)
LR_SCHEDULERS.add(
    "polynomial_decay",
    "fairseq.optim.lr_schedules:polynomial_decay",
    PolynomialDecayConfig,
    "falls to its end in a line, or by a power",
)
LR_SCHEDULERS.add(
    "triangular", "fairseq.optim.lr_schedules:triangular", TriangularConfig, "rises and falls in a line, in periods"
)
LR_SCHEDULERS.add(
    "reduce_lr_on_plateau",
    "fairseq.optim.plateau:reduce_lr_on_plateau",
    PlateauConfig,
    "falls after epochs whose validation finds nothing better",
)
LR_SCHEDULERS.add("step", "fairseq.optim.lr_schedules:step", StepConfig, "falls by a factor, in steps")
LR_SCHEDULERS.add(
    "tri_stage", "fairseq.optim.lr_schedules:tri_stage", TriStageConfig, "rises, stays, and falls exponentially"
)


def __getattr__(name: str) -> Any:
    """Says what to use instead of a name of fairseq's."""
    return not_here(__name__, name)
