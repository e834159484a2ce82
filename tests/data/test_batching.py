"""The batching rule of semantics.md section 2 against a naive loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.data.batching import batch_by_size, by_length, epoch_batches
from fairseq.errors import ConfigError

many_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=60)
multiples = st.integers(1, 8)


def batches(lengths: list[int], *args: int | None, **kwargs: int) -> list[list[int]]:
    found = batch_by_size(np.arange(len(lengths)), np.array(lengths), *args, **kwargs)
    return [batch.tolist() for batch in found]


def naive(lengths: list[int], max_tokens: int, max_sentences: int, m: int) -> list[list[int]]:
    """Takes rows one at a time; whenever the rows and the next one cost too much, emits as many as the rule says."""
    found: list[list[int]] = []
    waiting: list[int] = []
    for idx in range(len(lengths)):
        while waiting:
            together = [*waiting, idx]
            cost = len(together) * max(lengths[i] for i in together)
            if cost <= max_tokens and len(together) <= max_sentences:
                break
            n = len(waiting)
            count = n - n % m if n - n % m > n % m else n % m
            found.append(waiting[:count])
            waiting = waiting[count:]
        waiting.append(idx)
    return [*found, waiting]


def test_a_batch_costs_rows_times_longest() -> None:
    assert batches([4, 2, 2, 5, 1], 10) == [[0, 1], [2, 3], [4]]


def test_rows_beyond_the_multiple_are_carried_on() -> None:
    assert batches([1] * 20, 11, None, 8) == [[*range(8)], [*range(8, 16)], [16, 17, 18, 19]]


def test_fewer_rows_than_the_multiple_are_emitted_as_they_are() -> None:
    assert batches([5] * 5, 10, None, 8) == [[0, 1], [2, 3], [4]]


def test_max_sentences_bounds_the_rows() -> None:
    assert batches([1, 1, 1, 1, 1], None, 2) == [[0, 1], [2, 3], [4]]


def test_without_bounds_all_rows_make_one_batch() -> None:
    assert batches([3, 9, 1], None) == [[0, 1, 2]]


def test_a_block_larger_than_a_batch_is_refused_by_name() -> None:
    """By the longest, not by the first that is too long: who gives as much is not refused again."""
    message = "--max-tokens 8 is below the 12 tokens of the longest block; give at least 12"
    with pytest.raises(ConfigError, match=message):
        batches([3, 9, 1, 12, 10], 8)
    assert batches([3, 9, 1, 12, 10], 12) == [[0], [1], [2], [3], [4]]


def test_order_by_length_is_stable() -> None:
    """Python's own sort is; NumPy's is on every machine if it is asked to be, and by itself for a few numbers only."""
    assert by_length(np.array([3, 1, 3, 1, 2])).tolist() == [1, 3, 4, 0, 2]
    lengths = np.random.default_rng(0).integers(1, 9, 1000)
    assert by_length(lengths).tolist() == sorted(range(1000), key=lambda i: lengths[i])
    shuffled = np.random.default_rng(7).permutation(1000).tolist()
    assert by_length(lengths, 7).tolist() == sorted(shuffled, key=lambda i: lengths[i])


@given(lengths=many_lengths, seed=st.integers(0, 2**31))
def test_seeded_order_sorts_and_shuffles_equals(lengths: list[int], seed: int) -> None:
    order = by_length(np.array(lengths), seed)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert np.array(lengths)[order].tolist() == sorted(lengths)
    assert by_length(np.array(lengths), seed).tolist() == order.tolist()


def test_another_seed_gives_another_order() -> None:
    assert by_length(np.ones(50, np.int64), 1).tolist() != by_length(np.ones(50, np.int64), 2).tolist()


@given(lengths=many_lengths, max_tokens=st.integers(30, 200), max_sentences=st.integers(1, 20), m=multiples)
def test_equals_the_naive_loop(lengths: list[int], max_tokens: int, max_sentences: int, m: int) -> None:
    assert batches(lengths, max_tokens, max_sentences, m) == naive(lengths, max_tokens, max_sentences, m)


@given(lengths=many_lengths, max_tokens=st.integers(30, 200), m=multiples)
def test_no_batch_exceeds_max_tokens_and_no_row_is_lost(lengths: list[int], max_tokens: int, m: int) -> None:
    found = batches(lengths, max_tokens, None, m)
    assert [row for batch in found for row in batch] == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= max_tokens for batch in found)


def test_epoch_order_depends_on_the_sum_of_seed_and_epoch_only() -> None:
    some = [np.array([i]) for i in range(40)]
    assert epoch_batches(some, 3, 5) == epoch_batches(some, 1, 7)
    assert epoch_batches(some, 3, 5) != epoch_batches(some, 3, 6)
    assert sorted(int(batch[0]) for batch in epoch_batches(some, 3, 5)) == list(range(40))
