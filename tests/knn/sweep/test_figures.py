"""Figures hold the numbers of the sweep: each line, each cell, and the place that is marked as the best."""

import math
from pathlib import Path

import numpy as np
import pytest

from fairseq.knn.sweep.grid import Grid
from fairseq.knn.sweep.sweep import Swept

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fairseq.knn.sweep import figures

LMBDAS, KS, TEMPERATURES, TOKENS = (0.0, 0.25, 0.5, 1.0), (1, 4, 16), (1.0, 10.0), 100
PPL = np.random.default_rng(3).uniform(20, 90, (2, 3, 1, 4, 1))
PPL[..., 0, :] = 60.0  # the language model's own
PPL[..., 3, :] = math.inf
PPL[1, 1, 0, 2, 0] = 12.0


def drawn(draw, ppl: np.ndarray = PPL, **grid: object):
    """Returns the axes of a figure of such perplexities."""
    axes = Figure().add_subplot()
    swept = Swept(
        Grid(**{"lmbdas": LMBDAS, "ks": KS, "temperatures": TEMPERATURES, **grid}),
        TOKENS,
        -TOKENS * np.log(ppl),
        -TOKENS * math.log(60.0),
    )
    draw(axes, swept, "valid")
    return axes


def lines_of(axes) -> dict[str, list[float]]:
    """Returns the lines that the legend names: their numbers, NaN where there is a gap."""
    found = {line.get_label(): np.ma.filled(line.get_ydata(), np.nan).tolist() for line in axes.lines}
    return {label: y for label, y in found.items() if not label.startswith("_")}


def words_of(axes) -> str:
    return " | ".join(text.get_text() for text in axes.texts)


def approx(values: np.ndarray) -> object:
    return pytest.approx(np.where(np.isfinite(values), values, np.nan).tolist(), rel=1e-9, nan_ok=True)


def test_lines_over_lambda_are_those_of_each_k_at_its_best_temperature() -> None:
    axes = drawn(figures._by_lambda)
    lines = lines_of(axes)
    assert len(lines) == 3
    for j, (label, y) in enumerate(lines.items()):
        best = int(np.argmin(PPL[:, j, 0, :, 0].min(axis=1)))
        assert label == (f"{KS[j]}  (T = {TEMPERATURES[best]:g})" if KS[j] > 1 else "1")
        assert y == approx(PPL[best, j, 0, :, 0])
    assert "12.00 at λ = 0.5" in words_of(axes) and "language model\n60.00" in words_of(axes)


def test_lines_over_k_are_those_of_each_temperature_at_the_best_lambda() -> None:
    axes = drawn(figures._by_k)
    assert lines_of(axes) == {f"{t:g}": approx(PPL[i, :, 0, :, 0].min(axis=1)) for i, t in enumerate(TEMPERATURES)}
    assert "12.00 at k = 4" in words_of(axes)


def test_cells_hold_the_best_of_each_pair_and_a_frame_the_best_of_all() -> None:
    axes = drawn(figures._by_k_and_temperature)
    np.testing.assert_allclose(axes.collections[0].get_array(), PPL[:, :, 0, :, 0].min(axis=2))
    [frame] = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert frame.get_xy() == (1, 1)
    assert "12.0\nλ 0.5" in words_of(axes)


def test_a_cache_has_its_weights_at_the_best_lambda() -> None:
    """The pair of weights that adds up to more than 1 is a gap, and a masked cell."""
    ppl = np.random.default_rng(4).uniform(20, 55, (1, 1, 2, 2, 3))
    ppl[..., 0, 0], ppl[..., 1, 2], ppl[0, 0, 1, 1, 1] = 60.0, math.inf, 11.0
    grid = {"lmbdas": (0.0, 0.5), "ks": (8,), "temperatures": (1.0,)}
    grid |= {"caches": ((10, 0.5), (20, 1.0)), "cache_lmbdas": (0.0, 0.3, 0.8)}
    axes = drawn(figures._by_cache_weight, ppl, **grid)
    assert lines_of(axes) == {"10, 0.5": approx(ppl[0, 0, 0].min(axis=0)), "20, 1": approx(ppl[0, 0, 1].min(axis=0))}
    assert "11.00 at μ = 0.3, λ = 0.5" in words_of(axes)
    axes = drawn(figures._by_both_weights, ppl, **grid)
    cells = np.ma.filled(axes.collections[0].get_array(), math.inf)
    np.testing.assert_allclose(cells, ppl[0, 0, 1])
    assert "cache of 20, θ = 1" in axes.get_title()


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 40])
def test_no_more_lines_than_markers_with_both_ends_and_the_chosen_one(count: int) -> None:
    values = list(range(100, 100 + count))
    for chosen in values:
        found = figures._some(values, chosen)
        assert found == sorted(set(found)) and len(found) == min(count, len(figures.MARKERS))
        assert {values[0], values[-1], chosen} <= set(found)


@pytest.mark.parametrize("lmbdas", [LMBDAS, (0.5,)])
def test_what_has_a_single_value_is_not_drawn(tmp_path: Path, lmbdas: tuple[float, ...]) -> None:
    ppl = PPL[:1, :1, :, : len(lmbdas)]
    swept = Swept(Grid(lmbdas, (1,), (1.0,)), TOKENS, -TOKENS * np.log(ppl), -TOKENS * math.log(60.0))
    figures.draw_figures(swept, "valid", tmp_path)
    wanted = {"perplexity_by_lambda.svg", "perplexity_by_lambda.png"} if len(lmbdas) > 1 else set()
    assert {path.name for path in tmp_path.iterdir()} == wanted
