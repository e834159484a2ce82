"""Where a datastore of another tool comes from: the data of its values, and the model of its keys.

Row r of a datastore is the r-th target with a full context: token total − rows + r of the stream, for blocks without
breaks. Keys of a few blocks, evenly spaced, are computed again; they agree but for the number format of the run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fairseq.checkpoints import Checkpoint, load_checkpoint, weights_sha256
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.config import LanguageModelingConfig
from fairseq.errors import MismatchError
from fairseq.knn.config import AdoptConfig
from fairseq.precision import Precision
from fairseq.run_config import DeviceConfig
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks.language_modeling import LanguageModelingTask

Array = npt.NDArray[Any]

SAMPLED_BLOCKS = 4
# Relative distance of two computations of keys: float16 through 16 layers stays below, other weights do not.
KEY_TOLERANCE = 0.05


@dataclass(frozen=True)
class Provenance:
    """The data, cut as it was then, and the checkpoint if it was given."""

    task: LanguageModelingTask
    dataset: BlockDataset
    split: str
    checkpoint: Checkpoint | None

    @property
    def _full(self) -> npt.NDArray[np.int64]:
        """Blocks whose context is full."""
        return np.flatnonzero(self.dataset.context_lengths() == self.dataset.context_window)

    def values(self, rows: int, path: Path) -> Array:
        """Returns the tokens that the first rows' values must be.

        Raises:
            MismatchError: there are fewer.
        """
        blocks = self._full
        first = int(self.dataset.starts[blocks[0]]) if len(blocks) else len(self.dataset.tokens)
        tokens = np.asarray(self.dataset.tokens[first:])
        if rows > len(tokens):
            raise MismatchError(
                f"{path} has {rows} rows, but the split '{self.split}' gives {len(tokens)} with blocks of"
                f" {self.dataset.block_size} and a window of {self.dataset.context_window}; check --gen-subset,"
                " --tokens-per-sample and --context-window"
            )
        return tokens[:rows].astype(np.int64)

    def check_keys(self, keys_ND: Array, prefix: Path) -> None:
        """Raises MismatchError when the checkpoint computes other keys than the stored ones."""
        assert self.checkpoint is not None
        model: Any = self.task.load_model(self.checkpoint, {}).eval()
        if model.key_dimension != keys_ND.shape[1]:
            raise MismatchError(
                f"{prefix} has keys of width {keys_ND.shape[1]}, but {self.checkpoint.path} makes {model.key_dimension}"
            )
        scorer = SequenceScorer([model], Precision(DeviceConfig(cpu=True), torch.device("cpu")))
        blocks = self._full
        first = int(self.dataset.starts[blocks[0]])
        for block in blocks[np.linspace(0, len(blocks) - 1, SAMPLED_BLOCKS).astype(int)]:
            computed_ND, _ = scorer.context_vectors(self.dataset.collate(np.array([block])))
            row = int(self.dataset.starts[block]) - first
            stored_ND = np.asarray(keys_ND[row : row + len(computed_ND)], dtype=np.float32)
            difference_ND = computed_ND.numpy()[: len(stored_ND)] - stored_ND
            norm = float(np.linalg.norm(stored_ND))
            if len(stored_ND) and not float(np.linalg.norm(difference_ND)) <= KEY_TOLERANCE * norm:
                raise MismatchError(
                    f"{prefix}: the keys from row {row} on are not those that {self.checkpoint.path} computes; give the"
                    " checkpoint that wrote it, and the block size and window of that run"
                )

    def identity(self) -> dict[str, Any]:
        """Returns what the manifest can vouch for."""
        return {
            "vocabulary_size": len(self.task.dictionary),
            "dictionary_sha256": self.task.dictionary.sha256(),
            "weights_sha256": weights_sha256(self.checkpoint.state) if self.checkpoint is not None else None,
            "settings": {
                "data": str(self.task.split_prefix(self.split)),
                "data_sha256": self.dataset.sha256(),
                "sample_break_mode": "none",
                "tokens_per_sample": self.dataset.block_size,
                "context_window": self.dataset.context_window,
            },
        }


def read_provenance(config: AdoptConfig) -> Provenance:
    """Returns the data, and the checkpoint, that the flags name."""
    assert config.data is not None and config.tokens_per_sample is not None and config.context_window is not None
    task = LanguageModelingTask(LanguageModelingConfig(data=config.data, tokens_per_sample=config.tokens_per_sample))
    dataset = task.load_split(config.gen_subset, context_window=config.context_window)
    checkpoint = load_checkpoint(config.path) if config.path is not None else None
    return Provenance(task, dataset, config.gen_subset, checkpoint)
