"""Checks everything that goes into a kNN-LM run: each part alone, and that they belong together.

    data ──┬── dictionary hash ──┐
           │                     ├── datastore ── rows, width, store id, recall ── index
           │                     ├── retrieval ── targets, values, hashes of all of them
    checkpoint ── weights hash ──┘

Each part is opened once. Where it cannot be opened, that is one failure, and what would need it is skipped. Of several
datastores each is checked with its index, and all together.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fairseq.config.path_lists import unescaped
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.inspect.config import CheckConfig
from fairseq.knn.inspect.findings import OK, Finding, Findings
from fairseq.knn.inspect.index import check_index, check_index_of, check_shards
from fairseq.knn.inspect.inputs import check_inputs
from fairseq.knn.inspect.retrieval import check_retrieval
from fairseq.knn.inspect.store import check_datastore
from fairseq.knn.neighbours.several_stores import check_together
from fairseq.knn.retrieval.format import MANIFEST as RETRIEVAL_MANIFEST
from fairseq.knn.shards.manifest import is_sharded
from fairseq.storage.files import write_json
from fairseq.storage.marks import FINDINGS
from fairseq.storage.outputs import claim_record


def check_all(config: CheckConfig, show: Callable[[Finding], None]) -> None:
    """Checks what is given and shows each finding.

    Raises:
        ConfigError: an index is given in place of data.
        DatastoreError: at least one check failed.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "overwrite"}
    if config.json is not None:
        claim_record("--json", config.json, FINDINGS, settings, overwrite=config.overwrite)
    findings = Findings(show, fast=config.fast)
    if config.data and config.retrieval is None and (Path(unescaped(config.data)) / RETRIEVAL_MANIFEST).is_file():
        config = dataclasses.replace(config, data=None, retrieval=unescaped(config.data))
    if config.data and is_sharded(config.data):
        raise ConfigError(
            f"{config.data} is an index in shards, not a directory of data; give it as --indexfile {config.data}, with"
            " --dstore-filename"
        )
    inputs = check_inputs(config, findings)
    stores = []
    for prefix, indexfile in config.pairs:
        part = findings.labelled(f"{prefix or indexfile}: " if len(config.pairs) > 1 else "")
        in_shards = Path(indexfile) if indexfile and is_sharded(indexfile) else None
        index = check_index(part, Path(indexfile)) if indexfile and not in_shards else None
        index_width = int(index.index.d) if index is not None else None
        store = check_datastore(config, part, Path(prefix), inputs, index_width) if prefix else None
        if in_shards is not None:
            check_shards(part, in_shards, store)
        if index is not None:
            check_index_of(config, part, index, store)
        stores += [store] if store is not None else []
    if len(stores) > 1:
        with findings.failing("datastores together"):
            check_together(stores)
            findings.add(OK, "datastores together", f"{len(stores)} of one model and dictionary, as far as they say")
    if config.retrieval:
        check_retrieval(findings, Path(config.retrieval), inputs, stores)
    failed, total = findings.num_failed, len(findings.all)
    if config.json is not None:
        found = [asdict(finding) for finding in findings.all]
        write_json(config.json, {"kind": "findings", "failed": failed, "findings": found, "settings": settings})
    if failed:
        raise DatastoreError(f"{failed} of {total} checks failed; see the lines that begin with FAILED")
