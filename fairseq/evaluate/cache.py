"""The continuous cache: what the text itself has said lately, as a source of next-token probabilities.

While a stream is read, the context vector h_i before each target x_i is kept with it. At position t the last N of these
pairs vote for their own targets, with the weight of a softmax over inner products at flatness θ:

    p_cache(w) ∝ Σ_{i = t−N}^{t−1} [x_i = w] exp(θ h_t · h_i)

    stream   … x_{t−N−1} │ x_{t−N}  …  x_{t−1} │ x_t …         the N targets before t: never x_t, never what follows
                          └── the cache at t ──┘

The stream is all scored targets, block after block; a document's end does not empty the cache. Before the first target
there is nothing in it: its probability there is the language model's, so that probabilities sum to 1 there as well.

Memory is that of the last N vectors. Scores are float32 products of blocks of queries with the band of vectors before
them, sums float64; a target that is not among the N has probability 0 (−inf).

Source: Grave, Joulin, Usunier, *Improving neural language models with a continuous cache*, 2017, equation 3.
Legend: N targets · C width · Q queries of a block · M what they see, themselves at the end · S settings.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fairseq.evaluate.config import CacheConfig
from fairseq.evaluate.mixture import Memory, MemoryScores, ScoredTokens
from fairseq.runtime.resources import require_memory
from fairseq.storage.records import Positive, Record

# The column of ``ScoredBatch`` that holds ln p_cache(target) under each setting, ``[N, S]``.
CACHE_COLUMN = "cache_log_prob"
# Scores that are held at once: most queries of a block, and most entries of its band.
_QUERIES = 256
_ENTRIES = 1 << 22
# The window of the batch before, that with the new batch behind it, and the next window.
_COPIES = 3


class CacheSetting(Record, frozen=True, rename={"size": "cache_size", "theta": "cache_theta"}):
    """How many targets a cache holds, and its flatness θ: 0 counts them, more trusts the likest contexts."""

    size: Positive
    theta: float


class ContinuousCache(Memory):
    """The caches of a stream under one or more settings; the first one is that of the mixture.

    Args:
        settings: at least one; they share the vectors and the products.
    """

    in_order = True

    def __init__(self, settings: Sequence[CacheSetting]) -> None:
        assert settings and all(s.size > 0 and s.theta >= 0 for s in settings), settings
        self.settings = tuple(settings)
        self.begin()

    def begin(self) -> None:
        """Forgets the stream."""
        self._past: tuple[Tensor, Tensor] | None = None

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        """Returns ln p_cache of the stream's next tokens, with a column of all settings, and remembers them."""
        log_p_NS = self.log_prob(tokens.query_ND, tokens.target_N, tokens.log_p_N)
        return MemoryScores(log_p_NS[:, 0], columns={CACHE_COLUMN: log_p_NS.cpu().numpy()})

    def log_prob(self, vectors_NC: Tensor, target_N: Tensor, log_p_lm_N: Tensor) -> Tensor:
        """Returns ln p_cache(target), float64 ``[N, S]``, of the stream's next N targets, and remembers them.

        Args:
            vectors_NC: the context vector before each target.
            target_N: token ids.
            log_p_lm_N: ln p_LM(target), which stands for an empty cache.
        """
        vectors_MC, target_M = vectors_NC.float(), target_N
        if self._past is not None:
            vectors_MC, target_M = torch.cat([self._past[0], vectors_MC]), torch.cat([self._past[1], target_M])
        size = max(setting.size for setting in self.settings)
        num_past, total = len(target_M) - len(target_N), len(target_M)
        step = max(min(_QUERIES, _ENTRIES // max(min(size, total), 1)), 1)
        log_p_NS = torch.empty(len(target_N), len(self.settings), dtype=torch.float64, device=vectors_MC.device)
        for start in range(num_past, total, step):
            end = min(start + step, total)
            seen = slice(max(start - size, 0), end)
            block_QS = _block_log_prob(vectors_MC[seen], target_M[seen], end - start, self.settings)
            log_p_NS[start - num_past : end - num_past] = block_QS
        if num_past == 0 and len(target_N):
            log_p_NS[0] = log_p_lm_N[0]
        # A copy: a view would keep the whole batch alive.
        self._past = vectors_MC[-size:].clone(), target_M[-size:].clone()
        return log_p_NS


def make_cache(config: CacheConfig, num_tokens: int, width: int) -> ContinuousCache:
    """Returns the cache of every size with every θ, which gives a column for each.

    Raises:
        ConfigError: the vectors of so many tokens of so many floats do not fit into memory.
    """
    size = min(max(config.cache_size), num_tokens)
    require_memory(f"a cache of {size} vectors", _COPIES * size * width * 4, "lower --cache-size")
    return ContinuousCache([CacheSetting(size, theta) for size, theta in config.pairs])


def _block_log_prob(vectors_MC: Tensor, target_M: Tensor, num_queries: int, settings: Sequence[CacheSetting]) -> Tensor:
    """Returns ln p_cache, float64 ``[Q, S]``, of the last Q of M targets; NaN for an empty cache."""
    first, rows = len(target_M) - num_queries, torch.arange(num_queries, device=target_M.device)
    own_Q1, column_M = (first + rows)[:, None], torch.arange(len(target_M), device=target_M.device)
    scores_QM = vectors_MC[first:] @ vectors_MC.T
    same_QM = target_M[first:, None] == target_M
    log_p_QS = [
        _log_share(scores_QM, (column_M < own_Q1) & (column_M >= own_Q1 - setting.size), same_QM, setting.theta)
        for setting in settings
    ]
    return torch.stack(log_p_QS, 1)


def _log_share(scores_QM: Tensor, inside_QM: Tensor, same_QM: Tensor, theta: float) -> Tensor:
    """Returns the log of the share of exp(θ score) inside that lies where the target is the same, float64 ``[Q]``.

    The hits are summed relative to the highest among them: a few with low scores have a small share, not none.
    """
    best_Q = scores_QM.masked_fill(~inside_QM, -math.inf).amax(1)
    weight_QM = (scores_QM - best_Q[:, None]).mul_(theta).exp_().masked_fill_(~inside_QM, 0)
    total_Q = weight_QM.sum(1, dtype=torch.float64)
    row, column = torch.nonzero(same_QM & inside_QM, as_tuple=True)
    hit = scores_QM[row, column].double()
    best_hit_Q = torch.full_like(total_Q, -math.inf).scatter_reduce(0, row, hit, "amax")
    hits_Q = torch.zeros_like(total_Q).index_add(0, row, ((hit - best_hit_Q[row]) * theta).exp())
    log_hits_Q = (best_hit_Q - best_Q) * theta + hits_Q.log()
    return (torch.where(hits_Q == 0, -math.inf, log_hits_Q) - total_Q.log()).clamp_max(0)
