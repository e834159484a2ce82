"""The defaults of optimizers and schedules: the published ones, written by hand."""

import pytest

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
    OptimizationConfig,
    PlateauConfig,
    PolynomialDecayConfig,
    SGDConfig,
    TriangularConfig,
)

DEFAULTS = [
    (OptimizationConfig(), dict(max_epoch=0, max_update=0, clip_norm=25, update_freq=(1,), lr=(0.25,))),
    (NAGConfig(), dict(momentum=0.99, weight_decay=0)),
    (AdamConfig(), dict(adam_betas=(0.9, 0.999), adam_eps=1e-8, weight_decay=0)),
    (SGDConfig(), dict(momentum=0, weight_decay=0)),
    (AdagradConfig(), dict(weight_decay=0)),
    (FixedConfig(), dict(warmup_updates=0, force_anneal=None, lr_shrink=0.1)),
    (AdamaxConfig(), dict(adamax_betas=(0.9, 0.999), adamax_eps=1e-8, weight_decay=0)),
    (AdadeltaConfig(), dict(adadelta_rho=0.9, adadelta_eps=1e-6, weight_decay=0)),
    (
        AdafactorConfig(scale_parameter=True),
        dict(adafactor_eps=(1e-30, 1e-3), clip_threshold=1, decay_rate=-0.8, beta1=None, weight_decay=0),
    ),
    (TriangularConfig(), dict(lr_period_updates=5000, lr_shrink=0.1, shrink_min=False)),
    (PlateauConfig(), dict(lr_shrink=0.1, lr_threshold=1e-4, lr_patience=0, warmup_updates=0)),
    (CosineConfig(), dict(warmup_updates=0, max_lr=None, t_mult=1, lr_shrink=0.1)),
    (InverseSqrtConfig(), dict(warmup_updates=4000)),
    (PolynomialDecayConfig(), dict(warmup_updates=0, end_learning_rate=0, power=1, total_num_update=None)),
]


@pytest.mark.parametrize(("config", "defaults"), DEFAULTS, ids=lambda value: type(value).__name__)
def test_defaults_are_the_published_ones(config: object, defaults: dict[str, object]) -> None:
    assert {name: getattr(config, name) for name in defaults} == defaults


@pytest.mark.parametrize("config", [CosineConfig(), InverseSqrtConfig()])
def test_what_is_not_given_is_less_than_any_rate(config: CosineConfig | InverseSqrtConfig) -> None:
    assert config.warmup_init_lr < 0
    assert CosineConfig().lr_period_updates < 0
    assert max(OptimizationConfig().min_lr, OptimizationConfig().stop_min_lr) < 0
