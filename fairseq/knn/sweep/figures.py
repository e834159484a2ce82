"""What a sweep found, drawn: perplexity over one value as lines, over two as a heat map.

Ordered values have ordered colours (viridis without its light end, told apart by the colour-blind and in grey), and
markers as well. ``figures.mplstyle`` has the style. The only module that uses matplotlib, whose pyplot it leaves alone:
nothing global, no display. The same sweep gives the same bytes.

Legend: T temperatures · J values of k · S caches · L of λ · M of μ · R rows · C columns of a heat map.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fairseq.arrays import Float64s
from fairseq.criterions.perplexity import perplexity_of
from fairseq.knn.sweep.sweep import Swept
from fairseq.storage.files import atomic_write
from fairseq.storage.marks import IMAGE_MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)
# It reports at INFO that it looks for fonts.
logging.getLogger("matplotlib").setLevel(logging.WARNING)

STYLE = Path(__file__).with_name("figures.mplstyle")
MARKERS = "osD^vPX"  # one for each line: no figure has more
_MOST_WORDS_IN_CELLS = 60
_INK, _QUIET, _MARKED = "#222222", "#666666", "#D55E00"
# Colours end a little above the language model: near λ + μ = 1 perplexities have no bounds.
_ABOVE_LM = 1.1

Value = TypeVar("Value")


def can_draw() -> bool:
    """Returns whether matplotlib is installed; warns where it is not."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning("no figures: they need matplotlib, which is not installed; pip install 'fairseq-knnlm[plots]'")
        return False
    return True


def draw_figures(swept: Swept, split: str, directory: Path) -> None:
    """Writes each figure as SVG and PNG; what has a single value has no figure of its own."""
    import matplotlib
    from matplotlib.figure import Figure

    num_temperatures, num_ks, _, num_lmbdas, num_cache_lmbdas = swept.grid.shape
    wanted: dict[str, tuple[Callable[[Axes, Swept, str], None], bool]] = {
        "perplexity_by_lambda": (_by_lambda, num_lmbdas > 1),
        "perplexity_by_k": (_by_k, num_ks > 1),
        "perplexity_by_k_and_temperature": (_by_k_and_temperature, num_ks * num_temperatures > 1),
    }
    if swept.grid.caches:
        wanted = {
            "perplexity_by_cache_weight": (_by_cache_weight, num_cache_lmbdas > 1),
            "perplexity_by_both_weights": (_by_both_weights, num_lmbdas > 1 and num_cache_lmbdas > 1),
        }
    for name, draw in ((name, draw) for name, (draw, is_wanted) in wanted.items() if is_wanted):
        # The salt makes the ids within an SVG the same every time, and unlike those of the others beside it.
        with matplotlib.rc_context({"svg.hashsalt": name}, STYLE):
            figure = Figure()
            draw(figure.add_subplot(), swept, split)
            for kind, metadata in (("svg", {"Date": None, "Creator": IMAGE_MARK}), ("png", {"Software": IMAGE_MARK})):
                with atomic_write(directory / f"{name}.{kind}") as file:
                    figure.savefig(file, format=kind, metadata=metadata)


def _by_lambda(axes: "Axes", swept: Swept, split: str) -> None:
    grid, best, ppl_TJL = swept.grid, swept.best(), _perplexities(swept)[:, :, 0, :, 0]
    lines = {}
    for k in _some(grid.ks, best.k):
        ppl_TL = ppl_TJL[:, grid.ks.index(k)]
        t = int(np.argmin(ppl_TL.min(axis=1)))
        needs_t = k > 1 and len(grid.temperatures) > 1
        lines[f"{k:,}  (T = {grid.temperatures[t]:g})" if needs_t else f"{k:,}"] = ppl_TL[t]
    words = "neighbours k" if len(grid.temperatures) == 1 else "neighbours k (their best T)"
    _draw_lines(axes, grid.lmbdas, lines, words)
    bottom, lm = float(ppl_TJL.min()), perplexity_of(swept.lm_loss)
    _draw_reference(axes, "language model", lm)
    _mark(axes, best.lmbda, bottom, f"{bottom:.2f} at λ = {best.lmbda:g}")
    lowest = [float(ppl_L.min()) for ppl_L in lines.values() if np.isfinite(ppl_L.min())]
    top = _limit(axes, bottom, max(lm, *lowest), above=0.5)
    _limit_weights(axes, grid.lmbdas, list(lines.values()), top)
    axes.set(xlabel="weight of the neighbours, λ", ylabel=f"perplexity on {split}", title="Perplexity over λ")


