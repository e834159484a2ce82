"""Scores of words, by a model's own code behind its layers: the head, and whatever scale or cap comes after it.

The model is run with its layers left out: their place is taken by a function that returns the hidden states that are
to be scored. So every family is right, also one with a ``logit_scale`` or a soft cap.

N columns, C width, V words as the model counts them.
"""

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fairseq.errors import CheckpointError
from fairseq.models.huggingface.keys import probe_ids
from fairseq.models.huggingface.structure import body_of, family_of
from fairseq.modules.adaptive_softmax import log_sum_and_entropy

# Most bytes of float32 scores at once: rows are taken in chunks, whatever the batch.
LOGITS_BYTES = 64 << 20
# How far the scores of the model's run may be from these, as a share of the largest one.
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-8}
CLOSE_IN_HALF = 0.03


class Head:
    """The part of a model behind its layers.

    Args:
        model: of transformers, in evaluation mode.

    Raises:
        CheckpointError: the scores are not those of the model's own run, which is tried on a few ids.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._body = model, body_of(model)
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
        # OPT's head goes round the body, and asks the decoder in it.
        self._layers = [self._body, *([decoder] if decoder not in (None, model, self._body) else [])]
        self._lock = threading.Lock()  # two threads must not take each other's hidden states
        ids_BT = probe_ids(model)
        with torch.no_grad():
            wanted_BTV = model(ids_BT, use_cache=False).logits.float()
            output = self._body(ids_BT, use_cache=False)
            self._output_type, hidden_BTC = type(output), output.last_hidden_state
            self.num_words = int(wanted_BTV.shape[-1])
            self.dtype = hidden_BTC.dtype
            self._check(self.logits(hidden_BTC.flatten(0, 1)), wanted_BTV.flatten(0, 1))

    def logits(self, features_NC: Tensor) -> Tensor:
        """Returns the scores of every word, float32 ``[N, V]``."""
        hidden_1NC = features_NC.to(self.dtype)[None]
        ids_1N = torch.zeros(hidden_1NC.shape[:2], dtype=torch.int64, device=hidden_1NC.device)
        reached = []

        def instead(*args: Any, **kwargs: Any) -> Any:
            reached.append(True)
            return self._output_type(last_hidden_state=hidden_1NC)

        with self._lock:
            own = [vars(part).get("forward") for part in self._layers]
            try:
                for part in self._layers:
                    part.forward = instead
                with torch.autocast(hidden_1NC.device.type, enabled=False):
                    logits_NV: Tensor = self._model(ids_1N, use_cache=False).logits[0]
            finally:
                for part, forward in zip(self._layers, own, strict=True):
                    vars(part).pop("forward", None)
                    if forward is not None:
                        part.forward = forward
        if not reached:
            raise CheckpointError(
                f"a {family_of(self._model)} model ({type(self._model).__name__}) does not run the part that is its"
                " layers (base_model), and cannot be used"
            )
        return logits_NV.float()

    def chunks(self, num_rows: int) -> Iterator[slice]:
        """Yields slices of so few rows that their scores need no more than ``LOGITS_BYTES``."""
        step = max(LOGITS_BYTES // (4 * self.num_words), 1)
        for start in range(0, num_rows, step):
            yield slice(start, start + step)

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns ln p of a word each, float32 ``[N]``; target ids as the model counts them."""
        log_p_N = features_NC.new_empty(len(features_NC), dtype=torch.float32)
        for rows in self.chunks(len(features_NC)):
            logits_NV = self.logits(features_NC[rows])
            at_target_N = logits_NV.gather(1, target_N[rows, None])[:, 0]
            log_p_N[rows] = at_target_N - logits_NV.logsumexp(1)
        return log_p_N

    def target_and_certainty(self, features_NC: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns ln p of a word each, the largest ln p, and the entropy, nats, float32 ``[N]`` each, in one pass."""
        log_p_N, largest_N, entropy_N = features_NC.new_empty((3, len(features_NC)), dtype=torch.float32)
        for rows in self.chunks(len(features_NC)):
            logits_NV = self.logits(features_NC[rows])
            log_sum_N, entropy_N[rows] = log_sum_and_entropy(logits_NV)
            log_p_N[rows] = logits_NV.gather(1, target_N[rows, None])[:, 0] - log_sum_N
            largest_N[rows] = logits_NV.amax(1) - log_sum_N
        return log_p_N, largest_N, entropy_N

    def _check(self, found_NV: Tensor, wanted_NV: Tensor) -> None:
        largest = float(wanted_NV.abs().max())
        away = float((found_NV - wanted_NV).abs().max())
        if not away <= CLOSE.get(self.dtype, CLOSE_IN_HALF) * largest:  # also where something is NaN
            raise CheckpointError(
                f"a {family_of(self._model)} model ({type(self._model).__name__}) must score words as its own run does,"
                f" but is {away:.3g} away from scores up to {largest:.3g}; its weights are not finite, or it cannot be"
                " used"
            )
