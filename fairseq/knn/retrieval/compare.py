"""Checks that two saved retrievals are of the same model, datastore and search.

Only then can one test what was chosen on the other.
"""

import logging
from collections.abc import Iterator
from typing import Any

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.identity import mismatch, short
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.storage.records import as_json

logger = logging.getLogger(__name__)

_IDS = ("weights_sha256", "dictionary_sha256", "store_id", "index_sha256")
# Of a retrieval's settings: what changes numbers by rounding only, and what only the datastore's own text needs.
_MAY_DIFFER = ("computed_in", "exclude_own_row")


def warn_if_outdated(retrieval: Retrieval) -> None:
    """Warns where a datastore has changed since the retrieval was saved."""
    for line in outdated_lines(retrieval):
        logger.warning("%s", line)


def outdated_lines(retrieval: Retrieval) -> Iterator[str]:
    """Yields a warning for each datastore that has changed since the retrieval was saved."""
    for part in retrieval.parts:
        try:
            found = read_manifest(manifest_path(part.prefix), DatastoreManifest)
        except (DatastoreError, OSError, ValueError):
            continue  # whatever that is, it is not needed here
        if found is None or part.store_id is None or found.state != "complete" or found.store_id == part.store_id:
            continue
        yield (
            f"{retrieval.directory} was saved with datastore {part.store_id[:12]}, but {part.prefix} is"
            f" {found.store_id[:12]} now: rows were appended or forgotten, or it is another one. What follows is of its"
            " earlier state; save the retrieval again for the present one"
        )


def require_comparable(retrieval: Retrieval, other: Retrieval, *, allow_mismatch: bool) -> None:
    """Raises MismatchError, or warns where that is allowed, unless the two can be compared."""
    one, two = (_compared(saved) for saved in (retrieval, other))
    for name in one:
        if one[name] != two[name]:
            mismatch(
                f"{other.directory} was saved with {name} {short(two[name])}, but {retrieval.directory} with"
                f" {short(one[name])}; save both with the same flags, model, datastore and index",
                allow_mismatch,
            )
    if retrieval.manifest.identity.data_sha256 == other.manifest.identity.data_sha256:
        logger.warning(
            "%s is of the same text as %s: it is no test of the choice", other.directory, retrieval.directory
        )


def _compared(retrieval: Retrieval) -> dict[str, Any]:
    """Returns what must be the same: the ids of model, dictionary, datastore and index, and the settings."""
    ids = {name: getattr(retrieval.manifest.identity, name) for name in _IDS}
    settings = {**as_json(retrieval.manifest.settings), "k": retrieval.k}
    return {**ids, **{name: settings[name] for name in sorted(settings) if name not in _MAY_DIFFER}}
