"""The negative log-likelihood of the targets, summed in nats over the tokens that are not padding.

In training, the word ``<pad>`` of a text counts as padding, as in fairseq: it is read, and not predicted.

Under an adaptive softmax this *is* the adaptive loss: the head's cross-entropy, whose target for a tail word is the
tail's class, plus the cross-entropy within the tail (Grave et al., 2017, section 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fairseq.criterions.config import CrossEntropyCriterionConfig as CrossEntropyCriterionConfig
from fairseq.criterions.fairseq_criterion import FairseqCriterion, Output, Sample
from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class Loss:
    """Loss of a batch.

    Attributes:
        nats: the sum that is made small, in nats; it has a gradient.
        num_targets: targets.
        nll: Σ −ln p(target) in nats, where ``nats`` is something else; the perplexity is of it.
        sample_size: what gradient and logged loss are divided by, where it is not the number of targets.
        logged: what a ``FairseqCriterion`` tells of the batch, for its ``reduce_metrics``.
    """

    nats: Tensor
    num_targets: int
    nll: Tensor | None = None
    sample_size: float | None = None
    logged: Mapping[str, Any] | None = None


def cross_entropy(model: Any, source_BT: Tensor, target_BT: Tensor) -> Loss:
    """Returns −Σ ln p(target) of a batch; the output layer computes only positions that have a target."""
    scored_BT = target_BT != PAD
    target_N = target_BT[scored_BT]
    features_NC = model(source_BT).features_BSC[scored_BT]
    return Loss(-model.target_log_prob(features_NC, target_N).sum(), len(target_N))


def adaptive_loss(model: Any, source_BT: Tensor, target_BT: Tensor) -> Loss:
    """Returns ``cross_entropy`` of a model that has an adaptive softmax; raises ConfigError for any other."""
    if not model.has_adaptive_softmax:
        raise ConfigError("--criterion adaptive_loss needs --adaptive-softmax-cutoff; or use --criterion cross_entropy")
    return cross_entropy(model, source_BT, target_BT)


class CrossEntropyCriterion(FairseqCriterion):
    """The same for a plugin to derive from, over every word: ``compute_loss`` is what is usually overridden.

    Args:
        task: the task.
        sentence_avg: divide by the number of blocks, not of targets.
    """

    def __init__(self, task: Any, sentence_avg: bool) -> None:
        super().__init__(task)
        self.sentence_avg = sentence_avg

    def forward(self, model: Any, sample: Sample, reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Returns loss, sample size and what is logged."""
        loss, _ = self.compute_loss(model, model(**sample["net_input"]), sample, reduce=reduce)
        counts = {name: sample[name] for name in ("ntokens", "nsentences")}
        size = counts["nsentences"] if self.sentence_avg else counts["ntokens"]
        nll = {"nll_loss": loss.detach()} if self.is_nll else {}
        return loss, size, {"loss": loss.detach(), **nll, **counts, "sample_size": size}

    @property
    def is_nll(self) -> bool:
        """Whether the loss is the negative log-likelihood, of which a perplexity can be told."""
        return type(self).compute_loss is CrossEntropyCriterion.compute_loss

    def compute_loss(
        self, model: Any, net_output: Output, sample: Sample, reduce: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Returns Σ −ln p(target) twice; without ``reduce``, a number for each position."""
        log_p_BTV = model.get_normalized_probs(net_output, log_probs=True)
        target_BT = model.get_targets(sample, net_output)
        nll_BT = nll_of(log_p_BTV, target_BT, self.padding_idx)
        loss = nll_BT.sum() if reduce else nll_BT
        return loss, loss


def nll_of(log_p: Tensor, target: Tensor, padding_idx: int) -> Tensor:
    """Returns −ln p(target) at each place, ``log_p`` having one more dimension than ``target``; 0 at padding."""
    at_target = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return -at_target.masked_fill(target == padding_idx, 0.0)
