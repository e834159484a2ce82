"""Checks everything that goes into a kNN-LM run: each part alone, and that they belong together.

    data ──┬── dictionary hash ──┐
           │                     ├── datastore ── rows, width, store id, recall ── index
           │                     ├── retrieval ── targets, values, hashes of all of them
    checkpoint ── weights hash ──┘

A part that cannot be opened fails once; what would need it is skipped, and says so. Of several datastores each is
checked with its index, and all together.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.inspect.config import CheckConfig
from fairseq.knn.inspect.findings import OK, Finding, Findings
from fairseq.knn.inspect.index import check_index_file, check_recall
from fairseq.knn.inspect.inputs import CheckedCheckpoint, CheckedData, check_checkpoint, check_data
from fairseq.knn.inspect.retrieval import check_retrieval
from fairseq.knn.inspect.store import check_datastore
from fairseq.knn.neighbours.several_stores import check_together
from fairseq.knn.retrieval.format import MANIFEST as RETRIEVAL_MANIFEST
from fairseq.runtime.files import write_json


def check_all(config: CheckConfig, show: Callable[[Finding], None]) -> None:
    """Checks what is given and shows each finding.

    Raises:
        DatastoreError: at least one check failed.
    """
    findings = Findings(show)
    if config.data and config.retrieval is None and (Path(config.data) / RETRIEVAL_MANIFEST).is_file():
        config = dataclasses.replace(config, data=None, retrieval=config.data)  # the directory is a retrieval
    data = check_data(config, findings) if config.data else None
    checkpoint = check_checkpoint(config, findings, data) if config.path else None
    stores = []
    for prefix, indexfile in config.pairs:
        one = dataclasses.replace(config, dstore_filename=prefix, indexfile=indexfile)
        label = f"{prefix or indexfile}: " if len(config.pairs) > 1 else ""
        store = _check_store_and_index(one, findings.labelled(label), data, checkpoint)
        stores += [store] if store is not None else []
    if len(stores) > 1:
        with findings.failing("datastores together"):
            check_together(stores)
            findings.add(OK, "datastores together", f"{len(stores)} of one model and dictionary, as far as they say")
    if config.retrieval:
        check_retrieval(config, findings, data, checkpoint, stores)
    failed, total = findings.num_failed, len(findings.all)
    if config.json is not None:
        write_json(
            config.json,
            {"failed": failed, "findings": [asdict(finding) for finding in findings.all], "settings": asdict(config)},
        )
    if failed:
        raise DatastoreError(f"{failed} of {total} checks failed; see the lines that begin with FAILED")


def _check_store_and_index(
    config: CheckConfig,
    findings: Findings,
    data: CheckedData | None,
    checkpoint: CheckedCheckpoint | None,
) -> Datastore | None:
    """Checks one datastore and its index, as far as they are given, and returns the datastore if it can be opened."""
    index = check_index_file(config, findings) if config.indexfile else None
    store = None
    if config.dstore_filename:
        store = check_datastore(config, findings, data, checkpoint, index)
    if index is not None:
        check_recall(config, findings, index, store)
    return store
