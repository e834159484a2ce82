"""In words: what a datastore was written from, and how another run differs from that."""

from typing import Any

from fairseq.knn.datastore.manifest import DatastoreManifest

_SETTINGS = ("sample_break_mode", "tokens_per_sample", "context_window", "computed_in", "add_bos_token")
_FLAGS = {"context_window": "--context-window", "sample_break_mode": "--sample-break-mode"}


def differences(there: DatastoreManifest, wanted: DatastoreManifest) -> str:
    """Returns ``' of TEXT by CHECKPOINT; this run has …'``, to stand behind a datastore that is there."""
    old, new = _facts(there), _facts(wanted)
    texts = " and ".join(str(segment.settings.get("data") or "a text") for segment in there.all_segments)
    names = [name for name in old if old[name][0] != new[name][0]]
    if "context_window" in names and None is not _row(there) == _row(wanted):  # the block is what the window leaves
        names.remove("tokens_per_sample")
    others = [_difference(name, old[name], new[name]) for name in names if name != "rows" or names == ["rows"]]
    model = f" by {there.settings['checkpoint']}" if there.settings.get("checkpoint") else ""
    return f" of {texts}{model}{'; this run has ' if others else ''}{', '.join(others)}"


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
        return f"another {name}{f' under the name {new[1]}' if new[1] else ''}"
    return f"{_FLAGS.get(name, name)} {new[1]} instead of {old[1]}"
