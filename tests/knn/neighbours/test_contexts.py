"""Whether rows and evaluated tokens have like contexts, by counting the context of every token of a block dataset."""

from collections.abc import Callable

import numpy as np
import pytest

from fairseq.data.block_dataset import BlockDataset
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.contexts import Cut, context_warning


def contexts(window: int, size: int) -> list[int]:
    """Returns how many tokens stand before each token, in its row, of the blocks whose window is full."""
    dataset = BlockDataset(np.zeros(40 * size, np.uint16), np.array([40 * size]), "none", size, window)
    before = dataset.context_lengths()
    return [int(b) + i for b in before[before == window] for i in range(size)]


def settings(window: int, size: int, mode: str = "none") -> dict[str, object]:
    return {"context_window": window, "tokens_per_sample": size, "sample_break_mode": mode}


@pytest.mark.parametrize(
    ("written", "evaluated", "warned"),
    [
        ((1536, 1536), (2560, 512), None),  # the published run
        ((128, 128), (192, 64), None),
        ((64, 64), (64, 64), None),
        ((0, 256), (0, 256), None),
        ((0, 256), (192, 64), "written"),
        ((0, 3072), (2560, 512), "written"),
        ((128, 128), (0, 256), "evaluated"),
        ((20, 100), (60, 60), None),  # exactly a tenth
        ((19, 100), (60, 60), "written"),
        ((60, 60), (19, 100), "evaluated"),
    ],
)
def test_a_tenth_of_the_tokens_has_less_than_half_of_the_others_context(
    make_store: Callable[..., Datastore],
    written: tuple[int, int],
    evaluated: tuple[int, int],
    warned: str | None,
) -> None:
    rows, tokens = contexts(*written), contexts(*evaluated)
    least, least_of_rows = min(tokens), min(rows)
    short = {
        "written": np.mean([2 * n < least for n in rows]),
        "evaluated": np.mean([2 * n < least_of_rows for n in tokens]),
    }
    assert (max(short.values()) > 0.1) == (warned is not None), short
    store = make_store("d", np.zeros((9, 4), np.float32), np.zeros(9, np.int64), settings=settings(*written))
    cut = Cut.of(settings(*evaluated))
    assert cut is not None
    line = context_warning([store], cut)
    if warned is None:
        assert line is None
    else:
        assert line is not None and f"{short[warned]:.0%} of the " in line
        assert f"{store.prefix} was written with --context-window {written[0]}" in line
        assert f"this run has --context-window {evaluated[0]}" in line
        assert line.endswith(f"evaluate with --context-window {written[0]}")


def test_sentences_have_the_context_of_their_window_alone(make_store: Callable[..., Datastore]) -> None:
    store = make_store("d", np.zeros((9, 4), np.float32), np.zeros(9, np.int64), settings=settings(0, 512, "eos"))
    same, other = Cut.of(settings(0, 512, "eos")), Cut.of(settings(64, 64))
    assert same is not None and other is not None
    assert context_warning([store], same) is None
    assert "100% of the rows have less than half" in str(context_warning([store], other))


def test_what_is_not_known_is_not_warned_of(make_store: Callable[..., Datastore]) -> None:
    cut = Cut.of(settings(64, 64))
    assert cut is not None and Cut.of({}) is None
    for unknown in ({"context_window": 0}, {**settings(0, 9), "context_window": "0"}, settings(0, 0)):
        store = make_store(
            f"d{len(str(unknown))}", np.zeros((9, 4), np.float32), np.zeros(9, np.int64), settings=unknown
        )
        assert context_warning([store], cut) is None
