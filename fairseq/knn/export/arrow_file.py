"""The Arrow file of a datastore's distributions, in the layout that Memory Decoder trains on.

    id_cnt    int32            how many words the row's neighbours have
    token_id  list<int32>      these words
    prob      list<float16>    their probabilities
    label     int32            the row's own word

An IPC stream, one record for each row of the datastore, as ``datasets.Dataset.from_file`` and
``pyarrow.ipc.open_stream`` read it. What it was made of stands in the schema's metadata, under
``fairseq-knnlm distribution``.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Integers
from fairseq.errors import ConfigError
from fairseq.knn.export.shares import WordShares
from fairseq.storage.files import atomic_write
from fairseq.storage.marks import DISTRIBUTION_MARK


def require_pyarrow() -> Any:
    """Returns the package; raises ConfigError where it is not installed."""
    try:
        import pyarrow
    except ImportError as err:
        raise ConfigError(
            "fairseq-knnlm export-distribution needs the package pyarrow, which is not installed; pip install"
            " 'fairseq-knnlm[arrow]'"
        ) from err
    return pyarrow


class ArrowWriter:
    """An open Arrow file.

    Args:
        stream: of ``pyarrow.ipc.new_stream``.
        schema: its columns.

    Attributes:
        entries: words of all rows so far.
    """

    def __init__(self, stream: Any, schema: Any) -> None:
        self._stream, self._schema, self.entries = stream, schema, 0

    def append(self, shares: WordShares, label_N: Integers) -> None:
        """Writes some rows with their own words, ``[N]``."""
        pa = require_pyarrow()
        offsets = pa.array(np.concatenate([[0], np.cumsum(shares.count_N)]).astype(np.int32))
        words, p = (pa.ListArray.from_arrays(offsets, pa.array(column)) for column in (shares.word_E, shares.p_E))
        columns = [pa.array(shares.count_N), words, p, pa.array(label_N.astype(np.int32))]
        self._stream.write_batch(pa.record_batch(columns, schema=self._schema))
        self.entries += len(shares.word_E)


@contextmanager
def arrow_writer(path: Path, made_of: Mapping[str, Any]) -> Iterator[ArrowWriter]:
    """Yields a file that takes its place when the block ends well; else what was there stays.

    Args:
        path: of the file.
        made_of: JSON, for the schema's metadata.
    """
    pa = require_pyarrow()
    columns = {
        "id_cnt": pa.int32(),
        "token_id": pa.list_(pa.int32()),
        "prob": pa.list_(pa.float16()),
        "label": pa.int32(),
    }
    schema = pa.schema(list(columns.items()), metadata={DISTRIBUTION_MARK: json.dumps(made_of)})
    with atomic_write(path) as file, pa.ipc.new_stream(file, schema) as stream:
        yield ArrowWriter(stream, schema)
