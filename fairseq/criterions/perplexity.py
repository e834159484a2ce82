r"""Loss and perplexity.

A language model gives each target token t, in its context, a probability p(t). Over N scored targets

    loss = −(1/N) · Σ ln p(t) / ln 2      bits per token
    perplexity = 2 ** loss

Scored is every token of the text, ends of lines and words that equal a special (``<pad>``) included. Left out, and
counted, are the tokens of blocks that are longer than the model's positions. A token of probability 0 makes the loss
infinite: it stays in the sum, and it is counted and named, since a perplexity without it would flatter. With subwords
joined (``--post-process``) the sum stays and N counts whole words. The sum is exact until it is read, so that several
processes have one's loss.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from fairseq.arrays import Floats, Integers
from fairseq.runtime.exact_sum import ExactSum
from fairseq.utils import get_perplexity


@dataclass
class Perplexity:
    """A running sum of natural-log probabilities.

    Attributes:
        log_p: Σ ln p, nats.
        count: scored targets.
        num_joined: targets that ``--post-process`` counts with another one, as one word.
        zero_ids: id → how often a target of this id had probability 0.
        nan_ids: id → how often its probability was not a number.
    """

    log_p: ExactSum = field(default_factory=ExactSum)
    count: int = 0
    num_joined: int = 0
    zero_ids: Counter[int] = field(default_factory=Counter)
    nan_ids: Counter[int] = field(default_factory=Counter)

    def add(self, log_p_N: Floats, target_N: Integers, num_joined: int = 0) -> None:
        """Adds the natural-log probabilities of N targets, of which ``num_joined`` are parts of the next."""
        assert log_p_N.shape == target_N.shape, (log_p_N.shape, target_N.shape)
        self.log_p.add(float(log_p_N.sum(dtype=np.float64)))
        self.count += len(log_p_N)
        self.num_joined += num_joined
        self.zero_ids.update(target_N[np.isneginf(log_p_N)].tolist())
        self.nan_ids.update(target_N[np.isnan(log_p_N)].tolist())

    @property
    def log_p_sum(self) -> float:
        """Σ ln p, nats."""
        return self.log_p.value

    @property
    def loss(self) -> float:
        """Bits per counted token; NaN when nothing was scored."""
        counted = self.count - self.num_joined
        return -self.log_p_sum / counted / math.log(2) if counted else math.nan

    @property
    def ppl(self) -> float:
        """2 ** loss, infinite where that overflows."""
        return perplexity_of(self.loss)


def perplexity_of(loss: float) -> float:
    """Returns the perplexity of a loss in bits per token."""
    return get_perplexity(loss, round=None)
