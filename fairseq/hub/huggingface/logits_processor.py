"""Neighbours for ``model.generate`` of transformers: a logits processor that mixes a datastore into each step.

    from knnlm import KNN, KNNLogitsProcessor

    with KNNLogitsProcessor(model, "SmolLM2-135M", KNN("dstore", "knn.index", k=64, lmbda=0.25)) as knn:
        model.generate(**inputs, logits_processor=LogitsProcessorList([knn]))

    the model's step ─┬─ logits of the last column ── log-softmax ─┐
                      └─ key of the last column, caught by a hook ─┴─ ln((1 − λ) p + λ p_kNN), in the logits' place

The last column is the newest token of every row, since transformers pads prompts on the left. A beam's rows are
computed and scored in one order; where they change places, so do the vectors of the next step.

A step whose last run was of other ids has no vectors, and is refused: classifier-free guidance (``guidance_scale``)
runs the model a second time without the prompt, assisted generation (``assistant_model``, ``prompt_lookup_num_tokens``)
on tokens that are still to be chosen. Of a prompt that is read in chunks, the last one counts.

R rows, T columns, C width, V words of the head, N words of the dictionary: the head's and fairseq's four.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from fairseq.checkpoints.huggingface import is_model_directory, read_model_directory
from fairseq.errors import CheckpointError, ConfigError
from fairseq.evaluate.mixture import NextTokenMixture
from fairseq.hub.protocol import MemoryConfig
from fairseq.hub.records import Weighted
from fairseq.models.huggingface.keys import KeyCatcher, probe_ids
from fairseq.models.huggingface.structure import body_of, layers_of
from fairseq.models.key_types import LAST_FFN_INPUT, parse_key_type
from fairseq.models.protocol import ModelIdentity
from fairseq.tasks.model_text import tokenizer_sha256
from fairseq.text.model_tokenizer import SHIFT

_NOT_WITH = (
    "without classifier-free guidance (guidance_scale) and without assisted generation (assistant_model,"
    " prompt_lookup_num_tokens)"
)


@dataclass(frozen=True)
class _Read:
    """What a run of the model has read: its ids, and the mask of all that stands before them, where it has them."""

    ids_RT: Tensor | None
    mask: Any

    def ends(self, input_ids: Tensor) -> bool:
        """Returns whether these ids end with what was read; true where that cannot be told."""
        if not isinstance(self.ids_RT, Tensor):  # it has read vectors
            return True
        columns, rows = self.ids_RT.shape[1], input_ids.to(self.ids_RT.device)
        if columns > rows.shape[1] or not torch.equal(rows[:, rows.shape[1] - columns :], self.ids_RT):
            return False
        # A run that begins with the same token has fewer before it.
        return not (isinstance(self.mask, Tensor) and self.mask.dim() == 2 and self.mask.shape[1] < rows.shape[1])


class KNNLogitsProcessor(Weighted):
    """Mixes the nearest neighbours into the next-token distribution of a model of transformers.

    It listens to the model from when it is made until ``close``, or the end of the ``with`` block; after that it is
    refused.

    Args:
        model: of ``AutoModelForCausalLM``.
        directory: that the model was loaded from, whose weights and tokenizer must be the datastore's. What is compared
            are the files there: weights that were changed after loading are not seen. None takes the caller's word for
            it, and compares widths only.
        knn: the neighbours, a ``knnlm.KNN`` or an open ``KNN_Dstore``.

    Raises:
        CheckpointError: the model's layers are not found, or the directory is none of a model.
        ConfigError: ``knn`` is none, or the model has no vectors of the datastore's type.
        MismatchError: the datastore is another model's.
    """

    def __init__(self, model: Any, directory: str | Path | None, knn: MemoryConfig) -> None:
        if not hasattr(knn, "open_for"):
            raise ConfigError(
                f"knn must be knnlm.KNN(datastore, index) or an open KNN_Dstore, but is {type(knn).__name__}"
            )
        _require_model(model, directory)
        named = parse_key_type(getattr(knn, "key_type", None) or LAST_FFN_INPUT)
        self._catcher = KeyCatcher(model, named.of(len(layers_of(model))))
        body = body_of(model)
        self._handle = body.register_forward_hook(self._keep, with_kwargs=True)
        self._is_closed = False
        self._query_RC: Tensor | None = None
        self._read: _Read | None = None
        try:
            with torch.no_grad():
                body(probe_ids(model), use_cache=False)
            self.memory, self._lmbda = knn.open_for(self._identity(directory))
        except BaseException:
            self.close()
            raise
        self._query_RC = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Returns ln p of every word by model and neighbours, float32 ``[R, V]``; what is forbidden stays forbidden.

        Args:
            input_ids: int64 ``[R, T]``, which the model has just read, or the end of them.
            scores: logits of the step, or their log-softmax, ``[R, V]``.

        Raises:
            ConfigError: it was closed, or the model has not just computed these rows, or has read other ids since.
        """
        if self._is_closed:
            raise ConfigError(
                "this KNNLogitsProcessor listens to the model no longer: its with block has ended, or close() was"
                " called; call model.generate within the block, or make another"
            )
        query_RC, self._query_RC = self._query_RC, None
        if query_RC is None or len(query_RC) != len(scores):
            found = "none" if query_RC is None else str(len(query_RC))
            raise ConfigError(
                f"the model's vectors of {len(scores)} rows are needed, but {found} are there; put the processor into"
                f" model.generate(…, logits_processor=…) of the model that it was made with, {_NOT_WITH}"
            )
        if self._read is not None and not self._read.ends(input_ids):
            raise ConfigError(
                "the model's vectors are needed for the tokens of this step, but its last run was of others; generate"
                f" {_NOT_WITH}"
            )
        log_p_RV = scores.float().log_softmax(-1)
        specials_R4 = log_p_RV.new_full((len(log_p_RV), SHIFT), -torch.inf)
        mixture = NextTokenMixture([(self.memory, self.lmbda)])
        mixed_RN = mixture.mixed(torch.cat([specials_R4, log_p_RV], 1), query_RC.float())
        mixed_RV = mixed_RN[:, SHIFT:].to(scores.device, torch.float32)
        return mixed_RV.masked_fill(scores == -torch.inf, -torch.inf)

    def close(self) -> None:
        """Stops listening to the model."""
        self._is_closed = True
        self._handle.remove()
        self._catcher.remove()

    def __enter__(self) -> "KNNLogitsProcessor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._query_RC = self._catcher.take(output.last_hidden_state)[:, -1]
        self._read = _Read(kwargs.get("input_ids", args[0] if args else None), kwargs.get("attention_mask"))

    def _identity(self, directory: str | Path | None) -> ModelIdentity:
        assert self._query_RC is not None
        width, key_type = int(self._query_RC.shape[1]), self._catcher.key_type.name
        if directory is None:
            return ModelIdentity(key_dimension=width, key_type=key_type)
        weights = read_model_directory(directory).weights_sha256
        return ModelIdentity(None, weights, None, width, key_type, tokenizer_sha256(directory))


def _require_model(model: Any, directory: str | Path | None) -> None:
    """Raises CheckpointError for what is no language model of transformers, or no directory of one."""
    if not all(hasattr(model, name) for name in ("base_model", "config", "generate")):
        raise CheckpointError(f"model must be of AutoModelForCausalLM, but is {type(model).__name__}; load it by that")
    if directory is not None and not is_model_directory(directory):
        raise CheckpointError(
            f"directory must be that of the model, with its config.json, but {directory} is none; give the one that it"
            " was loaded from, or None"
        )
