"""Whether rows and evaluated tokens have like contexts, by counting the context of every token of a block dataset."""

import logging
from collections.abc import Callable

import numpy as np
import pytest

from fairseq.data.block_dataset import BlockDataset
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.contexts import Cut, tell_of_contexts


def contexts(window: int, size: int) -> list[int]:
    """Returns how many tokens stand before each token, in its row, of the blocks whose window is full."""
    dataset = BlockDataset(np.zeros(40 * size, np.uint16), np.array([40 * size]), "none", size, window)
    before = dataset.context_lengths()
    return [int(b) + i for b in before[before == window] for i in range(size)]


def settings(window: int, size: int, mode: str = "none") -> dict[str, object]:
    return {"context_window": window, "tokens_per_sample": size, "sample_break_mode": mode}


def told(
    caplog: pytest.LogCaptureFixture, stores: list[Datastore], evaluated: dict[str, object]
) -> list[tuple[int, str]]:
    """Returns the level and the text of each line."""
    caplog.clear()
    cut = Cut.of(evaluated)
    assert cut is not None
    with caplog.at_level(logging.INFO):
        tell_of_contexts(stores, cut)
    return [(record.levelno, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("written", "evaluated", "who"),
    [
        ((1536, 1536), (2560, 512), None),  # the published run
        ((128, 128), (192, 64), None),
        ((64, 64), (64, 64), None),
        ((0, 256), (0, 256), None),
        ((0, 256), (192, 64), "rows"),
        ((0, 3072), (2560, 512), "rows"),
        ((0, 16), (192, 64), "rows"),
        ((128, 128), (0, 256), "evaluated tokens"),
        ((128, 128), (0, 64), "evaluated tokens"),
        ((20, 100), (60, 60), None),  # exactly a tenth
        ((19, 100), (60, 60), "rows"),
        ((60, 60), (19, 100), "evaluated tokens"),
        ((0, 100), (100, 60), "rows"),  # exactly a half
        ((0, 100), (102, 60), "rows"),
    ],
)
def test_a_tenth_of_short_contexts_is_told_and_a_half_is_warned_of(
    make_store: Callable[..., Datastore],
    caplog: pytest.LogCaptureFixture,
    written: tuple[int, int],
    evaluated: tuple[int, int],
    who: str | None,
) -> None:
    rows, tokens = contexts(*written), contexts(*evaluated)
    least, least_of_rows = min(tokens), min(rows)
    short = {
        "rows": np.mean([2 * n < least for n in rows]),
        "evaluated tokens": np.mean([2 * n < least_of_rows for n in tokens]),
    }
    assert (max(short.values()) > 0.1) == (who is not None), short
    store = make_store("d", np.zeros((9, 4), np.float32), np.zeros(9, np.int64), settings=settings(*written))
    lines = told(caplog, [store], settings(*evaluated))
    if who is None:
        assert not lines
        return
    ((level, line),) = lines
    assert level == (logging.WARNING if short[who] > 0.5 else logging.INFO)
    windows = f"was written with --context-window {written[0]}, and this run has --context-window {evaluated[0]}"
    assert line.startswith(f"{store.prefix} {windows}: {short[who]:.0%} of the {who} have less than half")
    remedy = f"write the datastore with --context-window {evaluated[0]}"
    remedy = remedy if who == "rows" else f"evaluate with --context-window {written[0]}"
    assert line.endswith(f"; {remedy} for like contexts")


def test_of_several_the_worst_is_told_and_sentences_count_by_their_window(
    make_store: Callable[..., Datastore], caplog: pytest.LogCaptureFixture
) -> None:
    cuts = {"a": settings(0, 256), "b": settings(0, 512, "eos"), "c": settings(64, 64)}
    keys, values = np.zeros((9, 4), np.float32), np.zeros(9, np.int64)
    stores = [make_store(name, keys, values, settings=cut) for name, cut in cuts.items()]
    ((level, line),) = told(caplog, stores, settings(192, 64))
    assert level == logging.WARNING and line.startswith(f"{stores[1].prefix} was") and "100% of the rows" in line
    assert not told(caplog, stores[1:2], settings(0, 512, "eos"))


def test_what_is_not_known_is_not_told(make_store: Callable[..., Datastore], caplog: pytest.LogCaptureFixture) -> None:
    keys, values = np.zeros((9, 4), np.float32), np.zeros(9, np.int64)
    for n, unknown in enumerate(({"context_window": 0}, {**settings(0, 9), "context_window": "0"}, settings(0, 0))):
        assert Cut.of(unknown) is None
        assert not told(caplog, [make_store(f"d{n}", keys, values, settings=unknown)], settings(64, 64))
