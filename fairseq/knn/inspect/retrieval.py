"""Checks of a saved retrieval: its files, what its arrays may hold, and the texts and datastore that it names.

Tokens are read in blocks, so that memory does not grow with the retrieval.

Legend: N tokens of a block · K neighbours.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import FairseqError, MismatchError
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.inspect.findings import OK, SKIPPED, WARNING, Counted, Findings, reason_of
from fairseq.knn.inspect.inputs import Inputs
from fairseq.knn.neighbours.parts import Values
from fairseq.knn.report.texts import check_targets
from fairseq.knn.retrieval.datastores import RetrievalPart
from fairseq.knn.retrieval.results import read_results
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.models.protocol import ModelIdentity
from fairseq.runtime.progress import Progress

BLOCK_NEIGHBOURS = 1 << 21
AGAIN = "save the retrieval again"
IDS, DISTANCES, ORDER = "retrieval ids", "retrieval distances", "retrieval order"
LOG_PROBS, HITS, STORE = "retrieval log-probabilities", "retrieval hits", "retrieval datastore"
# What a finding says of columns that are sound.
_SOUND = {
    IDS: "in range, distinct",
    DISTANCES: "nearest first",
    HITS: "only of neighbours, as the datastore's values say",
    LOG_PROBS: "all finite, at most 0",
    ORDER: "that of the text",
}


def check_retrieval(findings: Findings, directory: Path, inputs: Inputs, stores: Sequence[Datastore]) -> None:
    """Checks a retrieval, alone and against whatever else is given or named in it."""
    retrieval = findings.opened("retrieval", lambda: Retrieval.open(directory))
    if retrieval is None:
        return
    findings.add(OK, "retrieval", f"{len(retrieval)} tokens of {retrieval.manifest.split}, k {retrieval.k}")
    recorded = {directory / name: file.sha256 for name, file in retrieval.manifest.files.items() if file.sha256}
    findings.checksum_of_files("retrieval", recorded, f"restore it, or {AGAIN}")
    values = findings.opened(STORE, lambda: _values(findings, retrieval, stores))
    _check_tokens(findings, retrieval, values)
    _check_text(findings, retrieval, inputs.directory)
    identity = retrieval.manifest.identity
    model = ModelIdentity(identity.dictionary_sha256, identity.weights_sha256)
    findings.belongs("retrieval", model, inputs.model, ("dictionary", "weights"))
    sections = findings.opened("retrieval results", lambda: read_results(directory))
    if sections is not None:
        findings.add(OK, "retrieval results", ", ".join(sections) if sections else "none was kept")


def _check_tokens(findings: Findings, retrieval: Retrieval, values: Values | None) -> None:
    """Checks every token, and makes a finding of everything that was looked at."""
    found: dict[str, dict[str, Counted]] = {}
    step = max(BLOCK_NEIGHBOURS // retrieval.k, 1)
    with Progress("read retrieval", len(retrieval), "tokens") as progress:
        for start in range(0, len(retrieval), step):
            rows = slice(start, min(start + step, len(retrieval)))
            for what, problem, bad_N in _faults(retrieval, rows, values):
                found.setdefault(what, {}).setdefault(problem, Counted()).note(bad_N, start)
            progress.advance(rows.stop - start)
    for what, problems in found.items():
        said = [f"{bad.count} tokens {text} (the first is {bad.first})" for text, bad in problems.items() if bad.count]
        findings.judge(what, f"{', '.join(said)}; {AGAIN}" if said else None, _SOUND[what])


def _faults(retrieval: Retrieval, rows: slice, values: Values | None) -> Iterator[tuple[str, str, Any]]:
    """Yields what is looked at, what may be wrong with it, and bool ``[N]``: the tokens of a block where it is."""
    ids_NK, distances_NK = np.asarray(retrieval.ids_NK[rows]), np.asarray(retrieval.distances_NK[rows])
    hits_NK, none_NK = retrieval.hits_NK(rows), ids_NK < 0
    num_rows = retrieval.manifest.datastore.rows
    outside_NK = (ids_NK < -1) | (ids_NK >= (np.inf if num_rows is None else num_rows))
    yield IDS, "have a row outside the datastore", outside_NK.any(1)
    sorted_NK = np.sort(ids_NK, 1)
    yield IDS, "have a neighbour twice", ((sorted_NK[:, 1:] == sorted_NK[:, :-1]) & (sorted_NK[:, 1:] >= 0)).any(1)
    # Not "smaller than the one before": that would let NaN pass.
    in_order_N = (distances_NK[:, 1:] >= distances_NK[:, :-1]).all(1) & ~np.isnan(distances_NK[:, 0])
    yield DISTANCES, "do not have their neighbours nearest first", ~in_order_N
    yield DISTANCES, "have a distance without a neighbour", (none_NK & ~np.isinf(distances_NK)).any(1)
    yield HITS, "have a hit without a neighbour", (hits_NK & none_NK).any(1)
    if values is not None:
        differs_NK = (values.of(ids_NK) == retrieval.target_N[rows, None]) != hits_NK
        yield HITS, "differ from the datastore's values", (differs_NK & ~none_NK & (ids_NK < len(values))).any(1)
    yield LOG_PROBS, "have one above 0, or none", ~(np.asarray(retrieval.lm_log_p_N[rows]) <= 0)
    before = slice(max(rows.start - 1, 0), rows.stop)
    block_step_N, position_step_N = np.diff(retrieval.block_N[before]), np.diff(retrieval.position_N[before])
    back_N = (block_step_N < 0) | ((block_step_N == 0) & (position_step_N <= 0))
    # The first token of all has none before it.
    yield ORDER, "are before the one that precedes them", np.pad(back_N, (rows.stop - rows.start - len(back_N), 0))


def _values(findings: Findings, retrieval: Retrieval, stores: Sequence[Datastore]) -> Values | None:
    """Returns the values of the datastores that were given, else of those that the manifest names, if there.

    Raises:
        MismatchError: those that were given are not the retrieval's.
    """
    parts = retrieval.parts
    if not stores:
        try:
            stores = [Datastore.open(part.prefix, load_keys=False) for part in parts]
        except (FairseqError, OSError) as err:  # nobody asked about them: they are not compared
            findings.add(SKIPPED, STORE, f"cannot be opened ({reason_of(err)})")
            return None
    if len(stores) != len(parts):
        raise MismatchError(
            f"retrieved from {len(parts)} datastores, but compared with {len(stores)}; give --dstore-filename all of"
            " its own"
        )
    for part, store in zip(parts, stores, strict=True):
        _check_store(findings, part, store)
    return Values([part.offset for part in parts], [store.values_N for store in stores])


def _check_store(findings: Findings, part: RetrievalPart, store: Datastore) -> None:
    """Tells that a datastore is the retrieval's, or that neither knows; raises MismatchError where it is not."""
    if part.store_id is None or store.store_id is None:
        findings.add(SKIPPED, STORE, "not recorded with the retrieval, or has no identity")
    elif part.store_id == store.store_id:
        findings.add(OK, STORE, f"{store.store_id[:12]}, {store.rows} rows")
    elif store.manifest and any(state.rows_id == part.rows_id for state in store.manifest.earlier_states()):
        text = f"retrieved from {part.store_id[:12]}, an earlier state of {store.prefix}, now {store.store_id[:12]}:"
        findings.add(WARNING, STORE, f"{text} rows were appended or forgotten since; {AGAIN} for the present one")
    else:
        raise MismatchError(
            f"retrieved from {part.store_id[:12]}, but {store.prefix} is {store.store_id[:12]}; give --dstore-filename"
            " its own"
        )


def _check_text(findings: Findings, retrieval: Retrieval, directory: Path | None) -> None:
    """Checks the targets against the scored text: in the data that was given, else where the manifest says."""
    what, named = "retrieval targets", Path(retrieval.manifest.data)
    prefix = directory / named.name if directory is not None else named
    if not Path(f"{prefix}.idx").is_file():
        findings.add(SKIPPED, what, f"the text is not at {prefix}; give the data directory")
        return
    with findings.failing(what):
        check_targets(MMapIndexedDataset(prefix).tokens, retrieval.position_N, retrieval.target_N)
        findings.add(OK, what, f"those of {prefix}")
