"""How stages share the work, and what decides how many machines there must be."""

from dataclasses import replace

import pytest

from fairseq.knn.plan.rates import Rates
from fairseq.knn.plan.stages import Machine, by_list_pays, machines_needed, search_seconds, stages
from fairseq.knn.plan.work import Work
from fairseq.knn.search.by_list import ListSearch
from tests.knn.plan.test_work import WIKITEXT_103

GIB = 2.0**30
MACHINE = Machine(memory=64 * GIB, disk=1000 * GIB, network=1.25e9)
RATES = Rates(
    machine="one that does everything once a second",
    dimension=1024,
    code_bytes=64,
    **dict.fromkeys(
        (
            "disk_write",
            "disk_read",
            "disk_seek",
            "train_operations",
            "train_codes_s",
            "add_operations",
            "add_rows",
            "coarse_operations",
            "visited_rows",
            "visited_rows_by_list",
            "read_rows",
            "voted_rows",
            "base_bytes",
            "memory",
            "disk",
            "model_tokens",
        ),
        1.0,
    ),
)


@pytest.mark.parametrize(
    ("rows", "mapped", "machines", "why"),
    [
        (103_225_485, False, 1, "everything fits"),
        (3_000_000_000, False, 7, "memory: codes"),  # 216 GB of codes, half of 64 GiB each
        (3_000_000_000, True, 6, "disk: keys"),  # 6.4 TB in all
    ],
)
def test_files_and_codes_decide_how_many_machines(rows: int, mapped: bool, machines: int, why: str) -> None:
    work = replace(WIKITEXT_103, rows=rows)
    needed, reason = machines_needed(work, MACHINE, mapped=mapped)
    assert needed == machines
    assert reason.startswith(why)


def test_times_are_work_over_rates() -> None:
    """With every rate at 1 a second, seconds are the work itself."""
    work = Work(1000, 1024, 2, 4, 64, 1000, 8, 1)
    write, train, add, search = stages(work, RATES, MACHINE, 1, queries=10)
    assert write.seconds == 1000 * (2 * 1024 + 8)  # the disk takes longer than the model's 1,000
    assert train.seconds == pytest.approx(1000 * 2048 + 2 * 1024 * 4 * (6 * 160 + 1000) + 1)
    index = 1000 * (64 + 8) + 4 * 4 * 1024
    assert add.seconds == pytest.approx(1000 * 2048 + 1000 * 2 * 1024 * 4 + 1000 + index)
    assert search.seconds == pytest.approx(10 * (2 * 1024 * 4 + 250 + 8))
    assert (write.disk, train.disk, add.disk, search.disk) == (1000 * (2048 + 8), 4 * 4 * 1024, index, 0)


def test_machines_share_everything_but_training_and_the_choice_of_lists() -> None:
    one, four = (stages(WIKITEXT_103, RATES, MACHINE, count, queries=1) for count in (1, 4))
    for before, after in zip(one, four, strict=True):
        assert before.seconds is not None and after.seconds is not None
        assert after.seconds == before.seconds if before.name == "train index" else after.seconds < before.seconds
    parts = search_seconds(WIKITEXT_103, RATES, MACHINE, 4)
    assert parts["choosing lists"] == search_seconds(WIKITEXT_103, RATES, MACHINE, 1)["choosing lists"]
    assert parts["network"] == pytest.approx(WIKITEXT_103.wire_bytes(4) / 1.25e9)


def test_without_a_rate_of_the_model_writing_takes_an_unknown_time() -> None:
    unknown = RATES.replace(model_tokens=0.0)
    assert stages(WIKITEXT_103, unknown, MACHINE, 1, 1)[0].seconds is None


def test_keys_larger_than_memory_are_sought_on_the_disk_or_read_whole() -> None:
    small = replace(MACHINE, memory=16 * GIB)
    parts = search_seconds(WIKITEXT_103, RATES.replace(disk_read=1e18), small, 1)
    assert parts["reading keys"] < 1e-3  # one pass of the file for 16,384 queries
    parts = search_seconds(WIKITEXT_103, RATES.replace(disk_seek=1e6), small, 1)
    assert parts["reading keys"] == pytest.approx(1024 / 1e6)


@pytest.mark.parametrize("lists", [64, 1024, 65536])
@pytest.mark.parametrize("code_bytes", [32, 64])
def test_the_way_of_searching_is_the_one_that_the_search_chooses(lists: int, code_bytes: int) -> None:
    import faiss

    work = Work(1 << 20, 256, 2, lists, code_bytes, 1 << 20, 1024, 8)
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(256), 256, lists, code_bytes, 8)
    index.nprobe = 8
    index.ntotal = work.rows
    assert by_list_pays(work) == ListSearch.pays(index, 1 << 14)
