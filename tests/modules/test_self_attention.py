"""Attention, positions and dropout."""

import math

import numpy as np
import pytest
import torch

from fairseq.modules import self_attention
from fairseq.modules.dropout import _draws, dropout
from fairseq.modules.positions import LearnedPositions, SinusoidalPositions, sinusoidal_table
from fairseq.modules.self_attention import SelfAttention
from tests.oracles.attention import attention
from tests.oracles.transformer import sinusoid

FLOAT32_ATOL = 2e-6  # float32 sums of at most 24 terms of order 1
ANGLE_ATOL = 3e-4  # float32 angles of up to 3,000 radians


@pytest.mark.parametrize("first", [0, 1, 4, 6])
def test_attention_equals_the_oracle(first: int) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(24, 3, dropout=0.5).eval()
    x_BTC = torch.randn(2, 7, 24)
    weights = {name: value.double().numpy() for name, value in layer.state_dict().items()}
    expected = np.stack([attention(x.double().numpy(), weights, 3)[first:] for x in x_BTC])
    np.testing.assert_allclose(layer(x_BTC, first).detach().numpy(), expected, atol=FLOAT32_ATOL, rtol=0)


@pytest.mark.parametrize("queries_at_once", [1, 3, 64])
@pytest.mark.parametrize("first", [0, 4])
def test_attention_in_training_equals_the_oracle_where_nothing_is_dropped(
    first: int, queries_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_attention, "QUERIES_AT_ONCE", queries_at_once)
    monkeypatch.setattr(self_attention, "dropout", lambda weights, p, training: weights)
    torch.manual_seed(3)
    module = SelfAttention(8, 2, dropout=0.5).train()
    x_BTC = torch.randn(3, 7, 8)
    torch.testing.assert_close(module(x_BTC, first), module.eval()(x_BTC, first), atol=2e-6, rtol=0)


def test_attention_drops_weights_and_keeps_their_mean() -> None:
    torch.manual_seed(4)
    module = SelfAttention(8, 2, dropout=0.25)
    x_BTC = torch.randn(1, 5, 8)
    drawn = torch.stack([module(x_BTC).detach() for _ in range(4000)])
    assert drawn.std(0).min() > 0
    error = (drawn.mean(0) - module.eval()(x_BTC)).abs() / drawn.std(0) * 4000**0.5
    assert error.max() < 5  # standard errors


def test_attention_never_looks_ahead() -> None:
    layer = SelfAttention(8, 2, dropout=0.0)
    x_BTC = torch.randn(1, 6, 8)
    changed = x_BTC.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(layer(x_BTC)[:, :4], layer(changed)[:, :4])


def test_query_key_and_value_start_with_a_gain_of_one_over_root_two() -> None:
    layer = SelfAttention(256, 4, dropout=0.0)
    bound = math.sqrt(6 / 512)  # Glorot's bound for 256 inputs and outputs
    for name, gain in (("q_proj", 2**-0.5), ("k_proj", 2**-0.5), ("v_proj", 2**-0.5), ("out_proj", 1.0)):
        linear = getattr(layer, name)
        assert float(linear.weight.detach().abs().max()) == pytest.approx(gain * bound, rel=1e-3)
        assert not linear.bias.any()


@pytest.mark.parametrize("width", [8, 9, 64])
def test_sinusoidal_rows_follow_the_formula(width: int) -> None:
    table = sinusoidal_table(3000, width)
    for position in (0, 2, 3, 100, 2999):
        np.testing.assert_allclose(table[position].numpy(), sinusoid(position, width), atol=ANGLE_ATOL, rtol=0)


def test_sinusoidal_halves_by_hand() -> None:
    # width 4: frequencies 1 and 1/10000, position 2
    expected = [0.9092974268, 0.0001999999987, -0.4161468365, 0.99999998]
    np.testing.assert_allclose(sinusoidal_table(3, 4)[2].numpy(), expected, atol=1e-7, rtol=0)


def test_the_padding_row_and_the_last_column_of_an_odd_width_are_zero() -> None:
    table = sinusoidal_table(10, 9)
    assert not table[1].any() and not table[:, 8].any()


