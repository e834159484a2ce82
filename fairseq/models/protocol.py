"""What a model is to the rest of the code: who it is, and what it answers.

B batch, T time, S scored time, C width, N scored tokens.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class ModelIdentity:
    """Values that identify a model; None where one is not known.

    Attributes:
        dictionary_sha256: of the dictionary.
        weights_sha256: of the weights.
        vocabulary_size: ids of the dictionary.
        key_dimension: width of a context vector.
        key_type: which vectors are meant: ``last_ffn_input``.
    """

    dictionary_sha256: str | None = None
    weights_sha256: str | None = None
    vocabulary_size: int | None = None
    key_dimension: int | None = None
    key_type: str | None = None


@dataclass(frozen=True)
class DecoderOutput:
    """What the layers of a model give.

    Attributes:
        features_BSC: what the output layer takes.
        ffn_input_BSC: input of the last layer's feed-forward network: the context vectors.
    """

    features_BSC: Tensor
    ffn_input_BSC: Tensor


class LanguageModel(Protocol):
    """A model that scores; see ``TransformerLanguageModel`` for what else one may have."""

    def __call__(self, source_BT: Tensor, first: int) -> DecoderOutput:
        """Returns the outputs of the columns from ``first`` on."""
        ...

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, ``[N]``."""
        ...

    def certainty(self, features_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest log-probability and the entropy over the vocabulary, nats, ``[N]`` each."""
        ...
