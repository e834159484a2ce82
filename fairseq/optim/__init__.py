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
OPTIMIZERS.add("nag", "fairseq.optim.optimizers:build_nag", NAGConfig)
OPTIMIZERS.add("adam", "fairseq.optim.optimizers:build_adam", AdamConfig)
OPTIMIZERS.add("sgd", "fairseq.optim.optimizers:build_sgd", SGDConfig)
OPTIMIZERS.add("adagrad", "fairseq.optim.optimizers:build_adagrad", AdagradConfig)
OPTIMIZERS.add("adamw", "fairseq.optim.optimizers:build_adam", AdamConfig)

LR_SCHEDULERS = Registry("schedule", "--lr-scheduler")
register_lr_scheduler = LR_SCHEDULERS.register
LR_SCHEDULERS.add("fixed", "fairseq.optim.lr_schedules:fixed", FixedConfig)
LR_SCHEDULERS.add("cosine", "fairseq.optim.lr_schedules:cosine", CosineConfig)
LR_SCHEDULERS.add("inverse_sqrt", "fairseq.optim.lr_schedules:inverse_sqrt", InverseSqrtConfig)
LR_SCHEDULERS.add("polynomial_decay", "fairseq.optim.lr_schedules:polynomial_decay", PolynomialDecayConfig)
