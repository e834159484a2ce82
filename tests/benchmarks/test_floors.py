"""The floors' formulas against operations counted one by one, or by hand in the comments."""

import pytest
from floors import (
    Architecture,
    Floor,
    Rates,
    dump_floor,
    evaluate_floor,
    index_floor,
    neighbours_floor,
    train_floor,
)

SMALL = Architecture(layers=2, width=4, ffn_width=8, edges=(3, 5))
RATES = Rates(gemm_flops_per_s=100, memory_bytes_per_s=10, disk_read_bytes_per_s=2, disk_write_bytes_per_s=1)


def counted_layer(row: int, scored: int, *, feed_forward: bool) -> int:
    """Returns a layer's operations, position by position; only the last ``scored`` are asked for."""
    d, f, flops = 4, 8, 0
    for position in range(1, row + 1):
        flops += 2 * (2 * d * d)  # key and value
        if position > row - scored:
            flops += 2 * (2 * d * d)  # query and output
            flops += position * 2 * (2 * d)  # a product with each key that it sees, and a share of each value
            flops += 2 * (2 * d * f) if feed_forward else 0
    return flops


def test_a_layer_is_what_its_positions_are() -> None:
    assert 7 * SMALL.layer_flops(7) == counted_layer(7, 7, feed_forward=True)


@pytest.mark.parametrize("keys_only", [False, True])
def test_a_window_needs_the_last_layer_on_scored_columns(keys_only: bool) -> None:
    expected = counted_layer(6, 6, feed_forward=True) + counted_layer(6, 2, feed_forward=not keys_only)
    assert SMALL.window_flops(6, 2, keys_only=keys_only) == expected


def test_softmax_and_input_by_hand() -> None:
    # Head for 3 targets: 3·2·4·(3 + 1 tail) = 96. One target in the tail, 1 wide: 2·4·1 + 2·1·2 = 12.
    assert SMALL.softmax_flops([2, 1]) == 108
    # Two vectors 4 wide: 2·2·16 = 64; one 1 wide: 2·4 = 8.
    assert SMALL.input_flops([2, 1]) == 72


def test_parameters_by_hand() -> None:
    # Layers 2·(4·16 + 2·32) = 256; vectors 3·4 + 2·1 = 14; projections 16 + 4 = 20; one tail's column of the head 4.
    assert SMALL.num_parameters == 294


def test_training_is_three_forwards_and_a_step() -> None:
    floor = train_floor(SMALL, updates=3, row=6, band_counts=[10, 2])
    layers = 2 * 2 * counted_layer(6, 6, feed_forward=True)  # two rows, two layers
    assert floor.flops == 3 * (layers + SMALL.softmax_flops([10, 2]) + SMALL.input_flops([10, 2]))
    assert floor.memory_bytes == 3 * 5 * 4 * 294


def test_evaluation_and_dump_count_rows_of_scored_targets() -> None:
    found = evaluate_floor(SMALL, row=6, scored=2, band_counts=[3, 1])
    assert found.flops == 2 * SMALL.window_flops(6, 2) + SMALL.softmax_flops([3, 1]) + SMALL.input_flops([3, 2])
    dump = dump_floor(SMALL, row=6, scored=2, targets=4)
    assert dump.flops == 2 * SMALL.window_flops(6, 2, keys_only=True) + SMALL.input_flops([3, 2])
    assert dump.disk_write_bytes == 4 * (4 * 4 + 8)


def test_an_index_by_hand() -> None:
    found = index_floor(rows=1000, width=8, lists=10, code_bytes=2)
    # k-means 2·1000·10·8 for 10 rounds, and once to add; codes 2·256·8 operations a row, 25 rounds and once to add.
    assert found.flops == 11 * 160_000 + 4096 * 26 * 1000
    assert (found.disk_read_bytes, found.disk_write_bytes) == (1000 * 8 * 4, 1000 * (2 + 8))


def test_neighbours_by_hand() -> None:
    own = neighbours_floor(2, 3, 4, rows=100, lists=10, probe=5, code_bytes=2, exact=False)
    exact = neighbours_floor(2, 3, 4, rows=100, lists=10, probe=5, code_bytes=2, exact=True)
    # Centroids 2·2·10·4 = 160; 2·5·10 codes of 2 bytes = 200. Codes and ids 100·10; results 2·2·3·12 = 144.
    assert (own.flops, own.memory_bytes) == (360, 1144)
    # k products 2·2·3·4 = 48; keys 100·4·4.
    assert (exact.flops, exact.memory_bytes) == (408, 1144 + 1600)


def test_a_floor_is_the_larger_of_its_parts() -> None:
    assert Floor(flops=300, memory_bytes=20).seconds(RATES) == (3, "operations")
    assert (Floor(flops=300) + Floor(disk_read_bytes=4, disk_write_bytes=3)).seconds(RATES) == (5, "disk")
