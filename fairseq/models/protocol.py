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


class ModelOutput(Protocol):
    """What the layers of a model give."""

    @property
    def features_BSC(self) -> Tensor:  # noqa: N802 - a tensor by its shape
        """What the output layer takes."""
        ...

    @property
    def ffn_input_BSC(self) -> Tensor:  # noqa: N802
        """Input of the last layer's feed-forward network: the context vectors."""
        ...


class LanguageModel(Protocol):
    """A model that scores; see ``TransformerLanguageModel`` for what else one may have."""

    def __call__(self, source_BT: Tensor, first: int) -> ModelOutput:
        """Returns the outputs of the columns from ``first`` on."""
        ...

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, ``[N]``."""
        ...

    def certainty(self, features_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest log-probability and the entropy over the vocabulary, nats, ``[N]`` each."""
        ...
