"""Whether a saved retrieval is of a text that its own datastore holds: its numbers then mean nothing."""

import logging

from fairseq.errors import FairseqError
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.own_rows import OwnText, own_text, own_text_warning
from fairseq.knn.retrieval.retrieval import Retrieval

logger = logging.getLogger(__name__)


def own_text_of(retrieval: Retrieval) -> list[OwnText]:
    """Returns the rows of the scored text that its tokens could find; none where they were told not to.

    A retrieval of an older version does not say; its datastores do, where they still are what they were.
    """
    manifest = retrieval.manifest
    if manifest.settings.exclude_own_row or manifest.settings.drop_top1:
        return []
    if manifest.own_text:
        return manifest.own_text
    stores = []
    for part in retrieval.parts:
        try:
            store = Datastore.open(part.prefix, load_keys=False)
        except (FairseqError, OSError):
            continue  # whatever that is, it is not needed here
        if part.store_id is not None and store.store_id == part.store_id:
            stores.append(store)
    return own_text(stores, manifest.identity.data_sha256)


def own_text_line(retrieval: Retrieval) -> str | None:
    """Returns the warning, None where there is nothing to warn of."""
    found = own_text_of(retrieval)
    return own_text_warning(found, retrieval.manifest.data) if found else None


def warn_if_own_text(retrieval: Retrieval) -> None:
    """Warns where the retrieval is of a text that its datastore holds."""
    line = own_text_line(retrieval)
    if line is not None:
        logger.warning("%s: %s", retrieval.directory, line)
