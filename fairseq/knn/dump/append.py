"""Appending the rows of a further text to a datastore: ``--save-knnlm-dstore --append``.

    keys, values    [ rows of the manifest ][ rows that are being appended … ]
    PREFIX.json         the datastore as it was, in use until the last row is on the disk; then replaced
    PREFIX.append.json  the manifest that it will have, and how many rows are safely there

A killed run goes on where its own ``PREFIX.append.json`` says; any other append cuts the files back to the manifest's
rows first. The model, the dictionary and the keys' type must be the datastore's; the text may be any, and is recorded
as a segment (fairseq/knn/datastore/manifest.py).
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.datastore.format import append_path, row_files
from fairseq.knn.datastore.identity import flag_of, in_words
from fairseq.knn.datastore.manifest import DatastoreManifest, Segment, read_manifest
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore

logger = logging.getLogger(__name__)

# What the rows of one datastore have in common.
_IN_COMMON = {
    "dimension": "keys of width",
    "key_type": "keys of type",
    "key_dtype": "keys of",
    "vocabulary_size": "a vocabulary of",
    "dictionary_sha256": "dictionary",
    "weights_sha256": "model weights",
}
_CUT = ("sample_break_mode", "tokens_per_sample", "context_window", "computed_in", "bos_in_front")


def open_target(prefix: Path, new: DatastoreManifest) -> tuple[Datastore, DatastoreManifest | None]:
    """Returns the datastore, and the manifest that it will have with the rows of ``new`` behind its own.

    None in place of that where these rows are there already.

    Args:
        prefix: of the datastore.
        new: the manifest that a datastore of the new text alone would have.

    Raises:
        DatastoreError: there is no finished datastore with a manifest.
        MismatchError: the new rows are of another model or dictionary, or of another type.
    """
    store = Datastore.open(prefix)
    manifest = store.require_manifest()
    if manifest.value_dtype == "int16":
        raise DatastoreError(f"{prefix} has int16 values, which are no longer written; fairseq-knnlm adopt widens them")
    if new.key_dtype == "float32":  # which --dstore-fp16 need not say again
        new = new.replace(key_dtype=manifest.key_dtype)
    for name, words in _IN_COMMON.items():
        have, want = getattr(manifest, name), getattr(new, name)
        if have != want:
            raise MismatchError(
                f"{prefix} was written with {words} {str(have)[:12]}, but the rows to append have {str(want)[:12]}; use"
                " the datastore's own data directory, checkpoint and flags, or write another datastore"
            )
    segments = manifest.all_segments
    if any(segment.is_of(new.settings) for segment in segments):
        _tell_there(prefix, store, segments, new)
        return store, None
    for segment in segments:
        if segment.settings.get("data_sha256") == new.settings.get("data_sha256"):
            logger.warning("%s has rows of this text already, cut in another way: %s", prefix, segment.name)
    for name in _CUT:
        if segments[0].settings.get(name) != new.settings.get(name):
            logger.warning(
                "%s was written with %s %s, but the appended rows have %s: their keys mean something else",
                prefix,
                flag_of(name),
                in_words(segments[0].settings.get(name)),
                in_words(new.settings.get(name)),
            )
    added = Segment(new.settings, new.rows, RowRanges.of([[0, new.rows]]))
    return store, manifest.with_segments([*segments, added])


def _tell_there(prefix: Path, store: Datastore, segments: Sequence[Segment], new: DatastoreManifest) -> None:
    """Says that the rows of a text are there already, and how many of them are forgotten."""
    first, num_forgotten = 0, 0
    for segment in segments:
        if segment.is_of(new.settings):
            num_forgotten += store.forgotten.within(first, first + segment.rows).num_rows
            num_forgotten += segment.source_rows - segment.rows  # taken out by a compaction
        first += segment.rows
    logger.info("%s has the rows of this text already; nothing to do", prefix)
    if num_forgotten:
        logger.warning(
            "of its rows, %d stay forgotten; after forgetting all of them and --compact, it can be appended anew",
            num_forgotten,
        )


def appended_so_far(prefix: Path, store: Datastore, target: DatastoreManifest) -> DatastoreManifest:
    """Returns the target as far as an earlier run of the same append has come: at least to the datastore's rows."""
    earlier = read_manifest(append_path(prefix), DatastoreManifest)
    if (
        earlier is None
        or earlier.rows_id != target.rows_id
        or not store.rows <= earlier.rows_written <= target.rows
        or any(path.stat().st_size < earlier.rows_written * size for path, size in row_files(prefix, target.layout))
    ):
        return target.replace(state="writing", rows_written=store.rows)
    return target.replace(
        state="writing",
        rows_written=earlier.rows_written,
        keys_sha256=earlier.keys_sha256,
        values_sha256=earlier.values_sha256,
    )
