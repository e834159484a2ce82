"""Optimizers and learning rate schedules.

A plugin adds an optimizer with ``@register_optimizer("name", config=…)`` over ``(parameters, lr, config) → Optimizer``,
and a schedule with ``@register_lr_scheduler("name", config=…)`` over ``(config, optimization) → Schedule``, where a
schedule is a pure function ``(num_updates, epoch) → learning rate``.
"""

from fairseq.config.registry import Registry
from fairseq.optim.config import (
    AdagradConfig,
    AdamConfig,
    CosineConfig,
    FixedConfig,
    InverseSqrtConfig,
    NAGConfig,
    PolynomialDecayConfig,
    SGDConfig,
)

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
