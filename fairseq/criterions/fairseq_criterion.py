"""``FairseqCriterion``: the class that a criterion written for fairseq derives from.

    @register_criterion("focal", dataclass=FocalConfig)
    class Focal(FairseqCriterion):
        def __init__(self, task, gamma): ...                    # gamma is a field of FocalConfig
        def forward(self, model, sample, reduce=True): ...      # returns loss, sample_size, logging_output

``model`` is a ``ModelView``. Loss and ``nll_loss`` are sums in nats.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from fairseq.config.flags import Namespace, as_dict
from fairseq.criterions.config import PlainConfig
from fairseq.criterions.perplexity import perplexity_of
from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError
from fairseq.logging import metrics

Sample: TypeAlias = Mapping[str, Any]
Output: TypeAlias = tuple[Tensor, Any]

_COUNTS = ("ntokens", "nsentences", "sample_size")


class FairseqCriterion(nn.Module):
    """Base class of criterions that take a sample and tell what is to be logged.

    Attributes:
        task: the task.
        padding_idx: id of padding, at which there is no target.
        config_class: the config of a class that is registered without one.
    """

    config_class = PlainConfig

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task
        self.padding_idx = PAD

    @staticmethod
    def add_args(parser: Any) -> None:
        """Adds nothing: flags of a plugin's class stand behind those of ``config_class``."""

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any) -> "FairseqCriterion":
        """Returns the criterion; each parameter of ``__init__`` is the task, the config, or a field of it.

        Raises:
            ConfigError: a parameter that is none of them, and has no default.
        """
        given: dict[str, Any] = {}
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if name == "args":
                raise ConfigError(
                    f"{cls.__name__}.__init__ asks for 'args', the namespace of criterions of before 2020: derive it"
                    " from fairseq.criterions.LegacyFairseqCriterion, whose __init__ takes (args, task), or let it"
                    " take (task, …) with fields of its dataclass (docs/plugins.md)"
                )
            if name in ("task", "cfg", "config"):
                given[name] = task if name == "task" else cfg
            elif hasattr(cfg, name):
                given[name] = getattr(cfg, name)
            elif parameter.default is parameter.empty:
                raise ConfigError(
                    f"{cls.__name__}.__init__ asks for {name!r}, which must be a field of its dataclass; declare it"
                    " there: @register_criterion(…, dataclass=…) (docs/plugins.md)"
                )
        return cls(**given)

    def forward(self, model: Any, sample: Sample, reduce: bool = True) -> tuple[Tensor, Any, dict[str, Any]]:
        """Returns the loss of a batch, what it is divided by, and what is logged."""
        raise NotImplementedError

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Logs loss and ``nll_loss`` in bits, the perplexity of the latter, and the mean of whatever else is told."""
        sums = summed(logging_outputs)
        size = sums.get("sample_size", 0.0)
        metrics.log_scalar("loss", _per(sums.get("loss", 0.0), size), size)
        if "nll_loss" in sums:
            metrics.log_scalar("nll_loss", _per(sums["nll_loss"], sums["ntokens"]), sums["ntokens"])
            metrics.log_derived("ppl", lambda means: perplexity_of(means["nll_loss"].avg))
        for name, value in sums.items():
            if name not in (*_COUNTS, "loss", "nll_loss"):
                metrics.log_scalar(name, value)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Returns whether ``reduce_metrics`` gets one mapping of sums; else it gets one for each batch."""
        return True


def summed(outputs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the sums of what several batches told, by name."""
    sums: dict[str, float] = {}
    for output in outputs:
        for name, value in output.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _per(nats: float, count: float) -> float:
    return nats / count / math.log(2) if count else math.nan


class LegacyFairseqCriterion(FairseqCriterion):
    """Base class of fairseq's criterions of before 2020, which are given a namespace.

    Attributes:
        args: the settings of the criterion and of the task.
    """

    def __init__(self, args: Any, task: Any) -> None:
        super().__init__(task)
        self.args = args

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any) -> "FairseqCriterion":
        """Returns the criterion."""
        return cls(Namespace(**as_dict(*(part for part in (getattr(task, "config", None), cfg) if part))), task)

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[Mapping[str, Any]]) -> None:
        """Logs what ``aggregate_logging_outputs`` returns, where it is defined, and as the class above else."""
        if not hasattr(cls, "aggregate_logging_outputs"):
            return super().reduce_metrics(logging_outputs)
        means = cls.aggregate_logging_outputs(logging_outputs)
        for name, value in means.items():
            if name not in _COUNTS:
                metrics.log_scalar(name, value, means.get("sample_size", 1))
        return None

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Returns False: one mapping for each batch, as before 2020."""
        return False
