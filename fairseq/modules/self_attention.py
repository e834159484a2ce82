"""Causal self-attention through torch's ``scaled_dot_product_attention``.

B batch, T time, S scored time (the last S of T columns), C width, H heads, D width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fairseq.modules.dropout import dropout
from fairseq.modules.kv_cache import KeyValueCache

QUERIES_AT_ONCE = 64


class SelfAttention(nn.Module):
    """Multi-head attention in which a column sees itself and the columns before it.

    Rows are filled on the right, after everything that is scored, so that the causal mask is the only mask needed, but
    for a text that has the word ``<pad>``, which no column sees.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        for layer in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(layer.weight, gain=2**-0.5)
            nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BTC: Tensor, first: int = 0, seen_BTT: Tensor | None = None) -> Tensor:
        """Returns ``[B, T − first, C]``: the attention outputs of the columns from ``first`` on.

        ``seen_BTT`` says which columns (the last axis) each one sees, where it is not itself and all before it.
        """
        q_BHSD = self._heads(self.q_proj(x_BTC[:, first:]))
        k_BHTD = self._heads(self.k_proj(x_BTC))
        v_BHTD = self._heads(self.v_proj(x_BTC))
        if seen_BTT is None and self.training and self.dropout > 0 and x_BTC.device.type == "cpu":
            out_BHSD = _attention_with_dropout(q_BHSD, k_BHTD, v_BHTD, self.dropout)
        else:
            mask = None if seen_BTT is None else seen_BTT[:, None, first:]
            out_BHSD = _attention(q_BHSD, k_BHTD, v_BHTD, self.dropout if self.training else 0.0, mask)
        out_BSC: Tensor = self.out_proj(out_BHSD.transpose(1, 2).flatten(2))
        return out_BSC

    def extend(self, x_BSC: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """Returns ``[B, S, C]``: the attention outputs of S new columns, which see the cached ones as well."""
        keys_BHTD, values_BHTD = cache.append(layer, self._heads(self.k_proj(x_BSC)), self._heads(self.v_proj(x_BSC)))
        q_BHSD = self._heads(self.q_proj(x_BSC)).to(keys_BHTD.dtype)
        causal = cache.is_causal
        mask = None if causal else cache.mask(x_BSC.shape[1])
        out_BHSD = F.scaled_dot_product_attention(q_BHSD, keys_BHTD, values_BHTD, attn_mask=mask, is_causal=causal)
        out_BSC: Tensor = self.out_proj(out_BHSD.transpose(1, 2).flatten(2))
        return out_BSC

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)


def columns_seen(pad_BT: Tensor) -> Tensor:
    """Returns bool ``[B, T, T]``, true where a column (the second axis) sees one (the last): no ``<pad>``.

    Where nothing else is to be seen, a ``<pad>`` sees itself.
    """
    length = pad_BT.shape[1]
    seen_BTT = _lower_right_mask(length, length, pad_BT.device) & ~pad_BT[:, None]
    return seen_BTT | (~seen_BTT.any(2, keepdim=True) & torch.eye(length, dtype=torch.bool, device=pad_BT.device))


def _attention(q_BHSD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, p: float, mask: Tensor | None) -> Tensor:
    """Returns attention ``[B, H, S, D]`` by torch's fused kernels, causal if there is no mask."""
    queries, keys = q_BHSD.shape[2], k_BHTD.shape[2]
    if mask is None and queries < keys:
        mask = _lower_right_mask(queries, keys, q_BHSD.device)
    return F.scaled_dot_product_attention(q_BHSD, k_BHTD, v_BHTD, attn_mask=mask, is_causal=mask is None, dropout_p=p)


def _attention_with_dropout(q_BHSD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, p: float) -> Tensor:
    """Returns causal attention ``[B, H, S, D]`` with dropout on its weights.

    torch has no fused kernel for it on a CPU, and its plain one draws a Bernoulli number for each weight. Queries are
    taken a few at a time, with the keys that they can see: of the weights behind them, few are computed.
    """
    batch, heads, queries, width = q_BHSD.shape
    q, k, v = (part.reshape(batch * heads, -1, width) for part in (q_BHSD, k_BHTD, v_BHTD))
    before = k.shape[1] - queries
    pieces = []
    for start in range(0, queries, QUERIES_AT_ONCE):
        stop = min(start + QUERIES_AT_ONCE, queries)
        hidden = ~_lower_right_mask(stop - start, before + stop, q.device)
        bias = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, -torch.inf)
        seen_k, seen_v = k[:, : before + stop], v[:, : before + stop]
        weights = torch.baddbmm(bias, q[:, start:stop], seen_k.transpose(1, 2), alpha=width**-0.5).softmax(-1)
        pieces.append(torch.bmm(dropout(weights, p, True), seen_v))
    return torch.cat(pieces, 1).view(batch, heads, queries, width)


def _lower_right_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Returns bool ``[queries, keys]``, true where the query may look; the last query sees every key."""
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    return mask.tril(diagonal=num_keys - num_queries)
