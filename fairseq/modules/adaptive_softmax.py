"""Adaptive softmax (Grave et al., 2017): a distribution over a large vocabulary at the price of a small one.

The head scores the first band's words and one class per tail; a tail scores its own words:

    log p(w) = log_softmax(head)[w]                                   w in band 0
    log p(w) = log_softmax(head)[class i] + log_softmax(tail i)[w]    w in band i + 1

Only the target's log-probability is ever computed here: the head over every row, each tail over the rows whose target
lies in it. N rows, C width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq.modules.adaptive_input import AdaptiveInput, band_bounds, rows_in_band
from fairseq.modules.dropout import Dropout, dropout


class SharedLinear(nn.Module):
    """A linear map whose weight belongs to another module, used as it is or transposed."""

    def __init__(self, weight: nn.Parameter, transpose: bool) -> None:
        super().__init__()
        self.weight = weight
        self.transpose = transpose

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` mapped by the shared weight."""
        return F.linear(x, self.weight.t() if self.transpose else self.weight)


class SharedHead(nn.Module):
    """The head when words are shared with the input: ``word_proj`` for words, ``class_proj`` for tails."""

    def __init__(self, words: nn.Parameter, input_dim: int, num_tails: int) -> None:
        super().__init__()
        shared = SharedLinear(words, transpose=False)
        width = words.shape[1]
        self.word_proj = shared if width == input_dim else nn.Sequential(_linear(input_dim, width), shared)
        self.class_proj = _linear(input_dim, num_tails)
        self.register_buffer("_float_tensor", torch.zeros(1))  # a name that checkpoints of this layout hold

    def forward(self, x: Tensor) -> Tensor:
        """Returns head logits ``[N, words + tails]``."""
        return torch.cat([self.word_proj(x), self.class_proj(x)], dim=-1)


class AdaptiveSoftmax(nn.Module):
    """The output layer over bands.

    Args:
        vocabulary_size: ids in all.
        input_dim: C.
        cutoff: ends of all bands but the last.
        dropout: on the input, and inside a tail between its projection and its words; in training only.
        factor: how much narrower each tail is than the one before.
        tied_input: the adaptive input whose words this layer shares, if any.
        tie_projections: share its projections as well.
    """

    def __init__(
        self,
        vocabulary_size: int,
        input_dim: int,
        cutoff: tuple[int, ...],
        dropout: float,
        factor: float,
        tied_input: AdaptiveInput | None = None,
        tie_projections: bool = False,
    ) -> None:
        super().__init__()
        self.bounds = band_bounds(vocabulary_size, cutoff)
        self.dropout = dropout
        num_tails = len(self.bounds) - 1
        self.register_buffer("version", torch.ones(1, dtype=torch.int64))  # a name that checkpoints hold
        self.head: nn.Module
        if tied_input is None:
            self.head = _linear(input_dim, cutoff[0] + num_tails)
        else:
            self.head = SharedHead(tied_input.band_weights(0)[0], input_dim, num_tails)
        self.tail = nn.ModuleList()
        for i, (start, end) in enumerate(self.bounds[1:]):
            projection: nn.Module
            words: nn.Module
            if tied_input is None:
                width = int(input_dim // factor ** (i + 1))
                projection, words = _linear(input_dim, width), _linear(width, end - start)
            else:
                weight, shared_projection = tied_input.band_weights(i + 1)
                words = SharedLinear(weight, transpose=False)
                projection = (
                    SharedLinear(shared_projection, transpose=True)
                    if tie_projections
                    else _linear(input_dim, weight.shape[1])
                )
            self.tail.append(nn.Sequential(projection, Dropout(dropout), words))

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, ``[N]`` in float32; in training, with dropout."""
        features_NC = dropout(features_NC, self.dropout, self.training)
        head_target = target_N.clone()
        tails = []
        for i, (start, end) in enumerate(self.bounds[1:]):
            rows, count = rows_in_band(target_N, start, end)
            head_target[rows[:count]] = self.bounds[0][1] + i
            tails.append((i, start, rows, count))
        log_p_N = _log_softmax_at(self.head(features_NC), head_target)
        for i, start, rows, count in tails:
            if count:
                logits = self.tail[i](features_NC[rows])[:count]
                where = rows[:count]
                log_p_N = log_p_N.index_add(0, where, _log_softmax_at(logits, target_N[where] - start))
        return log_p_N


def _log_softmax_at(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    return -F.cross_entropy(logits_NV.float(), target_N, reduction="none")


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer
