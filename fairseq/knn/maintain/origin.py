"""The text and the model that a datastore is said to come from, and whether that is so.

Values are the tokens of every block whose context window is full (fairseq/knn/datastore/dump.py). Keys are computed
again for a few blocks, evenly spaced, and compared with the stored ones.

Legend: N rows · D key width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Array, Int64s
from fairseq.config.common import DeviceConfig
from fairseq.config.path_lists import split_paths
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.config import LanguageModelingConfig
from fairseq.data.dictionary import Dictionary
from fairseq.errors import ConfigError, MismatchError
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.evaluation import Evaluation, prepare
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.knn.datastore.ranges import evenly_spaced
from fairseq.knn.datastore.row_map import full_context_rows, source_map
from fairseq.knn.maintain.config import OriginConfig
from fairseq.runtime.precision import Precision, select_device
from fairseq.tasks.language_modeling import LanguageModelingTask

SAMPLED_BLOCKS = 8
# How far a key may be from the one computed again, as a share of its length. Sums in another order move it by 1e-5 of
# its length, rounding to float16 by 5e-4, a model that ran in half precision by a few thousandths; another model's key
# is about its whole length away.
KEY_TOLERANCE = 0.02


@dataclass(frozen=True)
class Origin:
    """The text that a datastore is said to come from, and the evaluation of its model if one is named."""

    name: str
    dataset: BlockDataset
    dictionary: Dictionary
    evaluation: Evaluation | None

    def values(self, most: int) -> Int64s:
        """Returns the value of every row that the text gives, or of the first ``most``."""
        rows = source_map(self.dataset)
        assert rows.rows is not None
        return self.dataset.tokens[rows.positions(np.arange(min(rows.rows, most)))].astype(np.int64)


def open_origin(config: OriginConfig, device: DeviceConfig) -> Origin | None:
    """Returns the text and the model that the flags name, None where they name none."""
    if config.data is None:
        return None
    if config.path is None:
        full = config.tokens_per_sample or 1024  # without a context window, every block gives rows, whatever its size
        task_config = LanguageModelingConfig(
            data=config.data,
            sample_break_mode=config.sample_break_mode,
            tokens_per_sample=full - config.context_window,
        )
        task = LanguageModelingTask(task_config)
        dataset = task.load_split(config.gen_subset, context_window=config.context_window)
        return Origin(f"{config.data}, {config.gen_subset}", dataset, task.dictionary, None)
    if len(split_paths(config.path)) > 1:
        raise ConfigError("--path names several checkpoints, but a datastore belongs to one; give one")
    settings = EvalConfig(path=config.path, gen_subset=config.gen_subset, context_window=config.context_window)
    text: dict[str, Any] = {"data": config.data, "sample_break_mode": config.sample_break_mode}
    if config.tokens_per_sample is not None:
        text["tokens_per_sample"] = config.tokens_per_sample
    evaluation = prepare(settings, text, Precision(device, select_device(device)))
    return Origin(f"{config.data}, {config.gen_subset}", evaluation.dataset, evaluation.task.dictionary, evaluation)


def check_keys(origin: Origin, keys_ND: Array) -> int:
    """Returns how many stored keys were computed again and found to be the model's.

    Raises:
        MismatchError: they are not.
    """
    evaluation, dataset = origin.evaluation, origin.dataset
    assert evaluation is not None
    if keys_ND.shape[1] != evaluation.models[0].key_dimension:
        raise MismatchError(
            f"the keys are {keys_ND.shape[1]} wide, but those of {evaluation.checkpoints[0].path} are"
            f" {evaluation.models[0].key_dimension}; give --path the checkpoint that made them"
        )
    blocks, first_rows = full_context_rows(dataset)
    blocks = blocks[first_rows[:-1] < len(keys_ND)]
    scorer = SequenceScorer(evaluation.models, evaluation.precision)
    checked = 0
    for number in evenly_spaced(len(blocks), SAMPLED_BLOCKS).tolist():
        vectors, _ = scorer.context_vectors(dataset.collate(blocks[number : number + 1]))
        first = int(first_rows[number])
        stored_ND = np.asarray(keys_ND[first : first + len(vectors)], np.float32)
        wanted_ND = vectors[: len(stored_ND)].float().cpu().numpy()
        away_N = np.linalg.norm(stored_ND - wanted_ND, axis=1) / np.maximum(np.linalg.norm(wanted_ND, axis=1), 1e-9)
        if not (away_N <= KEY_TOLERANCE).all():
            worst = int(np.argmax(np.where(np.isfinite(away_N), away_N, np.inf)))
            raise MismatchError(
                f"the key of row {first + worst} must be what {evaluation.checkpoints[0].path} gives, but is"
                f" {away_N[worst]:.3g} of its length away (allowed {KEY_TOLERANCE}); give --path, --context-window and"
                " --sample-break-mode of the run that wrote the datastore, or leave --path out"
            )
        checked += len(stored_ND)
    return checked