def test_the_first_column_has_position_2() -> None:
    positions = SinusoidalPositions(8, 16)
    assert torch.equal(positions(5), sinusoidal_table(18, 8)[2:7])


def test_sinusoidal_positions_grow_on_demand() -> None:
    positions = SinusoidalPositions(8, 4)
    assert torch.equal(positions(40), sinusoidal_table(42, 8)[2:])
    assert list(positions.state_dict()) == ["_float_tensor"]


def test_learned_positions_have_two_rows_more_than_positions() -> None:
    positions = LearnedPositions(8, 4)
    assert positions.weight.shape == (6, 8)
    assert not positions.weight[1].any()
    assert torch.equal(positions(4), positions.weight[2:])


NUM_DRAWS = 400_000
FIVE_SIGMA = 5 * 0.5 / math.sqrt(NUM_DRAWS / 4)  # of the rate within each quarter; a chance of 10⁻⁶ to be outside


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_dropout_keeps_its_share_in_each_of_the_four_lanes(p: float) -> None:
    torch.manual_seed(1)
    kept = (dropout(torch.ones(NUM_DRAWS), p, training=True) != 0).view(-1, 4).double().mean(0)
    assert kept.tolist() == pytest.approx([1 - p] * 4, abs=FIVE_SIGMA)


def test_dropout_scales_what_it_keeps_so_that_the_mean_stays() -> None:
    torch.manual_seed(1)
    out = dropout(torch.ones(NUM_DRAWS), 0.3, training=True)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=1e-4)  # 0.3 is rounded to a multiple of 2⁻¹⁶
    assert float(out.double().mean()) == pytest.approx(1, abs=2 * FIVE_SIGMA)


def test_dropout_on_a_cpu_is_exact_to_a_multiple_of_one_in_65536() -> None:
    out = dropout(torch.ones(NUM_DRAWS), 0.3, training=True)
    kept = 65536 - round(0.3 * 65536)
    assert float(out.max()) == pytest.approx(65536 / kept, rel=5e-7)  # 1 / 0.7, which torch scales by, is 3e-6 away


def test_dropout_draws_neighbouring_elements_apart() -> None:
    torch.manual_seed(1)
    kept = (dropout(torch.ones(NUM_DRAWS), 0.5, training=True) != 0).view(-1, 4).double()
    assert np.corrcoef(kept.T.numpy())[~np.eye(4, dtype=bool)] == pytest.approx([0] * 12, abs=4 * FIVE_SIGMA)


def test_dropout_is_off_in_evaluation() -> None:
    x = torch.randn(3, 5)
    assert dropout(x, 0.5, training=False) is x


def test_dropout_of_zero_and_of_one() -> None:
    x = torch.randn(3, 5)
    assert dropout(x, 0.0, training=True) is x
    assert not dropout(x, 1.0, training=True).any()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 7), (2, 3, 5)])
def test_dropout_takes_any_shape(shape: tuple[int, ...]) -> None:
    assert dropout(torch.ones(shape), 0.5, training=True).shape == shape


def test_equal_seeds_drop_equal_elements() -> None:
    x = torch.randn(100, 33)
    outs = []
    for _ in range(2):
        torch.manual_seed(7)
        outs.append(dropout(x, 0.3, training=True))
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], dropout(x, 0.3, training=True))


def test_no_more_numbers_are_drawn_than_needed() -> None:
    for count, num_bytes in ((1, 8), (4, 8), (5, 16), (1000, 2000)):
        assert _draws(count).shape == (count,) and _draws(count).untyped_storage().nbytes() == num_bytes


def test_a_draw_is_seeded_by_63_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    draw = np.random.SFC64
    monkeypatch.setattr(np.random, "SFC64", lambda seed: seeds.append(seed) or draw(seed))
    torch.manual_seed(5)
    for _ in range(20):
        dropout(torch.ones(4), 0.5, training=True)
    assert max(seeds) > 1 << 61 and len(set(seeds)) == 20  # below it all 20 times: one chance in 2⁴⁰


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.ones(1000, requires_grad=True)
    out = dropout(x, 0.3, training=True)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_dropout_keeps_the_dtype() -> None:
    assert dropout(torch.ones(8, dtype=torch.bfloat16), 0.5, training=True).dtype == torch.bfloat16
