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
from fairseq.knn.inspect.findings import OK, SKIPPED, WARNING, Counted, Findings
from fairseq.knn.inspect.inputs import Inputs
from fairseq.knn.neighbours.several_stores import Values
from fairseq.knn.retrieval.datastores import RetrievalPart
from fairseq.knn.retrieval.results import read_results
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.models.protocol import ModelIdentity
from fairseq.runtime.files import file_sha256
from fairseq.runtime.progress import Progress

BLOCK_NEIGHBOURS = 1 << 21
AGAIN = "save the retrieval again"
IDS, DISTANCES, ORDER = "retrieval ids", "retrieval distances", "retrieval order"
LOG_PROBS, HITS, STORE = "retrieval log-probabilities", "retrieval hits", "retrieval datastore"


class Faults:
    """Tokens that are not what they must be, counted by what is wrong with them."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Counted]] = {}

    def note(self, what: str, problem: str, bad_N: Any, first: int) -> None:
        """Counts the tokens of a block that begins with token ``first``."""
        self._found.setdefault(what, {}).setdefault(problem, Counted()).note(bad_N, first)

    def judge(self, findings: Findings) -> None:
        """Makes a finding of everything that was looked at."""
        for what, problems in self._found.items():
            said = [
                f"{bad.count} tokens {text} (the first is {bad.first})" for text, bad in problems.items() if bad.count
            ]
            findings.judge(what, f"{', '.join(said)}; {AGAIN}" if said else None, "as they must be")


def check_retrieval(findings: Findings, directory: Path, inputs: Inputs, stores: Sequence[Datastore]) -> None:
    """Checks a retrieval, alone and against whatever else is given or named in it."""
    retrieval = findings.opened("retrieval", lambda: Retrieval.open(directory))
    if retrieval is None:
        return
    findings.add(OK, "retrieval", f"{len(retrieval)} tokens of {retrieval.manifest.split}, k {retrieval.k}")
    _check_files(findings, retrieval)
    values = findings.opened(STORE, lambda: _values(findings, retrieval, stores))
    faults = Faults()
    with Progress("read retrieval", len(retrieval), "tokens") as progress:
        for rows in _blocks(retrieval):
            _look_at(faults, retrieval, rows, values)
            progress.advance(rows.stop - rows.start)
    faults.judge(findings)
    _check_text(findings, retrieval, inputs.directory)
    identity = retrieval.manifest.identity
    model = ModelIdentity(identity.dictionary_sha256, identity.weights_sha256)
    findings.belongs("retrieval", model, inputs.model, ("dictionary", "weights"))
    sections = findings.opened("retrieval results", lambda: read_results(directory))
    if sections is not None:
        findings.add(OK, "retrieval results", ", ".join(sections) if sections else "none was kept")


def _blocks(retrieval: Retrieval) -> Iterator[slice]:
    step = max(BLOCK_NEIGHBOURS // retrieval.k, 1)
    for start in range(0, len(retrieval), step):
        yield slice(start, min(start + step, len(retrieval)))


def _look_at(faults: Faults, retrieval: Retrieval, rows: slice, values: Values | None) -> None:
    """Notes what is wrong with a block of tokens, by its arrays alone and by the datastore's values."""
    first = rows.start
    ids_NK, distances_NK = np.asarray(retrieval.ids_NK[rows]), np.asarray(retrieval.distances_NK[rows])
    hits_NK = retrieval.hits_NK(rows)
    num_rows = retrieval.manifest.datastore.rows
    outside_NK = ids_NK < -1
    if num_rows is not None:
        outside_NK |= ids_NK >= num_rows
    faults.note(IDS, "have a row outside the datastore", outside_NK.any(1), first)
    sorted_NK = np.sort(ids_NK, 1)
    twice_N = ((sorted_NK[:, 1:] == sorted_NK[:, :-1]) & (sorted_NK[:, 1:] >= 0)).any(1)
    faults.note(IDS, "have a neighbour twice", twice_N, first)
    # Not "smaller than the one before": that would let NaN pass.
    in_order_N = (distances_NK[:, 1:] >= distances_NK[:, :-1]).all(1) & ~np.isnan(distances_NK[:, 0])
    faults.note(DISTANCES, "do not have their neighbours nearest first", ~in_order_N, first)
    faults.note(
        DISTANCES, "have a distance without a neighbour", ((ids_NK < 0) & ~np.isinf(distances_NK)).any(1), first
    )
    faults.note(HITS, "have a hit without a neighbour", (hits_NK & (ids_NK < 0)).any(1), first)
    if values is not None:
        there_NK = (ids_NK >= 0) & (ids_NK < len(values))
        same_NK = values.of(ids_NK) == retrieval.target_N[rows, None]
        faults.note(HITS, "differ from the datastore's values", ((same_NK != hits_NK) & there_NK).any(1), first)
    lm_N = np.asarray(retrieval.lm_log_p_N[rows])
    faults.note(LOG_PROBS, "have one above 0, or none", ~(lm_N <= 0), first)
    before = slice(max(first - 1, 0), rows.stop)
    blocks_N, positions_N = np.asarray(retrieval.block_N[before]), np.asarray(retrieval.position_N[before])
    back_N = np.diff(blocks_N) < 0
    back_N |= (np.diff(blocks_N) == 0) & (np.diff(positions_N) <= 0)
    faults.note(ORDER, "are before the one that precedes them", back_N, before.start + 1)


