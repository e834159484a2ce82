"""Dropout that costs little on a CPU.

torch draws one Bernoulli number per element there, on one thread, and a small model spends a third of its training on
it. Here each 64-bit random integer serves four elements of 16 bits: p is rounded to a multiple of 2⁻¹⁶, and the kept
elements are scaled by exactly what that keeps, so that the expectation is the input, up to the rounding of its type
(bfloat16: 0.2 %). Elsewhere it is torch's own.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

LEVELS = 1 << 16


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Returns ``x`` with each element zero with probability ``p``, else scaled by 1 / (1 − p); in training only."""
    if not training or p == 0:
        return x
    dropped = round(p * LEVELS)
    if x.device.type != "cpu" or not 0 < dropped < LEVELS:
        return F.dropout(x, p, training)
    kept = torch.empty(x.shape, dtype=x.dtype)  # 1 or 0; bools that become numbers take three times as long
    torch.ge(_draws(x.numel()).view(x.shape), dropped - LEVELS // 2, out=kept)
    return x * kept.mul_(LEVELS / (LEVELS - dropped))


def _draws(count: int) -> Tensor:
    """Returns random int16 numbers; NumPy's fastest generator draws them, seeded by torch's."""
    seed = int(torch.empty((), dtype=torch.int64).random_())
    generator = np.random.Generator(np.random.SFC64(seed))
    numbers = generator.integers(-(1 << 63), (1 << 63) - 1, max((count + 3) // 4, 1), dtype=np.int64, endpoint=True)
    return torch.from_numpy(numbers).view(torch.int16)[:count]