def _by_k(axes: "Axes", swept: Swept, split: str) -> None:
    grid, best, ppl_TJ = swept.grid, swept.best(), _perplexities(swept)[:, :, 0, :, 0].min(axis=2)
    chosen = _some(grid.temperatures, best.knn_temp)
    lines = {f"{temperature:g}": ppl_TJ[grid.temperatures.index(temperature)] for temperature in chosen}
    _draw_lines(axes, grid.ks, lines, "temperature T")
    axes.set_xscale("log", base=2)
    if len(grid.ks) <= len(MARKERS):
        axes.set_xticks(grid.ks)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    bottom, lm = float(ppl_TJ.min()), perplexity_of(swept.lm_loss)
    _draw_reference(axes, "language model", lm)
    ends = {grid.ks[0]: "left", grid.ks[-1]: "right"}
    _mark(axes, best.k, bottom, f"{bottom:.2f} at k = {best.k:,}", ends.get(best.k, "center"))
    _limit(axes, bottom, max(lm, float(ppl_TJ[np.isfinite(ppl_TJ)].max())), above=0.15)
    axes.set(xlabel="neighbours, k", ylabel=f"perplexity on {split}", title="Perplexity over k, each at its best λ")


def _by_k_and_temperature(axes: "Axes", swept: Swept, split: str) -> None:
    grid, best, ppl_TJL = swept.grid, swept.best(), _perplexities(swept)[:, :, 0, :, 0]
    place = grid.temperatures.index(best.knn_temp), grid.ks.index(best.k)
    words = [[f"λ {grid.lmbdas[i]:g}" for i in row] for row in ppl_TJL.argmin(axis=2)]
    _draw_cells(axes, ppl_TJL.min(axis=2), grid.temperatures, grid.ks, place, words)
    axes.set(xlabel="neighbours, k", ylabel="temperature, T", title=f"Best perplexity on {split} by k and T")


def _by_cache_weight(axes: "Axes", swept: Swept, split: str) -> None:
    grid, best, ppl_SLM = swept.grid, swept.best(), _perplexities(swept)[0, 0]
    assert best.cache is not None
    lines = {
        f"{size:,}, {theta:g}": ppl_SLM[grid.caches.index((size, theta))].min(axis=0)
        for size, theta in _some(grid.caches, best.cache)
    }
    _draw_lines(axes, grid.cache_lmbdas, lines, "cache size, θ")
    bottom, without, lm = float(ppl_SLM.min()), float(ppl_SLM[0, :, 0].min()), float(ppl_SLM[0, 0, 0])
    _draw_reference(axes, "language model", lm)
    if without < lm:
        _draw_reference(axes, "+ neighbours", without)
    _mark(axes, best.cache_lmbda, bottom, f"{bottom:.2f} at μ = {best.cache_lmbda:g}, λ = {best.lmbda:g}")
    _limit_weights(axes, grid.cache_lmbdas, list(lines.values()), _limit(axes, bottom, lm, above=0.3))
    axes.set(
        xlabel="weight of the cache, μ", ylabel=f"perplexity on {split}", title="Perplexity over μ, each at its best λ"
    )


def _by_both_weights(axes: "Axes", swept: Swept, split: str) -> None:
    grid, best = swept.grid, swept.best()
    assert best.cache is not None
    ppl_LM = _perplexities(swept)[0, 0, grid.caches.index(best.cache)]
    place = grid.lmbdas.index(best.lmbda), grid.cache_lmbdas.index(best.cache_lmbda)
    _draw_cells(axes, ppl_LM, grid.lmbdas, grid.cache_lmbdas, place, most=_ABOVE_LM * float(ppl_LM[0, 0]))
    size, theta = best.cache
    axes.set(
        xlabel="weight of the cache, μ",
        ylabel="weight of the neighbours, λ",
        title=f"Perplexity on {split} by λ and μ (cache of {size:,}, θ = {theta:g})",
    )


def _perplexities(swept: Swept) -> Float64s:
    """Returns the perplexity of every setting; infinite where it is not known."""
    with np.errstate(over="ignore"):
        ppl = np.exp2(swept.loss_TJSLM)
    return np.where(np.isfinite(ppl), ppl, np.inf)


def _some(values: Sequence[Value], chosen: Value) -> list[Value]:
    """Returns as many values as there are markers, the first, the last and the chosen one among them."""
    places = np.linspace(0, len(values) - 1, min(len(values), len(MARKERS))).round().astype(int)
    at = values.index(chosen)
    if at not in places:
        places[1 + np.abs(places[1:-1] - at).argmin()] = at
    return [values[place] for place in places]


