"""What a model is to the rest of the code: who it is, and what it answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelIdentity:
    """What tells one model from another; None where it is not known.

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
