"""The text that a datastore was written from, to show where a row comes from.

Row r is token ``first_position + r`` of the text, if that was cut into blocks without regard to its sentences. Whether
a text is the one is seen by the datastore's values, which are its tokens.
"""

import logging
from pathlib import Path

import numpy as np

from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import DataError, DatastoreError, MismatchError
from fairseq.knn.datastore import Datastore
from fairseq.knn.recorder import first_position

logger = logging.getLogger(__name__)

_COMPARED_AT_ONCE = 1 << 22


class SourceText:
    """The text of a datastore's rows.

    Args:
        text: its split of binarised data.
        first: which token row 0 is.
        prefix: of the split's files.
    """

    def __init__(self, text: MMapIndexedDataset, first: int, prefix: Path) -> None:
        self.tokens, self.first, self.prefix = text.tokens, first, prefix

    @classmethod
    def open(cls, store: Datastore, data: str | Path | None = None) -> "SourceText | None":
        """Returns the text of a datastore, or None where nothing says what it is.

        Args:
            store: with its manifest, which says where the text was. Where it is no longer, None is returned; where
                another one is, after a warning.
            data: where it is now: the directory of binarised data, or its split without suffix.

        Raises:
            DatastoreError: ``data`` was given, but nobody knows which row is which token of it.
            DataError: ``data`` cannot be read.
            MismatchError: the text there is another one.
        """
        settings = store.manifest.settings if store.manifest is not None else {}
        recorded, first = settings.get("data"), first_position(settings)
        if first is None:
            if data is None:
                return None
            raise DatastoreError(
                f"{store.prefix} does not say which token of its text each row is; give it a manifest (fairseq-knnlm"
                " adopt), or write it with --sample-break-mode none"
            )
        if data is None:
            if not isinstance(recorded, str) or not Path(f"{recorded}.idx").is_file():
                return None
            try:
                return cls._checked(store, first, Path(recorded))
            except (DataError, MismatchError) as err:
                logger.warning("neighbours are shown without their text: %s", err)
                return None
        prefix = Path(data)
        if prefix.is_dir():
            prefix = prefix / (Path(recorded).name if isinstance(recorded, str) else "train")
        return cls._checked(store, first, prefix)

    @classmethod
    def _checked(cls, store: Datastore, first: int, prefix: Path) -> "SourceText":
        text = cls(MMapIndexedDataset(prefix), first, prefix)
        text._check(store)
        return text

    def passage(self, row: int, before: int, after: int) -> tuple[list[int], list[int]]:
        """Returns the ids of up to so many tokens before and after a row's own."""
        at = self.first + row
        start = max(at - before, 0)
        return self.tokens[start:at].tolist(), self.tokens[at + 1 : at + 1 + after].tolist()

    def _check(self, store: Datastore) -> None:
        """Raises MismatchError unless the values are the text's tokens."""
        same = self.first + store.rows <= len(self.tokens)
        for start in range(0, store.rows if same else 0, _COMPARED_AT_ONCE):
            values_N = store.values_N[start : start + _COMPARED_AT_ONCE]
            at = self.first + start
            same = same and np.array_equal(values_N, self.tokens[at : at + len(values_N)])
        if not same:
            raise MismatchError(
                f"{self.prefix} is not the text that {store.prefix} was written from: tokens and values differ; give"
                " data= the directory (or the split) that it was written from"
            )