def _draw_lines(axes: "Axes", x: Sequence[float], lines: Mapping[str, Float64s], title: str) -> None:
    """Draws a line for each label, with gaps where it is not finite, and a legend beside them."""
    import matplotlib

    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.82, len(lines)))
    axes.set_prop_cycle(color=colours, marker=list(MARKERS[: len(lines)]))
    for label, y in lines.items():
        axes.plot(x, np.ma.masked_invalid(y), label=label, markevery=max(len(x) // 20, 1))
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 0.6), alignment="left")


def _draw_reference(axes: "Axes", name: str, ppl: float) -> None:
    """Draws the perplexity that a figure's lines are compared with."""
    axes.axhline(ppl, color=_QUIET, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
    axes.annotate(
        f"{name}\n{ppl:.2f}",
        (1, ppl),
        xycoords=("axes fraction", "data"),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        color=_QUIET,
        fontsize=9,
        annotation_clip=False,
    )


def _mark(axes: "Axes", x: float, y: float, words: str, align: str = "center") -> None:
    """Marks the best place."""
    axes.plot([x], [y], marker="o", markersize=11, fillstyle="none", markeredgewidth=2, color=_MARKED, zorder=6)
    axes.annotate(
        words,
        (x, y),
        xytext=(0, -17),
        textcoords="offset points",
        ha=align,
        color=_MARKED,
        fontweight="bold",
        fontsize=9,
    )


def _limit(axes: "Axes", bottom: float, top: float, above: float) -> float:
    """Shows the best, the language model, and some room above it, and returns where that ends."""
    room = max(top - bottom, 0.02 * bottom)
    axes.set_ylim(bottom - 0.25 * room, top + above * room)
    return top + above * room


def _limit_weights(axes: "Axes", weights: Sequence[float], lines: Sequence[Float64s], top: float) -> None:
    """Shows the weights up to the first behind which every line is above ``top``."""
    last = max(int(np.flatnonzero(ppl <= top).max(initial=0)) for ppl in lines)
    axes.set_xlim(weights[0], weights[min(last + 1, len(weights) - 1)])


def _draw_cells(
    axes: "Axes",
    ppl_RC: Float64s,
    rows: Sequence[float],
    columns: Sequence[float],
    best: tuple[int, int],
    words: Sequence[Sequence[str]] | None = None,
    most: float | None = None,
) -> None:
    """Draws a cell for each pair, with its perplexity where there is room, and a frame around the best.

    Args:
        axes: what to draw on.
        ppl_RC: not finite where there is none.
        rows: the values.
        columns: likewise.
        best: row and column of the smallest.
        words: what stands under each perplexity.
        most: perplexity from which on cells have the same colour; None for the largest.
    """
    from matplotlib.patches import Rectangle

    cells_RC = np.ma.masked_invalid(ppl_RC)
    has_words = cells_RC.size <= _MOST_WORDS_IN_CELLS
    image = axes.pcolormesh(cells_RC, edgecolors="white", linewidth=1.5 if has_words else 0, vmax=most)
    for axis, values in ((axes.xaxis, columns), (axes.yaxis, rows)):
        step = 1 if has_words else -(-len(values) // 12)
        axis.set_ticks(np.arange(0, len(values), step) + 0.5, [f"{value:,g}" for value in values[::step]])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    middle = np.mean(image.get_clim())
    digits = 2 if np.ptp(cells_RC.compressed()) < 10 else 1
    for r, c in np.ndindex(cells_RC.shape) if has_words else ():
        if np.isfinite(ppl_RC[r, c]):
            text = f"{ppl_RC[r, c]:.{digits}f}" + (f"\n{words[r][c]}" if words else "")
            ink = "white" if ppl_RC[r, c] < middle else _INK
            axes.annotate(text, (c + 0.5, r + 0.5), ha="center", va="center", color=ink)
    # Beside the cells that were not chosen, a frame that neither hue nor lightness can hide.
    frame = Rectangle((best[1], best[0]), 1, 1, fill=False, edgecolor=_MARKED, linewidth=3, zorder=5, clip_on=False)
    axes.add_patch(frame)
    label = "perplexity" if words is None else "perplexity at the best λ"
    bar = axes.figure.colorbar(image, ax=axes, label=label, extend="neither" if most is None else "max")
    bar.outline.set_visible(False)
