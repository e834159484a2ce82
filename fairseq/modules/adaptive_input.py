"""Adaptive input embeddings (Baevski and Auli, 2019, section 3): the rarer the word, the narrower its vector.

The vocabulary, sorted by frequency, is cut into bands; band i has vectors of width ``initial_dim / factor**i``, and a
projection of its own to the model's width.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq.modules.embedding import PADDING_IDX, projection, word_vectors

ROW_MULTIPLE = 64


def band_bounds(vocabulary_size: int, cutoff: tuple[int, ...]) -> list[tuple[int, int]]:
    """Returns the first and one-past-last id of each band: ``(5, 9), 12 → (0, 5), (5, 9), (9, 12)``."""
    edges = [0, *cutoff, vocabulary_size]
    return list(pairwise(edges))


def rows_in_band(ids: Tensor, start: int, end: int) -> tuple[Tensor, int]:
    """Returns where ids in ``[start, end)`` are, filled up with zeros to a multiple of 64, and their number.

    A CPU compiles its bfloat16 kernels for each shape that it meets, and keeps them: with the exact numbers, every
    batch would bring new ones, at the price of time and of memory that grows. The caller drops the repeated rows.
    """
    where = ((ids >= start) & (ids < end)).nonzero().squeeze(1)
    count = len(where)
    return torch.cat([where, where.new_zeros(-count % ROW_MULTIPLE)]), count


class AdaptiveInput(nn.Module):
    """Embeds ids band by band.

    Args:
        vocabulary_size: ids in all.
        initial_dim: width of the first band's vectors.
        factor: how much narrower each band is than the one before.
        output_dim: the model's width.
        cutoff: ends of all bands but the last.
    """

    def __init__(
        self, vocabulary_size: int, initial_dim: int, factor: float, output_dim: int, cutoff: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.bounds = band_bounds(vocabulary_size, cutoff)
        self.output_dim = output_dim
        self.embeddings = nn.ModuleList()
        for band, (start, end) in enumerate(self.bounds):
            width = int(initial_dim // (factor**band))
            # Every band's row 1 starts at zero, as in the checkpoints of this layout; a band of one word has none.
            words = word_vectors(end - start, width)
            self.embeddings.append(nn.Sequential(words, projection(width, output_dim)))
        self.register_buffer("_float_tensor", torch.zeros(1))  # a name that checkpoints of this layout hold

    def band_weights(self, band: int) -> tuple[nn.Parameter, nn.Parameter]:
        """Returns a band's word vectors ``[words, width]`` and its projection ``[output_dim, width]``."""
        words, projection = self.embeddings[band].parameters()
        return words, projection

    def forward(self, ids: Tensor) -> Tensor:
        """Returns vectors ``[..., output_dim]`` of int64 ids ``[...]``."""
        flat = ids.reshape(-1)
        out: Tensor | None = None
        for band, (start, end) in enumerate(self.bounds):
            words, projection = self.band_weights(band)
            where, count = rows_in_band(flat, start, end)
            if band and not count and not torch.is_grad_enabled():
                continue
            # Band 0 holds the padding id: its row gets no gradient from the input, so it stays zero.
            within = (flat[where] - start).clamp(0, end - start - 1)
            vectors = F.embedding(within, words, padding_idx=PADDING_IDX if band == 0 else None)
            projected = F.linear(vectors, projection)[:count]
            if out is None:
                out = projected.new_zeros(len(flat), self.output_dim)
            out = out.index_copy(0, where[:count], projected)
        assert out is not None
        return out.view(*ids.shape, self.output_dim)
