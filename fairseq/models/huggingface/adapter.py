"""A model of transformers behind the protocol of ``fairseq.models.protocol``.

    ids here ─ less 4 ─ the model's layers ─┬─ last hidden state ─ head ─ ln p, the columns of fairseq's specials −∞
                                            └─ the vector that is a key, caught by a hook

B rows, T time, S scored time, C width, N columns, V words of the dictionary: the head's rows and 4.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fairseq.models.huggingface.structure import body_of, feed_forward_of, layers_of
from fairseq.models.protocol import DecoderOutput
from fairseq.text.model_tokenizer import SHIFT


class HuggingFaceModel(nn.Module):
    """A causal language model of transformers.

    Args:
        model: of ``AutoModelForCausalLM``, in evaluation mode.
        opening_id: id here of what the model reads where a text has no token yet; None where it has no such token.
        key_type: which vector is the key.
    """

    has_adaptive_softmax = False
    longest_row: int | None = None

    def __init__(self, model: Any, opening_id: int | None, key_type: str = "last_ffn_input") -> None:
        super().__init__()
        self.model, self.key_type, self.opening_id = model, key_type, opening_id
        self.max_positions = int(getattr(model.config, "max_position_embeddings", 1 << 20))
        self._key: Tensor | None = None
        feed_forward_of(layers_of(model)[-1]).register_forward_pre_hook(self._keep, with_kwargs=True)

    @property
    def key_dimension(self) -> int:
        """Width of a key."""
        return int(self.model.config.hidden_size)

    def forward(self, source_BT: Tensor, first: int = 0) -> DecoderOutput:
        """Returns the outputs of the columns from ``first`` on, for ids ``[B, T]``, right-padded with anything."""
        hidden_BTC = body_of(self.model)(self._ids_there(source_BT), use_cache=False).last_hidden_state
        assert self._key is not None
        key_BTC, self._key = self._key.view(*source_BT.shape, -1), None
        return DecoderOutput(hidden_BTC[:, first:], key_BTC[:, first:])

    def log_prob(self, features_NC: Tensor) -> Tensor:
        """Returns ln p of every word, float32 ``[N, V]``."""
        log_p_NV = self._logits(features_NC).log_softmax(1)
        specials_N4 = log_p_NV.new_full((len(log_p_NV), SHIFT), -torch.inf)
        return torch.cat([specials_N4, log_p_NV], 1)

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns ln p(target), float32 ``[N]``."""
        return self.log_prob(features_NC).gather(1, target_N[:, None])[:, 0]

    def certainty(self, features_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest ln p and the entropy, nats, float32 ``[N]`` each."""
        log_p_NV = self._logits(features_NC).log_softmax(1)
        return log_p_NV.amax(1), -(log_p_NV.exp() * log_p_NV).sum(1)

    def _logits(self, features_NC: Tensor) -> Tensor:
        logits_NV: Tensor = self.model.get_output_embeddings()(features_NC).float()
        return logits_NV

    def _ids_there(self, source_BT: Tensor) -> Tensor:
        opening = (SHIFT if self.opening_id is None else self.opening_id) - SHIFT
        return torch.where(source_BT < SHIFT, opening, source_BT - SHIFT)

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._key = args[0] if args else next(iter(kwargs.values()))
