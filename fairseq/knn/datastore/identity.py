"""What differs between two identities, or two runs, and who refuses it: a wrong combination yields wrong numbers.

A datastore belongs to a model (weights, dictionary, width and kind of its vectors); an index belongs to a datastore.
Opening files raises what differs, or warns with ``--allow-mismatch``; ``fairseq-knnlm check`` lists it.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest
from fairseq.models.protocol import ModelIdentity

logger = logging.getLogger(__name__)

OWN_KEY_TYPE = "last_ffn_input"  # of models that have one kind of key

# A field of the identity, its words in a message, and what to do where it differs.
_FIELDS = (
    ("key_dimension", "keys of width", "use the model that wrote it"),
    ("vocabulary_size", "a vocabulary of", "use the dictionary that it was written with"),
    ("dictionary_sha256", "dictionary", "use the data directory whose dict.txt it was written with"),
    ("weights_sha256", "model weights", "use the checkpoint that wrote it, or write it again"),
    ("key_type", "keys of type", "give --knn-keytype its own"),
    ("tokenizer_sha256", "tokenizer", "use the model directory whose tokenizer.json it was written with"),
    ("bos_in_front", "BOS in front of each row (--add-bos-token):", "do as the run that wrote it, or write it again"),
)

# What else decides about the rows of a run, and the flags of these settings.
_SETTINGS = ("sample_break_mode", "tokens_per_sample", "context_window", "computed_in", "add_bos_token", "bos_in_front")
_FLAGS = {
    "context_window": "--context-window",
    "sample_break_mode": "--sample-break-mode",
    "bos_in_front": "--add-bos-token",
    "add_bos_token": "--add-bos-token",
}


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
        MismatchError: it was not, or does not say so to a Hugging Face model; with ``allow_mismatch`` a warning, but
            never for keys of another width.
    """
    for name, difference in differences(have, want or ModelIdentity()).items():
        message = f"{prefix} was written with {difference}"
        if name == "key_dimension":
            raise MismatchError(message)
        mismatch(message, allow_mismatch)
    is_of_tokens = want is not None and want.tokenizer_sha256 is not None
    if is_of_tokens and have.tokenizer_sha256 is None and have.dictionary_sha256 is None:
        mismatch(
            f"{prefix} does not say which tokenizer its values are of, but a Hugging Face model's are wanted; give"
            " fairseq-knnlm adopt --data with the text, or write it again",
            allow_mismatch,
        )


def use_keys(model: Any, key_type: str | None) -> None:
    """Has a model give vectors of a type as its keys; None leaves those that it gives.

    Raises:
        CheckpointError: the part of the model that reads them is not found.
        ConfigError: the model has no such vectors.
    """
    if key_type is None and hasattr(model, "require_keys"):
        model.require_keys()
    if key_type is None or key_type == key_type_of(model):
        return
    if not hasattr(model, "use_keys"):
        raise ConfigError(
            f"--knn-keytype {key_type} is for Hugging Face models, but this one's keys are {OWN_KEY_TYPE}; leave it out"
        )
    model.use_keys(key_type)


def recorded_key_type(model: Any, asked: str | None) -> str | None:
    """Returns the name that a type of key is recorded by, of a model that has several; None of None."""
    return model.recorded_key_type(asked) if asked and hasattr(model, "recorded_key_type") else asked


def has_bos_in_front(model: Any) -> bool:
    """Returns whether a model reads a token in front of each row that the row does not hold."""
    return bool(getattr(getattr(model, "reader", None), "adds_bos", False))


def key_type_of(model: Any) -> str:
    """Returns the type of the keys that a model gives."""
    return str(getattr(model, "key_type", OWN_KEY_TYPE))


def stored_bos(prefixes: Iterable[str | Path]) -> bool:
    """Returns whether a datastore's manifest says that BOS stood in front of each row, of any of them."""
    return any(manifest.model.bos_in_front for _, manifest in _manifests(prefixes))


def _manifests(prefixes: Iterable[str | Path]) -> Iterator[tuple[str | Path, DatastoreManifest]]:
    for prefix in prefixes:
        try:
            manifest = read_manifest(manifest_path(prefix), DatastoreManifest)
        except DatastoreError:  # opening it says what is there instead
            continue
        if manifest is not None:
            yield prefix, manifest


