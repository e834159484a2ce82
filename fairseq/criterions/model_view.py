"""A model as a criterion written for fairseq sees it.

B batch, T time, N = B·T, C width, V words.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fairseq.data.dictionary import EOS
from fairseq.errors import ConfigError
from fairseq.models.protocol import normalized_probs

Extra = dict[str, Tensor]


class ModelView:
    """A thin view; whatever it does not have itself (``decoder``, ``training``, ``parameters()``) is the model's.

    Args:
        model: with ``forward(source_BT, first)`` and ``log_prob``, as docs/plugins.md has them.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        if not hasattr(model, "log_prob"):
            raise ConfigError(
                f"{type(model).__name__} has no log_prob(features_NC), the log-probability of every word, which this"
                " criterion needs (docs/plugins.md)"
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, src_tokens: Tensor, src_lengths: Tensor | None = None, **more: Any) -> tuple[Tensor, Extra]:
        """Returns scores of the next word ``[B, T, V]`` behind each token, and the features they are made of.

        With an adaptive softmax, which has no such scores, the features stand in their place, as in fairseq.
        """
        extra = self.extract_features(src_tokens, src_lengths)[1]
        if self._model.has_adaptive_softmax:
            return extra["features"], extra
        scores = getattr(self._model, "logits", self._model.log_prob)
        shape = extra["features"].shape[:2]
        return scores(extra["features"].flatten(0, 1)).view(*shape, -1), extra

    def extract_features(self, src_tokens: Tensor, src_lengths: Tensor | None = None) -> tuple[Tensor, Extra]:
        """Returns what the output layer takes, ``[B, T, C]``, and with it the context vectors."""
        if src_lengths is not None:
            after_BT = torch.arange(src_tokens.shape[1], device=src_tokens.device) >= src_lengths[:, None]
            src_tokens = src_tokens.masked_fill(after_BT, EOS)  # as a model reads padding
        out = self._model(src_tokens, 0)
        return out.features_BSC, {"features": out.features_BSC, "context_vectors": out.ffn_input_BSC}

    def get_normalized_probs(self, net_output: tuple[Tensor, Any], log_probs: bool, sample: Any = None) -> Tensor:
        """Returns p or ln p of every word, ``[B, T, V]``, in float32."""
        return normalized_probs(self._model, net_output[0], log_probs=log_probs)

    def get_targets(self, sample: Mapping[str, Any], net_output: Any) -> Tensor:
        """Returns the target of each position, ``[B, T]``."""
        target: Tensor = sample["target"]
        return target

    def max_positions(self) -> int:
        """Returns the longest row in tokens."""
        return int(self._model.max_positions)
