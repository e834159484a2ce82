"""Neighbours for ``model.generate`` of transformers: a logits processor that mixes a datastore into each step.

    from knnlm import KNN, KNNLogitsProcessor

    with KNNLogitsProcessor(model, "SmolLM2-135M", KNN("dstore", "knn.index", k=64, lmbda=0.25)) as knn:
        model.generate(**inputs, logits_processor=LogitsProcessorList([knn]))

    the model's step ─┬─ logits of the last column ── log-softmax ─┐
                      └─ key of the last column, caught by a hook ─┴─ ln((1 − λ) p + λ p_kNN), in the logits' place

The last column is the newest token of every row, since transformers pads prompts on the left. A beam's rows are
computed and scored in one order; where they change places, so do the vectors of the next step.

R rows, T columns, C width, V words of the head, N words of the dictionary: the head's and fairseq's four.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from fairseq.checkpoints.huggingface import is_model_directory, read_model_directory
from fairseq.errors import ConfigError
from fairseq.evaluate.mixture import NextTokenMixture
from fairseq.hub.huggingface.opening import use_keys_of
from fairseq.hub.protocol import MemoryConfig
from fairseq.hub.records import checked_weight
from fairseq.models.protocol import ModelIdentity
from fairseq.tasks.model_text import tokenizer_sha256
from fairseq.text.model_tokenizer import SHIFT


class KNNLogitsProcessor:
    """Mixes the nearest neighbours into the next-token distribution of a model of transformers.

    It listens to the model from when it is made until ``close``, or the end of the ``with`` block.

    Args:
        model: of ``AutoModelForCausalLM``.
        directory: that the model was loaded from, whose weights and tokenizer must be the datastore's; None takes the
            caller's word for it, and compares widths only.
        knn: the neighbours, a ``knnlm.KNN`` or an open ``KNN_Dstore``.

    Raises:
        CheckpointError: the model's layers are not found.
        ConfigError: ``knn`` is none, or the model has no vectors of the datastore's type.
        MismatchError: the datastore is another model's.
    """

    def __init__(self, model: Any, directory: str | Path | None, knn: MemoryConfig) -> None:
        from fairseq.models.huggingface.adapter import HuggingFaceModel

        if not hasattr(knn, "open_for"):
            raise ConfigError(f"knn must be knnlm.KNN(datastore, index) or an open KNN_Dstore, but is {type(knn)}")
        self._adapter = HuggingFaceModel(model.eval(), None)
        use_keys_of(self._adapter, knn)
        self.memory, self._lmbda = knn.open_for(self._identity(model, directory))
        self.num_words = int(model.get_output_embeddings().weight.shape[0]) + SHIFT

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns ln p of every word by model and neighbours, float32 ``[R, V]``.

        Args:
            input_ids: int64 ``[R, T]``; not looked at.
            scores: logits of the step, or their log-softmax, ``[R, V]``.

        Raises:
            ConfigError: the model has not just computed these rows.
        """
        query_RC = self._adapter.last_key()
        if query_RC is None or len(query_RC) != len(scores):
            found = "none" if query_RC is None else str(len(query_RC))
            raise ConfigError(
                f"the model's vectors of {len(scores)} rows are needed, but {found} are there; put the processor into"
                " model.generate(…, logits_processor=…) of the model that it was made with"
            )
        log_p_RV = scores.float().log_softmax(-1)
        specials_R4 = log_p_RV.new_full((len(log_p_RV), SHIFT), -torch.inf)
        mixture = NextTokenMixture([(self.memory, self.lmbda)])
        mixed_RN = mixture.mixed(torch.cat([specials_R4, log_p_RV], 1), query_RC.float())
        return mixed_RN[:, SHIFT:].to(scores.device, torch.float32)

    @property
    def lmbda(self) -> float:
        """Weight λ of the neighbours, from 0 to 1; may be set."""
        return self._lmbda

    @lmbda.setter
    def lmbda(self, weight: float) -> None:
        self._lmbda = checked_weight(weight)

    def close(self) -> None:
        """Stops listening to the model."""
        self._adapter.close()

    def __enter__(self) -> "KNNLogitsProcessor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _identity(self, model: Any, directory: str | Path | None) -> ModelIdentity:
        width, key_type = int(self._adapter.key_dimension), str(self._adapter.key_type)
        if directory is None or not is_model_directory(directory):
            sha256 = None if directory is None else tokenizer_sha256(directory)
            return ModelIdentity(key_dimension=width, key_type=key_type, tokenizer_sha256=sha256)
        weights = read_model_directory(directory).weights_sha256
        return ModelIdentity(None, weights, None, width, key_type, tokenizer_sha256(directory))
