"""What differs between two identities, and who refuses it: a wrong combination yields numbers that only look right.

A datastore belongs to a model (weights, dictionary, width and kind of its vectors); an index belongs to a datastore.
Opening files raises what differs, or warns with ``--allow-mismatch``; ``fairseq-knnlm check`` lists it.
"""

import logging
from pathlib import Path

from fairseq.errors import MismatchError
from fairseq.models.protocol import ModelIdentity

logger = logging.getLogger(__name__)

# A field of the identity, its words in a message, and what to do where it differs.
_FIELDS = (
    ("key_dimension", "keys of width", "use the model that wrote it"),
    ("vocabulary_size", "a vocabulary of", "use the dictionary that it was written with"),
    ("dictionary_sha256", "dictionary", "use the data directory whose dict.txt it was written with"),
    ("weights_sha256", "model weights", "use the checkpoint that wrote it, or write it again"),
    ("key_type", "keys of type", "give --knn-keytype its own"),
)


def differences(have: ModelIdentity, want: ModelIdentity) -> dict[str, str]:
    """Returns what differs between what a file was made with and what this run has; None on either side never does.

    For each such field of ``ModelIdentity`` a text: ``dictionary a1…, but this run has b2…; use …``.
    """
    found = {}
    for name, words, remedy in _FIELDS:
        own, other = getattr(have, name), getattr(want, name)
        if own is not None and other is not None and own != other:
            found[name] = f"{words} {short(own)}, but this run has {short(other)}; {remedy}"
    return found


def require_model(
    prefix: str | Path, have: ModelIdentity, want: ModelIdentity | None, *, allow_mismatch: bool = False
) -> None:
    """Checks that the datastore at ``prefix`` was written with the model and dictionary that this run has.

    Raises:
        MismatchError: it was not; with ``allow_mismatch`` a warning, but never for keys of another width.
    """
    for name, difference in differences(have, want or ModelIdentity()).items():
        message = f"{prefix} was written with {difference}"
        if name == "key_dimension":
            raise MismatchError(message)
        mismatch(message, allow_mismatch)


def mismatch(message: str, allow: bool) -> None:
    """Raises MismatchError, or warns where mismatches are allowed."""
    if not allow:
        raise MismatchError(f"{message} (--allow-mismatch goes on regardless)")
    logger.warning("%s (--allow-mismatch: going on)", message)


def short(value: object) -> str:
    """Returns a checksum's first twelve digits, anything else as it is."""
    text = str(value)
    return text[:12] if len(text) == 64 else text
