"""Adaptive softmax (Grave et al., 2017): a distribution over a large vocabulary at the price of a small one.

The head scores the first band's words and one class per tail; a tail scores its own words:

    log p(w) = log_softmax(head)[w]                                   w in band 0
    log p(w) = log_softmax(head)[class i] + log_softmax(tail i)[w]    w in band i + 1

Of a target only its own log-probability is computed: the head over every row, each tail over the rows whose target
lies in it. What the whole distribution looks like (``certainty``) takes every tail over every row, few rows at a time.
The distribution itself (``log_prob``) is for generating, which has few rows, and for losses that ask for every word.
N rows, C width, W width of a band's words, V words of a band.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq.modules.adaptive_input import AdaptiveInput, band_bounds, rows_in_band
from fairseq.modules.dropout import dropout
from fairseq.modules.embedding import projection

# Products whose rows do not begin at multiples of a few words run at two thirds of the speed (measured on a CPU).
ALIGNED = 16
# Most logits of one band that ``certainty`` holds at once (float32: 2 MiB): they stay in the cache.
CERTAINTY_LOGITS = 1 << 19


class TiedHead(nn.Module):
    """Weights of a head that shares its words with the input: ``word_proj`` for words, ``class_proj`` for tails.

    If the input's words have another width than the features, these are first mapped to it.
    """

    def __init__(self, words: nn.Parameter, input_dim: int, num_tails: int) -> None:
        super().__init__()
        width, tied = words.shape[1], _tied(words)
        self.word_proj = tied if width == input_dim else nn.ModuleList([projection(input_dim, width), tied])
        self.class_proj = projection(input_dim, num_tails)
        self.register_buffer("_float_tensor", torch.zeros(1))  # a name that checkpoints of this layout hold


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
        self.projections_are_tied = tied_input is not None and tie_projections
        num_tails = len(self.bounds) - 1
        self.register_buffer("version", torch.ones(1, dtype=torch.int64))  # a name that checkpoints hold
        self.head: nn.Linear | TiedHead
        if tied_input is None:
            self.head = projection(input_dim, cutoff[0] + num_tails)
        else:
            self.head = TiedHead(tied_input.band_weights(0)[0], input_dim, num_tails)
        self.tail = nn.ModuleList()
        for band, (start, end) in enumerate(self.bounds[1:], 1):
            if tied_input is None:
                width = int(input_dim // factor**band)
                parts: list[nn.Module] = [projection(input_dim, width), projection(width, end - start)]
            else:
                words, tied = tied_input.band_weights(band)
                parts = [_tied(tied) if tie_projections else projection(input_dim, words.shape[1]), _tied(words)]
            self.tail.append(nn.ModuleDict(dict(zip("02", parts, strict=True))))  # numbers that checkpoints hold

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, ``[N]`` in float32; in training, with dropout."""
        features_NC = dropout(features_NC, self.dropout, self.training)
        head_target = target_N.clone()
        tails = []
        for i, (start, end) in enumerate(self.bounds[1:]):
            rows, count = rows_in_band(target_N, start, end)
            head_target[rows[:count]] = self.bounds[0][1] + i
            tails.append((i, start, rows, count))
        log_p_N = _log_softmax_at(self._aligned_head_logits(features_NC), head_target)
        for i, start, rows, count in tails:
            if count:
                logits = self._tail_logits(i, features_NC[rows])[:count]
                where = rows[:count]
                log_p_N = log_p_N.index_add(0, where, _log_softmax_at(logits, target_N[where] - start))
        return log_p_N

    def _head_logits(self, x_NC: Tensor) -> Tensor:
        """Returns the scores of the head's words and of the tails, ``[N, words + tails]``."""
        if isinstance(self.head, nn.Linear):
            return F.linear(x_NC, self.head.weight)
        *mapping, words = self.head.word_proj.parameters()
        mapped_NW = F.linear(x_NC, mapping[0]) if mapping else x_NC
        return torch.cat([F.linear(mapped_NW, words), self.head.class_proj(x_NC)], dim=-1)

    def _aligned_head_logits(self, x_NC: Tensor) -> Tensor:
        """Returns ``_head_logits``; for many rows, with columns of −∞ that make their number a multiple of 16.

        To join weights is to write them once more, V · C numbers; to join logits, N · V.
        """
        weights = list(self.head.parameters())
        if len(weights) > 2 or len(x_NC) < x_NC.shape[1]:  # words behind a map of their own, or few rows
            return self._head_logits(x_NC)
        num_logits = self.bounds[0][1] + len(self.tail)
        weight_VC = torch.cat([*weights, weights[0].new_zeros(-num_logits % ALIGNED, x_NC.shape[1])])
        bias_V = weight_VC.new_zeros(len(weight_VC))
        bias_V[num_logits:] = -torch.inf
        return F.linear(x_NC, weight_VC, bias_V)

    def _tail_logits(self, tail: int, x_NC: Tensor) -> Tensor:
        """Returns the scores of a tail's words, ``[N, V]``."""
        mapping, words = self.tail[tail].parameters()
        # A tied projection is the input's, which maps the other way. A view of it has a gradient of its own, so that in
        # bfloat16 those of both uses are summed in float32.
        mapped_NW = F.linear(x_NC, mapping.T if self.projections_are_tied else mapping)
        return F.linear(dropout(mapped_NW, self.dropout, self.training), words)

    def log_prob(self, features_NC: Tensor) -> Tensor:
        """Returns log p of every word, natural, ``[N, V]`` in float32, V all words; in training, with dropout.

        Without a gradient, each band is written where it belongs; with one, all are kept for it, and joined.
        """
        features_NC, words = dropout(features_NC, self.dropout, self.training), self.bounds[0][1]
        head_NV = _log_softmax(self._head_logits(features_NC))
        if torch.is_grad_enabled():
            tails = [_log_softmax(self._tail_logits(i, features_NC)) for i in range(len(self.tail))]
            classes = torch.split(head_NV[:, words:], 1, dim=1)
            return torch.cat([head_NV[:, :words], *map(torch.add, tails, classes)], dim=1)
        out_NV: Tensor = head_NV.new_empty(len(features_NC), self.bounds[-1][1])
        out_NV[:, :words] = head_NV[:, :words]
        for i, (start, end) in enumerate(self.bounds[1:]):
            tail_NV = _log_softmax(self._tail_logits(i, features_NC))
            torch.add(tail_NV, head_NV[:, words + i, None], out=out_NV[:, start:end])
        return out_NV

    @torch.no_grad()
    def certainty(self, features_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest log-probability and the entropy over the vocabulary, nats, float32 ``[N]`` each.

        With p_i the probability of the class of tail i:  H = H(head) + Σ_i p_i H(tail_i).
        """
        largest_N, entropy_N = features_NC.new_empty((2, len(features_NC)), dtype=torch.float32)
        widest, words = max(end - start for start, end in self.bounds) + len(self.tail), self.bounds[0][1]
        for rows in row_slices(len(features_NC), widest):
            head_NV = self._head_logits(features_NC[rows]).float()
            log_sum_N, entropy_N[rows] = log_sum_and_entropy(head_NV)
            largest_N[rows] = head_NV[:, :words].amax(1) - log_sum_N
            for i in range(len(self.tail)):
                tail_NV = self._tail_logits(i, features_NC[rows]).float()
                log_p_class_N = head_NV[:, words + i] - log_sum_N
                log_sum_tail_N, tail_entropy_N = log_sum_and_entropy(tail_NV)
                torch.maximum(largest_N[rows], log_p_class_N + tail_NV.amax(1) - log_sum_tail_N, out=largest_N[rows])
                entropy_N[rows] += log_p_class_N.exp() * tail_entropy_N
        return largest_N, entropy_N


def row_slices(num_rows: int, width: int) -> list[slice]:
    """Returns slices of so many rows that their logits, ``width`` each, can be held at once."""
    step = max(CERTAINTY_LOGITS // width, 1)
    return [slice(start, start + step) for start in range(0, num_rows, step)]


def log_sum_and_entropy(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ln Σ e^x and the entropy of softmax(x), nats, ``[N]`` each.

    With z = x − max:  H = ln Σ e^z − Σ z e^z / Σ e^z.
    """
    largest_N1 = logits_NV.amax(1, keepdim=True)
    below_NV = logits_NV - largest_N1
    weight_NV = below_NV.exp()
    total_N = weight_NV.sum(1)
    mean_below_N: Tensor = torch.linalg.vecdot(weight_NV, below_NV) / total_N
    return total_N.log() + largest_N1[:, 0], total_N.log() - mean_below_N


def _log_softmax(logits_NV: Tensor) -> Tensor:
    """Returns ln softmax in float32, or in float64 of such logits."""
    return logits_NV.log_softmax(1, dtype=torch.promote_types(logits_NV.dtype, torch.float32))


def _log_softmax_at(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    return -F.cross_entropy(logits_NV.float(), target_N, reduction="none")


def _tied(weight: nn.Parameter) -> nn.Module:
    """Returns a module with another module's weight, under the name that a linear layer gives its own."""
    return nn.ParameterDict({"weight": weight})
