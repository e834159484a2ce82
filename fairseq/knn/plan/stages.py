"""The stages of a kNN-LM and what each takes on so many machines: work (work.py) over rates (rates.py).

    write datastore   the model reads the text; rows go to the disk meanwhile          shared by all machines
    train index       one machine reads a sample                                       one machine
    add rows          rows are read, find their lists, are encoded, and written        shared
    search            lists on the coordinator, codes and keys on all machines         shared, but for the lists

A stage's time on M machines is the time of its largest share. Starting processes, and waiting for the slowest of many
machines (docs/scale.md), come on top.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from fairseq.knn.index.build import ADDED_BYTES
from fairseq.knn.neighbours.neighbour_source import QUERY_BLOCK
from fairseq.knn.plan.model_rate import BATCH_TOKENS
from fairseq.knn.plan.rates import Rates
from fairseq.knn.plan.work import ID_BYTES, Work
from fairseq.knn.search.by_list import MOST_DISTANCES, least_visits_of_codes

# An index should take no more of a machine's memory than this, since searching takes some as well.
INDEX_SHARE = 0.5
# Of a neighbour, from the search until its vote is counted: row and distance, and copies of both (benchmarks/plan.py).
NEIGHBOUR_BYTES = 36
# Keys of a batch while it is written: computed, put in order, and on their way to the disk.
BATCH_COPIES = 3


@dataclass(frozen=True)
class Machine:
    """One of several equal machines.

    Attributes:
        memory: bytes.
        disk: bytes.
        network: bytes a second.
    """

    memory: float
    disk: float
    network: float


class Stage(NamedTuple):
    """What a stage takes.

    Attributes:
        name: for people.
        machines: that share it.
        disk: bytes that it leaves on each.
        memory: bytes of its process on each.
        seconds: until all are done; None where a rate is not known.
        bound: what takes most of the time.
    """

    name: str
    machines: int
    disk: float
    memory: float
    seconds: float | None
    bound: str


def machines_needed(work: Work, machine: Machine, *, mapped: bool) -> tuple[int, str]:
    """Returns how many machines hold the files and the index, and what decides it."""
    by_disk = math.ceil((work.keys + work.values + work.index) / machine.disk)
    by_memory = 1 if mapped else math.ceil(work.codes / max(INDEX_SHARE * machine.memory - work.centroids, 1))
    if max(by_disk, by_memory) == 1:
        return 1, "everything fits one machine"
    return (by_disk, "disk: keys and values") if by_disk >= by_memory else (by_memory, "memory: codes of the index")


def stages(
    work: Work, rates: Rates, machine: Machine, machines: int, queries: int, *, mapped: bool = False
) -> list[Stage]:
    """Returns the stages in their order."""
    shard = work.codes / machines + work.centroids
    made = [_write(work, rates, machines), _train(work, rates)]
    adding = {
        "reading keys": work.keys / machines / rates.disk_read,
        "finding lists": work.rows / machines * work.add_operations / rates.add_operations,
        "encoding": work.rows / machines / rates.add_rows,
        "writing the index": shard / rates.disk_write,
    }
    chunk = min(4 * work.dimension * work.rows / machines, ADDED_BYTES)
    memory = rates.base_bytes + shard + 2 * chunk
    made.append(Stage("add rows", machines, shard, memory, sum(adding.values()), _largest(adding)))
    searching = search_seconds(work, rates, machine, machines, mapped=mapped)
    memory = rates.base_bytes + search_memory(work, machines, queries, mapped=mapped)
    seconds = queries * sum(searching.values())
    made.append(Stage("search", machines, 0, memory, seconds, _largest(searching)))
    return made


def _largest(parts: dict[str, float]) -> str:
    return max(parts, key=lambda name: parts[name])


def _write(work: Work, rates: Rates, machines: int) -> Stage:
    kept = (work.keys + work.values) / machines
    parts = {"disk": kept / rates.disk_write}
    if rates.model_tokens:
        parts["the model"] = work.rows / machines / rates.model_tokens
    seconds = max(parts.values()) if rates.model_tokens else None
    bound = _largest(parts) if rates.model_tokens else "give --path or --tokens-per-s"
    batch = BATCH_COPIES * 4 * work.dimension * BATCH_TOKENS
    return Stage("write datastore", machines, kept, (rates.model_bytes or rates.base_bytes) + batch, seconds, bound)


def _train(work: Work, rates: Rates) -> Stage:
    parts = {
        "reading the sample": work.trained_on * work.row_bytes / rates.disk_read,
        "lists": work.train_operations / rates.train_operations,
        "codes": rates.train_codes_s,
    }
    memory = rates.base_bytes + 2 * 4 * work.dimension * work.trained_on + work.centroids
    return Stage("train index", 1, work.centroids, memory, sum(parts.values()), _largest(parts))


def by_list_pays(work: Work) -> bool:
    """Returns whether queries are searched for list by list, as ``ListSearch.pays`` decides for a full block."""
    least = least_visits_of_codes(work.code_bytes, work.dimension)
    block = min(QUERY_BLOCK, MOST_DISTANCES / max(work.rows_visited, 1))
    return block * min(work.probe, work.lists) >= least * work.lists


def search_seconds(
    work: Work, rates: Rates, machine: Machine, machines: int, *, mapped: bool = False
) -> dict[str, float]:
    """Returns the seconds of a query by part, many queries at once."""
    codes = work.rows_visited / machines
    in_order = by_list_pays(work) and not mapped and machines == 1
    parts = {
        "choosing lists": work.coarse_operations / rates.coarse_operations,
        "codes": codes / (rates.visited_rows_by_list if in_order else rates.visited_rows),
    }
    free = machine.memory - (0 if mapped else work.codes / machines)
    if in_order and work.keys <= free:
        pass  # the keys of a list are read with its codes
    elif work.keys / machines <= free:
        parts["reading keys"] = work.neighbours / machines / rates.read_rows
    else:  # whichever is less: each key for itself, or the whole file for a block of queries
        each = work.neighbours / machines / rates.disk_seek
        parts["reading keys"] = min(each, work.keys / machines / rates.disk_read / QUERY_BLOCK)
    if mapped:
        parts["reading codes"] = codes * (work.code_bytes + ID_BYTES) / rates.disk_read
    parts["counting votes"] = work.neighbours / machines / rates.voted_rows
    if machines > 1:
        parts["network"] = work.wire_bytes(machines) / machine.network
    return parts


def search_memory(work: Work, machines: int, queries: int, *, mapped: bool) -> float:
    """Returns the bytes that a search holds, besides the process's own."""
    block = min(queries, QUERY_BLOCK)
    index = work.centroids + (0 if mapped else work.codes / machines)
    distances = 0.0
    if by_list_pays(work) and not mapped and machines == 1:
        distances = 2 * 4 * min(MOST_DISTANCES, block * work.rows_visited)
    return index + distances + NEIGHBOUR_BYTES * block * work.neighbours / machines
