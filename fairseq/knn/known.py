"""The columns of a saved retrieval that hold what was known of each token before it was seen.

    lm_max_log_prob   float32 [N]   ln of the language model's largest next-token probability
    lm_entropy        float32 [N]   of its next-token distribution, nats
    last_tokens       int32 [N]     the last token of the context

Legend: N tokens.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.errors import DatastoreError
from fairseq.knn.retrieval import Retrieval
from fairseq.knn.retrieval_format import Column, array_path
from fairseq.scoring import Known

KNOWN_COLUMNS = (Column("lm_max_log_prob", "<f4"), Column("lm_entropy", "<f4"), Column("last_tokens", "<i4"))


def known_arrays(known: Known) -> dict[str, npt.NDArray[Any]]:
    """Returns the columns' arrays by name."""
    return {"lm_max_log_prob": known.max_log_p_N, "lm_entropy": known.entropy_N, "last_tokens": known.last_token_N}


def read_known(retrieval: Retrieval) -> Known:
    """Returns what was known of a retrieval's tokens.

    Raises:
        DatastoreError: it was saved without these columns, or they are not what they should be.
    """
    arrays = {}
    for column in KNOWN_COLUMNS:
        array, path = retrieval.columns.get(column.name), array_path(retrieval.directory, column.name)
        shape = column.shape(len(retrieval))
        if array is None:
            raise DatastoreError(
                f"{retrieval.directory} must have {path.name}, but was saved without; save it again with"
                " fairseq-eval-lm --save-retrieval"
            )
        if array.shape != shape or array.dtype.str != column.dtype:
            raise DatastoreError(
                f"{path} must be {np.dtype(column.dtype)} of shape {shape}, but is {array.dtype} of shape"
                f" {array.shape}; save the retrieval again"
            )
        arrays[column.name] = np.asarray(array)
    last_N, vocabulary_size = arrays["last_tokens"].astype(np.int64), retrieval.manifest["vocabulary_size"]
    if int(last_N.min()) < 0 or int(last_N.max()) >= vocabulary_size:
        raise DatastoreError(
            f"{array_path(retrieval.directory, 'last_tokens')}: ids must be from 0 to {vocabulary_size - 1}, but are"
            f" from {last_N.min()} to {last_N.max()}; save the retrieval again"
        )
    for name in ("lm_max_log_prob", "lm_entropy"):
        if not np.isfinite(arrays[name]).all():
            raise DatastoreError(
                f"{array_path(retrieval.directory, name)} must be finite, but is not everywhere; save the retrieval"
                " again, with a sound checkpoint"
            )
    return Known(last_N, arrays["lm_max_log_prob"], arrays["lm_entropy"])
