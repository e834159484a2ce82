"""Base class of the texts, and models, that a datastore is said to come from; and whether that is so.

Values are compared with the text. Keys are computed again for a few of its blocks, evenly spaced, and compared with the
stored ones.

Legend: N rows · D key width.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Array
from fairseq.data.block_dataset import Batch
from fairseq.data.dictionary import Dictionary
from fairseq.errors import MismatchError
from fairseq.evaluate.evaluation import Evaluation
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.knn.datastore.manifest import Segment

SAMPLED_BLOCKS = 8
# How far a key may be from the one computed again, as a share of its length. Sums in another order move it by 1e-5 of
# its length, rounding to float16 by 5e-4, a model that ran in half precision by a few thousandths; another model's key
# is about its whole length away.
KEY_TOLERANCE = 0.02


@dataclass(frozen=True)
class Compared:
    """What becomes of a datastore's values, after a look at its text.

    Attributes:
        values_N: to write, in any integer type; None where the old ones stay.
        shift: what is added to each of them.
        mended: what is done to them, in words; empty for nothing.
        segment: where the rows come from, if that is more than the manifest's settings say.
        note: on the rows, for the user.
    """

    values_N: Array | None = None
    shift: int = 0
    mended: str = ""
    segment: Segment | None = None
    note: str = ""


class Origin(ABC):
    """A text, and perhaps the model whose keys are stored.

    Attributes:
        name: of the text, for messages.
        dictionary: of the text.
        settings: what a manifest says of the text, and of how it was cut.
        evaluation: of the model, None where none is named.
    """

    name: str
    dictionary: Dictionary
    settings: dict[str, Any]
    evaluation: Evaluation | None

    @abstractmethod
    def compare(self, path: Path, values_N: Array) -> Compared:
        """Returns what the text says of the values in a file; raises MismatchError where they are not of it."""

    @abstractmethod
    def key_samples(self, rows: int) -> Iterator[tuple[Batch, int]]:
        """Yields batches whose targets are consecutive rows, some of them among the first ``rows``, with the first."""

    def check_keys(self, keys_ND: Array) -> int:
        """Returns how many stored keys were computed again and found to be the model's.

        Raises:
            MismatchError: they are not.
        """
        evaluation = self.evaluation
        assert evaluation is not None
        if keys_ND.shape[1] != evaluation.models[0].key_dimension:
            raise MismatchError(
                f"the keys are {keys_ND.shape[1]} wide, but those of {evaluation.checkpoints[0].path} are"
                f" {evaluation.models[0].key_dimension}; give --path the checkpoint that made them"
            )
        scorer = SequenceScorer(evaluation.models, evaluation.precision)
        checked = 0
        for batch, first in self.key_samples(len(keys_ND)):
            vectors, _ = scorer.context_vectors(batch)
            stored_ND = np.asarray(keys_ND[first : first + len(vectors)], np.float32)
            self._require_same(first, stored_ND, vectors[: len(stored_ND)].float().cpu().numpy())
            checked += len(stored_ND)
        return checked

    def _require_same(self, first: int, stored_ND: Array, wanted_ND: Array) -> None:
        """Raises MismatchError where stored keys, from row ``first`` on, are not those computed again."""
        assert self.evaluation is not None
        away_N = np.linalg.norm(stored_ND - wanted_ND, axis=1) / np.maximum(np.linalg.norm(wanted_ND, axis=1), 1e-9)
        if not (away_N <= KEY_TOLERANCE).all():
            worst = int(np.argmax(np.where(np.isfinite(away_N), away_N, np.inf)))
            raise MismatchError(
                f"the key of row {first + worst} must be what {self.evaluation.checkpoints[0].path} gives, but is"
                f" {away_N[worst]:.3g} of its length away (allowed {KEY_TOLERANCE}); give {self.remedy} of the run that"
                " wrote the datastore, or leave --path out"
            )

    remedy = "--path, --context-window and --sample-break-mode"
