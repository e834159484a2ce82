"""Checks of what has happened to a datastore since it was written: rows appended or forgotten, wholly or half."""

from pathlib import Path

import numpy as np

from fairseq.errors import FairseqError
from fairseq.knn.datastore import Datastore
from fairseq.knn.findings import OK, SKIPPED, WARNING, Findings
from fairseq.knn.forgotten import read_forgotten
from fairseq.knn.manifest import DatastoreManifest, manifest_path, read_manifest
from fairseq.knn.provenance import Provenance
from fairseq.knn.segments import segments_of
from fairseq.knn.unfinished import append_path, compaction_begun

_ROWS_AT_ONCE = 1 << 20


def check_sidecars(findings: Findings, prefix: Path, manifest: DatastoreManifest | None) -> None:
    """Checks segments and forgotten rows, as far as the manifest has any, and tells what is unfinished."""
    if manifest is None:
        return
    if manifest.segments:
        with findings.failing("datastore segments"):
            segments = segments_of(manifest, manifest_path(prefix))
            shown = "; ".join(f"{segment.name} {segment.rows} of {segment.source_rows} rows" for segment in segments)
            findings.add(OK, "datastore segments", shown)
    if manifest.forgotten:
        with findings.failing("datastore forgotten"):
            rows = read_forgotten(prefix, manifest)
            text = f"{rows.num_rows} of {manifest.rows} rows, in {len(rows.pairs)} ranges; in the files until --compact"
            findings.add(OK, "datastore forgotten", text)
    if compaction_begun(prefix):
        text = f"was stopped; fairseq-knnlm forget {prefix} --compact goes on"
        findings.add(WARNING, "datastore compaction", text)
    with findings.failing("datastore append"):
        begun = read_manifest(append_path(prefix), DatastoreManifest)
        if begun is not None:
            text = f"of {begun.rows - manifest.rows} rows was stopped; its command, given again, goes on"
            findings.add(WARNING, "datastore append", text)


def check_segments(findings: Findings, store: Datastore) -> None:
    """Checks, where rows were appended or taken out, that they are the tokens of the texts that are recorded."""
    if store.manifest is None or not store.manifest.segments:
        return
    provenance = Provenance(store)
    for number, segment in enumerate(provenance.segments):
        what = f"datastore segment {number}"
        recorded = segment.settings.get("data")
        if not isinstance(recorded, str) or not Path(f"{recorded}.idx").is_file():
            findings.add(SKIPPED, what, f"its text is not at {recorded}")
            continue
        try:
            source = provenance.source(number)
            stop = int(provenance.first_row_S[number + 1])
            for start in range(source.first_row, stop, _ROWS_AT_ONCE):
                provenance.check_values(source, np.arange(start, min(start + _ROWS_AT_ONCE, stop)))
        except (FairseqError, OSError) as err:
            findings.judge(what, str(err), "")
            continue
        findings.add(OK, what, f"all {segment.rows} values are tokens of {recorded}")
