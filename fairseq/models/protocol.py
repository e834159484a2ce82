"""Types that describe a model to the rest of the code."""

from dataclasses import dataclass


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
