"""Losses.

A plugin adds one with ``@register_criterion("name")`` over ``(model, source_BT, target_BT) → Loss``, or over a class
derived from ``FairseqCriterion``.
"""

from typing import TYPE_CHECKING, Any

from fairseq.config.registry import Registry, load
from fairseq.criterions.config import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.plugins.foreign_names import not_here

if TYPE_CHECKING:
    from fairseq.criterions.fairseq_criterion import FairseqCriterion as FairseqCriterion
    from fairseq.criterions.fairseq_criterion import LegacyFairseqCriterion as LegacyFairseqCriterion

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
CRITERIONS.add(
    "label_smoothed_cross_entropy",
    "fairseq.criterions.label_smoothed_cross_entropy:LabelSmoothedCrossEntropyCriterion",
    LabelSmoothedCrossEntropyCriterionConfig,
    "the same, with a share of the probability spread over all words",
)


def __getattr__(name: str) -> Any:
    """Returns the classes that plugins derive from, which need torch, when they are asked for."""
    if name in ("FairseqCriterion", "LegacyFairseqCriterion"):
        return load(f"fairseq.criterions.fairseq_criterion:{name}")
    return not_here(__name__, name)
