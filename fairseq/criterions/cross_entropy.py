"""The negative log-likelihood of the targets, summed in nats over the tokens that are not padding.

In training, the word ``<pad>`` of a text counts as padding, as in fairseq: it is read, and not predicted.

Under an adaptive softmax this *is* the adaptive loss: the head's cross-entropy, whose target for a tail word is the
tail's class, plus the cross-entropy within the tail (Grave et al., 2017, section 4).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class Loss:
    """Loss of a batch: the sum in nats, which has a gradient, and the number of targets."""

    nats: Tensor
    num_targets: int


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
