"""``fairseq-knnlm export-distribution``: the distribution of the neighbours of a datastore's own rows.

Each row's key is searched for among all rows. The row itself is known by its id, and taken out: it need not be the
first that is found, since codes may rank others before it, and rows of the same context are as near. k + 1 rows are
asked for; where the row itself is not among them, the farthest goes.

Legend: N rows · D key width.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fairseq.arrays import Int64s
from fairseq.errors import ConfigError, counted
from fairseq.knn.config import AUTO, KNNConfig
from fairseq.knn.datastore.config import parse_rows
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore, gather_rows
from fairseq.knn.export.arrow_file import arrow_writer, require_pyarrow
from fairseq.knn.export.config import ExportConfig
from fairseq.knn.export.shares import WordShares, word_shares
from fairseq.knn.neighbours.distribution import Votes
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.opening import open_store
from fairseq.knn.threads import run_all, worker_threads
from fairseq.runtime.progress import Progress
from fairseq.runtime.resources import require_disk, share_of_memory, shown_bytes
from fairseq.storage.marks import DISTRIBUTION
from fairseq.storage.outputs import claim, reads
from fairseq.text.model_tokenizer import SHIFT

# Rows that are searched for together, fewer where k is large: many queries of one list share what is read of it.
MOST_ROWS, MOST_BYTES = 1 << 14, 1 << 30
_NEIGHBOUR_BYTES = 64  # its distance and row, twice, and its word and probability
_SHARES_BLOCK = 512  # rows whose words are summed together


def export_distribution(config: ExportConfig) -> str:
    """Writes the distributions, and returns what was written, as a line.

    Raises:
        ConfigError: something is in the way, or pyarrow is not installed.
        DatastoreError: a file cannot be read.
        MismatchError: datastore and index do not belong together.
    """
    require_pyarrow()
    destination = claim("--destination", config.destination, DISTRIBUTION, overwrite=config.overwrite)
    settings = KNNConfig(
        k=config.k,
        probe=config.probe,
        knn_temp=config.knn_temp,
        knn_sim_func=config.knn_sim_func,
        allow_mismatch=config.allow_mismatch,
    )
    reads(config.indexfile)
    source = open_store(config.prefix, config.indexfile, settings)
    searched = source.parts[0].datastore
    store = searched if searched.keys_ND is not None else Datastore.open(config.prefix)
    wanted = _wanted(searched, config.rows)
    shift = SHIFT if store.require_manifest().settings.get("tokenizer_sha256") else 0
    made_of = {
        **source.identity(),
        **source.temperature_record(),
        "k": config.k,
        "probe": config.probe,
        "knn_sim_func": config.knn_sim_func,
        "rows": ",".join(f"{start}:{stop}" for start, stop in wanted.pairs),
        "forgotten": store.forgotten.num_rows,
        "ids": "of the model's tokenizer" if shift else "of dict.txt",
    }
    found, done, total = 0, 0, wanted.num_rows
    with arrow_writer(destination, made_of) as file, Progress("export", total, "rows") as progress:
        for row_N in _blocks(wanted, config.k):
            assert store.keys_ND is not None
            own_N = np.asarray(store.values_N[row_N]).astype(np.int64)
            votes = source.votes(gather_rows(store.keys_ND, row_N), own_N, row_N[:, None])
            file.append(_shares(source, votes, shift), own_N - shift)
            found, done = found + int(votes.hits_NK.any(axis=1).sum()), done + len(row_N)
            needed = (6 * file.entries + 20 * done) // done * (total - done)
            require_disk(destination, needed, "give --destination another disk, or a smaller --k")
            progress.advance(len(row_N))
    size = shown_bytes(Path(destination).stat().st_size)
    return (
        f"{destination}: {counted(total, 'row')} (k {config.k}, {_temperature(source)}),"
        f" {file.entries / total:.1f} words a row on average, {size}; ids {made_of['ids']}; the row's own word is among"
        f" its neighbours' in {found / total:.1%} of the rows"
    )


def _temperature(source: NeighbourSource) -> str:
    """Returns T, and whether it was chosen."""
    return f"T {source.temperature:g}{', auto' if source.config.knn_temp == AUTO else ''}"


def _shares(source: NeighbourSource, votes: Votes, shift: int) -> WordShares:
    """Returns the words of each row's neighbours, less the shift, with their probabilities."""

    def of_some(first: int) -> WordShares:
        some = votes.rows(slice(first, first + _SHARES_BLOCK))
        values_NK = source.values_of(some.ids_NK).astype(np.int64) - shift
        return word_shares(some.distances_NK, some.ids_NK, values_NK, source.temperature)

    with worker_threads() as workers:
        return WordShares.joined(run_all(workers, of_some, range(0, len(votes.ids_NK), _SHARES_BLOCK)))


def _wanted(store: Datastore, rows: str | None) -> RowRanges:
    """Returns the rows to write; those that are forgotten are not there."""
    start, stop = (0, store.rows) if rows is None else parse_rows(rows)
    if stop > store.rows:
        raise ConfigError(
            f"--rows {rows}: row {stop - 1} must be one of the {store.rows} rows of {store.prefix}, 0 to"
            f" {store.rows - 1}"
        )
    wanted = store.left.within(start, stop)
    if not wanted.num_rows or store.rows_left < 2:
        raise ConfigError(f"{store.prefix} has no row {'of these ' if rows else ''}that others are near; append rows")
    return wanted


def _blocks(wanted: RowRanges, k: int) -> Iterator[Int64s]:
    """Yields the rows, as many at a time as memory has room for."""
    step = max(min(MOST_ROWS, share_of_memory(4, MOST_BYTES) // (_NEIGHBOUR_BYTES * (k + 1))), 1)
    for first in range(0, wanted.num_rows, step):
        yield wanted.nth(np.arange(first, min(first + step, wanted.num_rows)))
