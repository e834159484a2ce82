"""Cross-entropy with smoothed labels: a share ε of the probability is spread over all words.

With V words and ε_i = ε / (V − 1), the loss of a target is

    (1 − ε − ε_i) · (−ln p(target)) + ε_i · Σ over all words of −ln p(word)

so that the target has 1 − ε and every other word ε_i, as in fairseq. (``label_smoothing`` of torch's ``cross_entropy``
gives every word ε / V, the target's 1 − ε on top.) The perplexity is of −ln p(target) alone.
"""

from typing import Any

import torch
from torch import Tensor

from fairseq.criterions.config import (
    LabelSmoothedCrossEntropyCriterionConfig as LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.criterions.cross_entropy import nll_of
from fairseq.criterions.fairseq_criterion import FairseqCriterion, Output, Sample, summed
from fairseq.logging import metrics


def label_smoothed_nll_loss(
    lprobs: Tensor, target: Tensor, epsilon: float, ignore_index: int | None = None, reduce: bool = True
) -> tuple[Tensor, Tensor]:
    """Returns the smoothed loss and −ln p(target), summed or, without ``reduce``, of each target.

    Args:
        lprobs: ln p of every word, ``[…, V]``.
        target: int64 ``[…]``.
        epsilon: ε.
        ignore_index: id at which there is no target.
        reduce: sum.
    """
    nll = nll_of(lprobs, target, -1 if ignore_index is None else ignore_index)
    spread = -lprobs.sum(-1)
    if ignore_index is not None:
        spread = spread.masked_fill(target == ignore_index, 0.0)
    of_each = epsilon / (lprobs.shape[-1] - 1)
    loss = (1 - epsilon - of_each) * nll + of_each * spread
    return (loss.sum(), nll.sum()) if reduce else (loss, nll)


class _Once:
    """A model that computes ln p of one output once; the rest is the model's."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._last: tuple[Output, Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def get_normalized_probs(self, net_output: Output, log_probs: bool, sample: Any = None) -> Tensor:
        """Returns p or ln p of every word."""
        if not log_probs:
            return self._model.get_normalized_probs(net_output, log_probs, sample)  # type: ignore[no-any-return]
        if self._last is None or self._last[0] is not net_output:
            self._last = net_output, self._model.get_normalized_probs(net_output, log_probs, sample)
        return self._last[1]


class LabelSmoothedCrossEntropyCriterion(FairseqCriterion):
    """Cross-entropy with smoothed labels.

    Args:
        task: the task.
        sentence_avg: divide by the number of blocks, not of targets.
        label_smoothing: ε.
        ignore_prefix_size: targets at the front of each block that have no loss; they count among those that it is
            divided by, as in fairseq.
        report_accuracy: count the targets that are the likeliest word.
    """

    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
    ) -> None:
        super().__init__(task)
        self.sentence_avg = sentence_avg
        self.eps = label_smoothing
        self.ignore_prefix_size = ignore_prefix_size
        self.report_accuracy = report_accuracy

    def forward(self, model: Any, sample: Sample, reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Returns loss, sample size and what is logged."""
        net_output = model(**sample["net_input"])
        model = _Once(model) if self.report_accuracy else model
        loss, nll_loss = self.compute_loss(model, net_output, sample, reduce=reduce)
        counts = {name: sample[name] for name in ("ntokens", "nsentences")}
        size = counts["nsentences"] if self.sentence_avg else counts["ntokens"]
        logged = {"loss": loss.detach(), "nll_loss": nll_loss.detach(), **counts, "sample_size": size}
        if self.report_accuracy:
            logged["n_correct"], logged["total"] = self.compute_accuracy(model, net_output, sample)
        return loss, size, logged

    def get_lprobs_and_target(self, model: Any, net_output: Output, sample: Sample) -> tuple[Tensor, Tensor]:
        """Returns ln p of every word ``[N, V]`` and the targets ``[N]``, without those at the front of each block."""
        log_p_BTV = model.get_normalized_probs(net_output, log_probs=True)[:, self.ignore_prefix_size :]
        target_BT = model.get_targets(sample, net_output)[:, self.ignore_prefix_size :]
        return log_p_BTV.flatten(0, 1), target_BT.flatten()

    def compute_loss(
        self, model: Any, net_output: Output, sample: Sample, reduce: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Returns the smoothed loss and −ln p(target)."""
        log_p_NV, target_N = self.get_lprobs_and_target(model, net_output, sample)
        return label_smoothed_nll_loss(log_p_NV, target_N, self.eps, ignore_index=self.padding_idx, reduce=reduce)

    @torch.no_grad()
    def compute_accuracy(self, model: Any, net_output: Output, sample: Sample) -> tuple[Tensor, Tensor]:
        """Returns how many targets are the likeliest word, and how many there are."""
        log_p_NV, target_N = self.get_lprobs_and_target(model, net_output, sample)
        is_target_N = target_N != self.padding_idx
        return ((log_p_NV.argmax(1) == target_N) & is_target_N).sum(), is_target_N.sum()

    @classmethod
    def reduce_metrics(cls, logging_outputs: Any) -> None:
        """Logs loss, negative log-likelihood and perplexity, and the accuracy where it was counted."""
        sums = summed(logging_outputs)
        found = {name: sums.pop(name) for name in ("total", "n_correct") if name in sums}
        super().reduce_metrics([sums])
        if found.get("total", 0) > 0:
            for name, value in found.items():
                metrics.log_scalar(name, value)
            metrics.log_derived("accuracy", lambda means: 100 * means["n_correct"].sum / means["total"].sum)
