"""What neighbours give to each word, in lists without zeros.

    distances 1.0 2.0 2.0 9.0   values 7 3 7 5   T 1   →   words 3 5 7 · p 0.197 0.0002 0.732 + …

Legend: N rows · K neighbours · E entries of all rows, one row's behind another's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairseq.arrays import Array, Float32s, Int64s, Integers
from fairseq.knn.neighbours.distribution import gaps, vote_shares


@dataclass(frozen=True)
class WordShares:
    """The words of some rows, each with its probability.

    Attributes:
        count_N: int32, how many words a row has.
        word_E: int32, ids of each row's words, ascending.
        p_E: float16, above 0; of a row they sum to 1, up to rounding.
    """

    count_N: Array
    word_E: Array
    p_E: Array

    @staticmethod
    def joined(parts: "Sequence[WordShares]") -> "WordShares":
        """Returns those of all rows, in their order."""
        names = ("count_N", "word_E", "p_E")
        return WordShares(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def word_shares(distances_NK: Float32s, ids_NK: Int64s, values_NK: Integers, temperature: float) -> WordShares:
    """Returns each row's words with their probabilities, the softmax of −d / T summed for each word.

    A word whose probability is 0 in float16 (below 3e-8) is left out.

    Args:
        distances_NK: smaller is nearer, +inf for none.
        ids_NK: distinct rows, −1 for none.
        values_NK: words of the rows; anything where the id is −1.
        temperature: T.
    """
    n, k = ids_NK.shape
    share_NK = np.where(ids_NK >= 0, vote_shares(gaps(distances_NK), temperature), 0.0)
    order_NK = np.argsort(values_NK, axis=1, kind="stable")
    words_NK = np.take_along_axis(np.asarray(values_NK), order_NK, axis=1)
    opens_NK = np.ones((n, k), bool)
    opens_NK[:, 1:] = words_NK[:, 1:] != words_NK[:, :-1]
    first = np.flatnonzero(opens_NK)
    if not len(first):
        return WordShares(np.zeros(n, np.int32), np.empty(0, np.int32), np.empty(0, np.float16))
    p = np.add.reduceat(np.take_along_axis(share_NK, order_NK, axis=1).ravel(), first).astype(np.float16)
    kept = p > 0
    count_N = np.bincount(first[kept] // k, minlength=n).astype(np.int32)
    return WordShares(count_N, words_NK.ravel()[first[kept]].astype(np.int32), p[kept])
