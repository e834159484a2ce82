"""Flags of criterions. Plugins derive from these dataclasses, as from fairseq's, and so they are not frozen."""

from dataclasses import dataclass, field

from fairseq.config.flags import flag
from fairseq.dataclass import FairseqDataclass

_SENTENCE_AVG = "${optimization.sentence_avg}"


@dataclass
class PlainConfig(FairseqDataclass):
    """Criterion of a plugin."""

    sentence_avg: bool = field(default=_SENTENCE_AVG)  # type: ignore[assignment]


@dataclass
class CrossEntropyCriterionConfig(FairseqDataclass):
    """Criterion cross_entropy."""

    sentence_avg: bool = field(default=_SENTENCE_AVG)  # type: ignore[assignment]


@dataclass
class LabelSmoothedCrossEntropyCriterionConfig(FairseqDataclass):
    """Criterion label_smoothed_cross_entropy."""

    label_smoothing: float = flag(
        0.0, "share of the probability that is spread evenly over all words but the target", minimum=0, maximum=1
    )
    report_accuracy: bool = flag(False, "log how many targets were the likeliest word, in percent")
    ignore_prefix_size: int = flag(0, "leave the first N targets of each block out of the loss", minimum=0)
    sentence_avg: bool = field(default=_SENTENCE_AVG)  # type: ignore[assignment]
