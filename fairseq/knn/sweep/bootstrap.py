"""How sure a gain is: a paired bootstrap over blocks.

Neighbouring tokens are not independent, so whole blocks are drawn, with replacement, as many as there are; each time
both models are scored on the same draw. Of R draws, the middle 95 % give the interval (percentiles 2.5 and 97.5).
It speaks of texts like this one, not of other datastores or training runs; and a setting that was chosen on the same
text has been lucky there, which no interval on that text shows.

Legend: B blocks · R resamples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Float64s, Integers
from fairseq.criterions.perplexity import perplexity_of

LEVEL = 0.95
_DRAWN_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Gain:
    """What a mixture gains over the language model or another mixture, in bits and perplexity, with intervals.

    Attributes:
        lm_loss, loss: bits per token; the first of what it is compared with.
        bits_interval: of ``lm_loss − loss``; None where there are fewer than two blocks, or a loss is not finite.
        ppl_interval: of the difference of perplexities, likewise.
        num_blocks: that were drawn from.
        num_resamples: draws.
    """

    lm_loss: float
    loss: float
    bits_interval: tuple[float, float] | None
    ppl_interval: tuple[float, float] | None
    num_blocks: int
    num_resamples: int

    @property
    def bits(self) -> float:
        """Bits per token gained."""
        return self.lm_loss - self.loss

    @property
    def ppl(self) -> float:
        """Perplexity gained."""
        return perplexity_of(self.lm_loss) - perplexity_of(self.loss)

    def record(self, over: str = "lm") -> dict[str, Any]:
        """Returns plain values for JSON; ``over`` names what the mixture is compared with."""
        return {
            f"{over}_loss_base2": self.lm_loss,
            f"{over}_ppl": perplexity_of(self.lm_loss),
            "loss_base2": self.loss,
            "ppl": perplexity_of(self.loss),
            "gain_bits": self.bits,
            "gain_ppl": self.ppl,
            "gain_bits_interval": self.bits_interval,
            "gain_ppl_interval": self.ppl_interval,
            "interval": f"{LEVEL:.0%}, percentiles of a paired bootstrap over blocks",
            "blocks": self.num_blocks,
            "resamples": self.num_resamples,
        }


def gain_of(lm_N: Float64s, mixed_N: Float64s, block_N: Integers, resamples: int, seed: int) -> Gain:
    """Returns the gain of a mixture.

    Args:
        lm_N: ln p_LM of each token, or of another mixture.
        mixed_N: ln p of its mixture.
        block_N: its block, ascending.
        resamples: R.
        seed: of the draws.
    """
    firsts = np.flatnonzero(np.diff(block_N, prepend=-1))
    count_B = np.diff(firsts, append=len(block_N)).astype(np.float64)
    lm_B, mixed_B = (np.add.reduceat(log_p_N, firsts) / -np.log(2) for log_p_N in (lm_N, mixed_N))
    lm_loss, loss = float(lm_B.sum() / count_B.sum()), float(mixed_B.sum() / count_B.sum())
    if len(firsts) < 2 or not np.isfinite([lm_loss, loss]).all():
        return Gain(lm_loss, loss, None, None, len(firsts), resamples)
    rng = np.random.default_rng(seed)
    lm_R, loss_R = np.empty(resamples), np.empty(resamples)
    step = max(_DRAWN_AT_ONCE // len(firsts), 1)
    for start in range(0, resamples, step):
        part = slice(start, min(start + step, resamples))
        drawn_RB = rng.integers(len(firsts), size=(part.stop - part.start, len(firsts)))
        tokens_R = count_B[drawn_RB].sum(1)
        lm_R[part], loss_R[part] = lm_B[drawn_RB].sum(1) / tokens_R, mixed_B[drawn_RB].sum(1) / tokens_R
    return Gain(lm_loss, loss, _middle(lm_R - loss_R), _middle(2.0**lm_R - 2.0**loss_R), len(firsts), resamples)


def _middle(values_R: Float64s) -> tuple[float, float]:
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