def stored_key_type(prefixes: Iterable[str | Path], asked: str | None = None) -> str | None:
    """Returns the type of the keys of some datastores, as their manifests have it; None where none has one.

    Args:
        prefixes: of the datastores.
        asked: ``--knn-keytype`` as it is recorded, for datastores without a manifest.

    Raises:
        MismatchError: they differ, or are not what was asked for.
    """
    found: dict[str, str | Path] = {}
    for prefix, manifest in _manifests(prefixes):
        found.setdefault(manifest.key_type, prefix)
    if len(found) > 1:
        named = " and ".join(f"{prefix} has keys of type {name}" for name, prefix in found.items())
        raise MismatchError(f"{named}: datastores are searched together by keys of one type; give one of them")
    own = next(iter(found), None)
    if own is not None and asked not in (None, own):
        raise MismatchError(f"--knn-keytype is {asked}, but {found[own]} has keys of type {own}; leave it out")
    return own if own is not None else asked


def mismatch(message: str, allow: bool) -> None:
    """Raises MismatchError, or warns where mismatches are allowed."""
    if not allow:
        raise MismatchError(f"{message} (--allow-mismatch goes on regardless)")
    logger.warning("%s (--allow-mismatch: going on)", message)


def flag_of(setting: str) -> str:
    """Returns the flag of a setting that decides about the rows, or its name where it has none."""
    return _FLAGS.get(setting, setting)


def in_words(value: object) -> object:
    """Returns a setting's value as a message has it: yes or no for a truth, which is left out of manifests if no."""
    return {True: "yes", False: "no", None: "no"}[value] if value is None or isinstance(value, bool) else value


def short(value: object) -> str:
    """Returns a checksum's first twelve digits, yes or no for a truth, anything else as it is."""
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return text[:12] if len(text) == 64 else text


def how_runs_differ(there: DatastoreManifest, wanted: DatastoreManifest, who: str = "this run") -> str:
    """Returns ``' of TEXT by CHECKPOINT; this run has …'``, to stand behind a datastore that is there."""
    old, new = _facts(there), _facts(wanted)
    texts = " and ".join(str(segment.settings.get("data") or "a text") for segment in there.all_segments)
    names = [name for name in old if old[name][0] != new[name][0]]
    if "context_window" in names and None is not _row(there) == _row(wanted):  # the block is what the window leaves
        names.remove("tokens_per_sample")
    others = [_difference(name, old[name], new[name]) for name in names if name != "rows" or names == ["rows"]]
    model = f" by {there.settings['checkpoint']}" if there.settings.get("checkpoint") else ""
    return f" of {texts}{model}{f'; {who} has ' if others else ''}{', '.join(others)}"


def _facts(manifest: DatastoreManifest) -> dict[str, tuple[Any, Any]]:
    """Returns what decides about the rows: what must be equal, and what it is called."""
    settings = manifest.settings
    facts = {
        "data": (settings.get("data_sha256"), settings.get("data")),
        "checkpoint": (manifest.weights_sha256, settings.get("checkpoint")),
        "dictionary": (manifest.dictionary_sha256, None),
        "keys in": (manifest.key_dtype, manifest.key_dtype),
        **{name: (settings.get(name), settings.get(name)) for name in _SETTINGS},
    }
    return {**facts, "rows": (manifest.rows, manifest.rows)}


def _row(manifest: DatastoreManifest) -> int | None:
    """Returns the tokens of a row, block and context window, which is the model's; None where that is not known."""
    size, window = (manifest.settings.get(name) for name in ("tokens_per_sample", "context_window"))
    return size + window if isinstance(size, int) and isinstance(window, int) else None


def _difference(name: str, old: tuple[Any, Any], new: tuple[Any, Any]) -> str:
    if old[1] == new[1]:
        return f"another {flag_of(name)}{f' under the name {new[1]}' if new[1] else ''}"
    return f"{flag_of(name)} {in_words(new[1])} instead of {in_words(old[1])}"
