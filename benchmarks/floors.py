"""The least time that work can take: operations ÷ the rate of matrix products, bytes ÷ the rate of memory or disk.

A floor counts what the task asks for, whoever does it: a multiplication and an addition are two operations, causal
attention looks at half of a row, the last layer is needed on scored columns only, a tail of the adaptive softmax
only by tokens of its band. Operations and bytes may overlap, so a floor is the larger of the two. No program reaches
it: it knows nothing of softmaxes, norms, dropout, top-k and Python.

    layer(T)   = 8·d² + 4·d·f + 2·d·(T + 1)           operations a position, in rows of T positions
    head       = 2·d·(n₀ + tails)                      operations a scored token
    tail(i)    = 2·d·dᵢ + 2·dᵢ·nᵢ, dᵢ = d ÷ 4ⁱ         operations a scored token of band i
    window row = (L − 1)·T·layer(T) + T·4·d² + S·(…)   T positions, S of them scored; keys and values of the last layer
                                                       on all T, the rest of it on S
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """What the machine was measured to do, with two threads or as many as are in use."""

    gemm_flops_per_s: float
    memory_bytes_per_s: float
    disk_read_bytes_per_s: float
    disk_write_bytes_per_s: float


@dataclass(frozen=True)
class Floor:
    """Operations and bytes of a piece of work."""

    flops: float = 0.0
    memory_bytes: float = 0.0
    disk_read_bytes: float = 0.0
    disk_write_bytes: float = 0.0

    def __add__(self, other: "Floor") -> "Floor":
        return Floor(
            self.flops + other.flops,
            self.memory_bytes + other.memory_bytes,
            self.disk_read_bytes + other.disk_read_bytes,
            self.disk_write_bytes + other.disk_write_bytes,
        )

    def seconds(self, rates: Rates) -> tuple[float, str]:
        """Returns the floor and what sets it."""
        parts = {
            "operations": self.flops / rates.gemm_flops_per_s,
            "memory": self.memory_bytes / rates.memory_bytes_per_s,
            "disk": self.disk_read_bytes / rates.disk_read_bytes_per_s
            + self.disk_write_bytes / rates.disk_write_bytes_per_s,
        }
        bound = max(parts, key=lambda name: parts[name])
        return parts[bound], bound


@dataclass(frozen=True)
class Architecture:
    """A transformer with adaptive input and softmax: ``edges`` are the ends of the bands, the last one included."""

    layers: int
    width: int
    ffn_width: int
    edges: tuple[int, ...]
    factor: int = 4

    @property
    def band_sizes(self) -> list[int]:
        """Returns how many ids each band has."""
        return [end - start for start, end in zip((0, *self.edges), self.edges, strict=False)]

    def band_width(self, band: int) -> int:
        """Returns the width of a band's vectors."""
        return int(self.width // self.factor**band)

    @property
    def num_parameters(self) -> int:
        """Returns the weights of matrices, those of input and output shared."""
        d = self.width
        layer = 4 * d * d + 2 * d * self.ffn_width
        widths = [self.band_width(i) for i in range(len(self.edges))]
        bands = sum(n * width for n, width in zip(self.band_sizes, widths, strict=True))
        projections = sum(d * width for width in widths)
        return self.layers * layer + bands + projections + d * (len(self.edges) - 1)

    def layer_flops(self, row: int) -> float:
        """Returns a layer's operations a position, in rows of this many positions."""
        return 8 * self.width**2 + 4 * self.width * self.ffn_width + 2 * self.width * (row + 1)

    def softmax_flops(self, band_counts: Sequence[int]) -> float:
        """Returns the operations of log-probabilities for so many targets of each band."""
        d = self.width
        flops = 2.0 * sum(band_counts) * d * (self.band_sizes[0] + len(self.edges) - 1)
        for band, count in enumerate(band_counts[1:], start=1):
            narrow = self.band_width(band)
            flops += count * (2.0 * d * narrow + 2.0 * narrow * self.band_sizes[band])
        return flops

    def input_flops(self, band_counts: Sequence[int]) -> float:
        """Returns the operations of projecting so many input vectors of each band."""
        return float(sum(2 * count * self.width**2 // self.factor**i for i, count in enumerate(band_counts)))

    def window_flops(self, row: int, scored: int, *, keys_only: bool = False) -> float:
        """Returns the operations of the layers for one row, without the last feed-forward part for keys only."""
        d = self.width
        before = (self.layers - 1) * row * self.layer_flops(row)
        attention = 4 * d * d + 4 * d * (row - (scored - 1) / 2)  # queries and output, then the columns each may see
        feed_forward = 0 if keys_only else 4 * d * self.ffn_width
        return before + row * 4 * d * d + scored * (attention + feed_forward)


def train_floor(model: Architecture, updates: int, row: int, band_counts: Sequence[int]) -> Floor:
    """Returns the floor of updates over tokens: forward, twice that backward, and a Nesterov step.

    Args:
        model: what is trained.
        updates: optimizer steps.
        row: tokens in a row.
        band_counts: tokens seen in all, by band, as inputs and as targets.
    """
    tokens = sum(band_counts)
    forward = (
        tokens * model.layers * model.layer_flops(row)
        + model.softmax_flops(band_counts)
        + model.input_flops(band_counts)
    )
    step_bytes = 5 * 4 * model.num_parameters  # read weight, gradient and momentum; write weight and momentum
    return Floor(flops=3 * forward, memory_bytes=updates * step_bytes)


def evaluate_floor(model: Architecture, row: int, scored: int, band_counts: Sequence[int]) -> Floor:
    """Returns the floor of scoring targets in rows with context; each word vector is projected once."""
    rows = sum(band_counts) / scored
    return Floor(
        flops=rows * model.window_flops(row, scored)
        + model.softmax_flops(band_counts)
        + model.input_flops(model.band_sizes)
    )


def dump_floor(model: Architecture, row: int, scored: int, targets: int, key_bytes: int = 4) -> Floor:
    """Returns the floor of writing a datastore with int64 values: no probability is needed."""
    return Floor(
        flops=targets / scored * model.window_flops(row, scored, keys_only=True) + model.input_flops(model.band_sizes),
        disk_write_bytes=targets * (model.width * key_bytes + 8),
    )


def index_floor(
    rows: int,
    width: int,
    lists: int,
    code_bytes: int,
    *,
    rounds: int = 10,
    key_bytes: int = 4,
    sample: int | None = None,
) -> Floor:
    """Returns the floor of an IVF-PQ index: k-means over at most 256 rows a list, product codes, and adding every row.

    Args:
        rows: keys.
        width: of a key.
        lists: centroids.
        code_bytes: sub-quantisers of 256 centroids each, trained for 25 rounds on 65,536 rows; 0 for none.
        rounds: of k-means over the lists' centroids (FAISS: 10).
        key_bytes: of a number on the disk.
        sample: rows to train on; all if left out.
    """
    sample = min(rows if sample is None else sample, 256 * lists)
    flops = 2.0 * sample * lists * width * rounds + 2.0 * rows * lists * width
    if code_bytes:
        flops += 2.0 * 256 * width * (25 * min(sample, 256 * 256) + rows)
    return Floor(flops=flops, disk_read_bytes=rows * width * key_bytes, disk_write_bytes=rows * (code_bytes + 8))


def neighbours_floor(
    queries: int, k: int, width: int, rows: int, lists: int, probe: int, code_bytes: int, *, exact: bool
) -> Floor:
    """Returns the floor of k neighbours in ``probe`` of ``lists`` lists, language model not counted.

    One addition a code byte that is visited; with exact distances, k inner products and the keys once from memory. The
    results, an id and a distance each, are written and read once.
    """
    visited = queries * probe * rows / lists
    flops = 2.0 * queries * lists * width + visited * code_bytes
    memory = rows * (code_bytes + 8) + 2.0 * queries * k * 12
    if exact:
        flops += 2.0 * queries * k * width
        memory += rows * width * 4.0
    return Floor(flops=flops, memory_bytes=memory)


def read_floor(num_bytes: int) -> Floor:
    """Returns the floor of reading a text once and writing two bytes for every five of it, a word of English."""
    return Floor(disk_read_bytes=num_bytes, disk_write_bytes=num_bytes * 2 / 5)