def _check_files(findings: Findings, retrieval: Retrieval) -> None:
    """Checks the checksum of each file."""
    recorded = {name: file.sha256 for name, file in retrieval.manifest.files.items() if file.sha256}

    def damage() -> str | None:
        damaged = []
        sizes = {name: (retrieval.directory / name).stat().st_size for name in recorded}
        with Progress("checksums of the retrieval", sum(sizes.values()), "bytes") as progress:
            for name, sha256 in recorded.items():
                if file_sha256(retrieval.directory / name) != sha256:
                    damaged.append(name)
                progress.advance(sizes[name])
        problem = f"{retrieval.directory} is damaged in {', '.join(damaged)}; restore it, or {AGAIN}"
        return problem if damaged else None

    unrecorded = None if recorded else "the manifest records none"
    findings.checksum("retrieval", damage, f"{len(recorded)} files", unrecorded=unrecorded)


def _values(findings: Findings, retrieval: Retrieval, stores: Sequence[Datastore]) -> Values | None:
    """Returns the values of the datastores that were given, else of those that the manifest names, if there.

    Raises:
        MismatchError: those that were given are not the retrieval's.
    """
    parts = retrieval.parts
    if stores and len(stores) != len(parts):
        raise MismatchError(
            f"retrieved from {len(parts)} datastores, but compared with {len(stores)}; give --dstore-filename all of"
            " its own"
        )
    arrays = []
    for number, part in enumerate(parts):
        store = stores[number] if stores else _named(findings, part)
        if store is None:
            return None
        _check_store(findings, part, store)
        arrays.append(store.values_N)
    return Values([part.offset for part in parts], arrays)


def _named(findings: Findings, part: RetrievalPart) -> Datastore | None:
    try:
        return Datastore.open(part.prefix, load_keys=False)
    except (FairseqError, OSError) as err:  # nobody asked about it: it is not compared
        findings.add(SKIPPED, STORE, f"{part.prefix} cannot be opened ({err})")
        return None


def _check_store(findings: Findings, part: RetrievalPart, store: Datastore) -> None:
    """Tells that a datastore is the retrieval's, or that neither knows; raises MismatchError where it is not."""
    if part.store_id is None or store.store_id is None:
        findings.add(SKIPPED, STORE, "not recorded with the retrieval, or has no identity")
    elif part.store_id == store.store_id:
        findings.add(OK, STORE, f"{store.store_id[:12]}, {store.rows} rows")
    elif _is_of_its_rows(part, store):
        text = f"retrieved from {part.store_id[:12]}, an earlier state of {store.prefix}, now {store.store_id[:12]}:"
        findings.add(WARNING, STORE, f"{text} rows were appended or forgotten since; {AGAIN} for the present one")
    else:
        raise MismatchError(
            f"retrieved from {part.store_id[:12]}, but {store.prefix} is {store.store_id[:12]}; give --dstore-filename"
            " its own"
        )


def _is_of_its_rows(part: RetrievalPart, store: Datastore) -> bool:
    """Returns whether a retrieval's rows are the datastore's first ones, whatever is forgotten of them."""
    if store.manifest is None:
        return False
    return any(state.rows_id == part.rows_id for state in store.manifest.earlier_states())


def _check_text(findings: Findings, retrieval: Retrieval, directory: Path | None) -> None:
    """Checks the targets against the scored text: in the data that was given, else where the manifest says."""
    what, named = "retrieval targets", Path(retrieval.manifest.data)
    prefix = directory / named.name if directory is not None else named
    if not Path(f"{prefix}.idx").is_file():
        findings.add(SKIPPED, what, f"the text is not at {prefix}; give the data directory")
        return
    with findings.failing(what):
        tokens_T = MMapIndexedDataset(prefix).tokens
        position_N, target_N = retrieval.position_N, retrieval.target_N
        outside_N = (position_N < 0) | (position_N >= len(tokens_T))
        wrong_N = outside_N | (tokens_T[np.where(outside_N, 0, position_N)] != target_N)
        problem = f"{int(wrong_N.sum())} of {len(retrieval)} are not what {prefix} has there; give the data of the run"
        findings.judge(what, problem if wrong_N.any() else None, f"those of {prefix}")
