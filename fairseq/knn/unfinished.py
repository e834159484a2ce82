"""The names of what an unfinished append or compaction has written beside a datastore.

PREFIX.append.json             the manifest that the datastore will have; rows behind the old ones are its own
PREFIX.compact_keys.npy, …     the compacted datastore, a datastore itself until it takes the old one's place
INDEX.compact, INDEX.compact.json    its index, likewise
"""

from pathlib import Path


def append_path(prefix: str | Path) -> Path:
    """Returns where an append's progress is kept."""
    return Path(f"{prefix}.append.json")


def compact_prefix(prefix: str | Path) -> Path:
    """Returns the prefix of a compacted datastore (or the name of a compacted index) that is being written."""
    return Path(f"{prefix}.compact")


def compaction_begun(prefix: str | Path) -> bool:
    """Returns whether a compaction has written something that has not taken its place yet."""
    return Path(f"{compact_prefix(prefix)}.json").is_file()
