"""Losses. A plugin adds one with ``@register_criterion("name")`` over ``(model, source_BT, target_BT) → Loss``."""

from fairseq.config.registry import Registry

CRITERIONS = Registry("criterion", "--criterion")
register_criterion = CRITERIONS.register

CRITERIONS.add(
    "cross_entropy",
    "fairseq.criterions.cross_entropy:cross_entropy",
    summary="negative log-likelihood of the next word",
)
CRITERIONS.add(
    "adaptive_loss",
    "fairseq.criterions.cross_entropy:adaptive_loss",
    summary="the same, of a model with an adaptive softmax",
)
