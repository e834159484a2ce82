"""Whether saved retrievals are of the same model, datastore and search: one can test what the other chose."""

import logging

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.identity import mismatch
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest
from fairseq.knn.retrieval.datastores import parts_of
from fairseq.knn.retrieval.retrieval import Retrieval

logger = logging.getLogger(__name__)

# Of a retrieval's settings: what changes numbers by rounding only.
_MAY_DIFFER = ("computed_in",)


def warn_if_outdated(retrieval: Retrieval) -> None:
    """Warns where a datastore has changed since: what was saved is of its earlier state."""
    try:
        parts = parts_of(retrieval.manifest, retrieval.directory)
    except DatastoreError:
        return  # whoever needs them complains
    for part in parts:
        try:
            found = read_manifest(manifest_path(part.prefix), DatastoreManifest)
        except (DatastoreError, OSError, ValueError):
            continue  # whatever that is, it is not needed here
        if found is None or part.store_id is None or found.state != "complete" or found.store_id == part.store_id:
            continue
        logger.warning(
            "%s was saved with datastore %s, but %s is %s now: rows were appended or forgotten, or it is another one."
            " What follows is of its earlier state; save the retrieval again for the present one",
            retrieval.directory,
            part.store_id[:12],
            part.prefix,
            found.store_id[:12],
        )


def check_alike(retrieval: Retrieval, other: Retrieval, *, allow_mismatch: bool) -> None:
    """Raises MismatchError, or warns where that is allowed, if what is chosen on one says nothing of the other."""
    for name in ("weights_sha256", "dictionary_sha256", "store_id", "index_sha256"):
        one, two = (text.manifest["identity"].get(name) for text in (retrieval, other))
        if one != two:
            mismatch(
                f"{other.directory} has {name} {str(two)[:12]}, but {retrieval.directory} has {str(one)[:12]}; save"
                " both with the same model, datastore and index",
                allow_mismatch,
            )
    if retrieval.manifest["identity"].get("data_sha256") == other.manifest["identity"].get("data_sha256"):
        logger.warning(
            "%s is of the same text as %s: it is no test of the choice", other.directory, retrieval.directory
        )
    asked = [{**text.manifest["settings"], "k": text.k} for text in (retrieval, other)]
    for name in sorted({*asked[0], *asked[1]} - {*_MAY_DIFFER}):
        one, two = (settings.get(name) for settings in asked)
        if one != two:
            mismatch(
                f"{other.directory} was saved with {name} {two}, but {retrieval.directory} with {one}; save both with"
                " the same flags",
                allow_mismatch,
            )
