"""What each stage of a kNN-LM has to do: bytes and operations, by formula.

    keys      N · D · b            b bytes of a number, 2 or 4           values   8 · N
    index     N · (c + 8) + 4 · L · D       codes and ids, and the centroids
    train     2 · D · L · (6 · min(40 · L, s) + s)       operations on a sample of s rows (knn/index/training.py)
    add       2 · D · L · N                              operations, at most: each row meets all centroids
    search    a query meets L centroids, p · N / L codes in p lists, and reads k keys
    wire      A: 4 · k′ · P,  k′ = k / P + 4 √(k / P) + 4;  B: 32 · P;  there: (4 · D + 12 · p + 16) · P

The operations are those of the full width. What quick training saves is in the measured rates, whose unit they are.

Legend: N rows · D key width · L lists · s sampled rows · p lists visited · k neighbours · P shards.
"""

from dataclasses import dataclass

from fairseq.knn.distributed.two_phases import first_asked
from fairseq.knn.index.training import LIST_POINTS, LIST_ROUNDS, points_wanted

VALUE_BYTES, ID_BYTES = 8, 8


@dataclass(frozen=True)
class Work:
    """A datastore, its index, and how they are searched.

    Attributes:
        rows: N.
        dimension: D.
        key_bytes: of a number of a key.
        lists: L.
        code_bytes: of a row in the index.
        sample: rows that may be trained on.
        k: neighbours.
        probe: lists that a query visits.
    """

    rows: int
    dimension: int
    key_bytes: int
    lists: int
    code_bytes: int
    sample: int
    k: int
    probe: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's key."""
        return self.dimension * self.key_bytes

    @property
    def keys(self) -> int:
        """Bytes of all keys."""
        return self.rows * self.row_bytes

    @property
    def values(self) -> int:
        """Bytes of all values."""
        return self.rows * VALUE_BYTES

    @property
    def centroids(self) -> int:
        """Bytes of the centroids."""
        return 4 * self.lists * self.dimension

    @property
    def codes(self) -> int:
        """Bytes of codes and ids."""
        return self.rows * (self.code_bytes + ID_BYTES)

    @property
    def index(self) -> int:
        """Bytes of the index."""
        return self.codes + self.centroids

    @property
    def trained_on(self) -> int:
        """Rows that quick training reads."""
        return min(self.sample, points_wanted(self.lists), self.rows)

    @property
    def train_operations(self) -> float:
        """Operations of training the lists."""
        compared = LIST_ROUNDS * min(LIST_POINTS * self.lists, self.trained_on) + self.trained_on
        return 2.0 * self.dimension * self.lists * compared

    @property
    def add_operations(self) -> float:
        """Operations of finding a row's list."""
        return 2.0 * self.dimension * self.lists

    @property
    def coarse_operations(self) -> float:
        """Operations of finding the lists that a query visits."""
        return 2.0 * self.dimension * self.lists

    @property
    def rows_visited(self) -> float:
        """Rows whose codes a query meets."""
        return min(self.probe, self.lists) * self.rows / self.lists

    @property
    def neighbours(self) -> float:
        """Neighbours that a query finds."""
        return min(self.k, self.rows_visited)

    def wire_bytes(self, shards: int) -> float:
        """Returns the bytes of a query between the coordinator and all shards; 0 for one that is the coordinator."""
        if shards == 1:
            return 0.0
        there = 4 * self.dimension + 12 * min(self.probe, self.lists) + 16  # the last: how many count, and the target
        return float(shards * (there + 4 * first_asked(self.k, shards) + 32))
