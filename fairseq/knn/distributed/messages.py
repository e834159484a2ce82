"""What the coordinator of a search and its shards say to each other: NumPy arrays and numbers, nothing else.

    coordinator                                         shard s, of P
    ───────────                                         ─────────────
    0  lists of each query, coarse distances
    A  nearest(Queries, k′) ──────────────────────────► nearest by the index's distance d~, then by row
       ◄─────────────────────────── d~ [N, k′] alone    (the ids stay there, under the request's key)
       τ = the k-th smallest of all
    B  sums(Wanted: key, prefix of each query, …) ────► exact distances d of the prefix
       ◄───────────────────────────────── Sums [N] × 4

Rarely there is more between A and B:

       deeper(key, queries, k) ───────────────────────► more of those of which too few were asked for
       ◄─────────────────────────────────── d~ [M, k]
       ids(key, queries, places) ─────────────────────► of rows of several shards that are equally far at τ
       ◄───────────────────────────── their row numbers
    B′ exact(key, prefix, own rows) ──────────────────► exact d of the prefix, then by row: where more rows are asked
       ◄───────────────────────────────────── d [N, K]  for than vote (--rerank, --drop-top1, --exclude-own-row)

A shard that does not know a key any more, since it was started anew between the phases, answers ``None``, and is asked
everything of this key again. Every call may be repeated: nothing but what a shard remembers changes.

Legend: N queries · D key width · E width behind the index's transforms · P lists visited · K neighbours · S own rows.
"""

from dataclasses import dataclass
from typing import NamedTuple

from fairseq.arrays import Bools, Float32s, Float64s, Int64s


@dataclass(frozen=True)
class ShardIdentity:
    """What a shard reports when it is started; any difference between shards, or from the coordinator, refuses a run.

    Attributes:
        number: which shard it is.
        set_id: of the index in shards (``ShardsManifest.set_id``).
        rows_id: of the datastore.
        index_sha256: of its index's file.
        num_bytes: size of that file.
        rows: that it has.
        forgotten_sha256: of the list of forgotten rows, empty without any.
        versions: of this program, Python, NumPy, torch and FAISS.
        node: the machine that it is on, for messages.
    """

    number: int
    set_id: str
    rows_id: str
    index_sha256: str
    num_bytes: int
    rows: int
    forgotten_sha256: str
    versions: dict[str, str]
    node: str


@dataclass(frozen=True)
class Queries:
    """Phase A: what is searched for.

    Attributes:
        key: names the request, for phase B.
        query_ND: context vectors; of width 0 where no distances are computed from stored keys.
        moved_NE: what the index's transforms (OPQ, PCA) make of them; the same array without any.
        list_NP: inverted lists that each query visits, −1 for none.
        coarse_NP: distances to their centroids.
    """

    key: str
    query_ND: Float32s
    moved_NE: Float32s
    list_NP: Int64s
    coarse_NP: Float32s


@dataclass(frozen=True)
class Wanted:
    """Phase B: which of the rows that a shard has found count, and how they vote.

    Attributes:
        key: of the request.
        prefix_N: how many of the first are among the k nearest of all shards.
        temperature: T.
        target_N: token ids; a hit is a row whose value is the target. None where there are none.
        first_N: how many of the first do not count after all (``--drop-top1``); None for none.
        by_exact: the order is that of phase B′, by exact distances, instead of phase A's.
    """

    key: str
    prefix_N: Int64s
    temperature: float
    target_N: Int64s | None = None
    first_N: Int64s | None = None
    by_exact: bool = False


class Sums(NamedTuple):
    """Answer to phase B, float64 ``[N]`` each: 32 bytes a query and shard.

    Attributes:
        least_N: m, the smallest distance d of its rows; +inf without any.
        total_N: S = Σ exp((m − d) / T).
        least_hit_N: h, the smallest d of its hits; +inf without any.
        hits_N: H = Σ over hits of exp((h − d) / T).
    """

    least_N: Float64s
    total_N: Float64s
    least_hit_N: Float64s
    hits_N: Float64s


class Words(NamedTuple):
    """The distribution of a shard's rows over words, of all queries one after the other.

    Attributes:
        count_N: pairs of each query.
        word: token ids, distinct within a query.
        log_sum: ln Σ exp(−d / T) over the query's rows with that value.
    """

    count_N: Int64s
    word: Int64s
    log_sum: Float64s


class Rows(NamedTuple):
    """The rows of a shard's prefix themselves, of all queries one after the other.

    Attributes:
        count_N: rows of each query.
        ids: row numbers of the datastore.
        distances: exact, or the index's own where those count.
        values: tokens that came next.
        hits: whose value is the target.
    """

    count_N: Int64s
    ids: Int64s
    distances: Float32s
    values: Int64s
    hits: Bools
