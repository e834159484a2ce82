"""What a sweep found, drawn: perplexity over λ, over k, and over both k and temperature.

Ordered values have ordered colours (viridis without its light end, told apart by the colour-blind and in grey), and
markers as well. The only module that uses matplotlib, whose pyplot it leaves alone: nothing global, no display.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairseq.errors import ConfigError
from fairseq.files import atomic_write
from fairseq.knn.sweep import Float64s, Swept
from fairseq.perplexity import perplexity_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# It reports at INFO that it looks for fonts.
logging.getLogger("matplotlib").setLevel(logging.WARNING)

MOST_LINES = 7
MOST_WORDS_IN_CELLS = 60
_MARKERS = "osD^vPX"
_INK, _QUIET, _MARKED = "#222222", "#666666", "#D55E00"
_STYLE: dict[str, Any] = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": _QUIET, "axes.labelcolor": _INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.8, "text.color": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "legend.frameon": False, "lines.linewidth": 1.8, "lines.markersize": 5,
    "text.parse_math": False, "figure.facecolor": "white", "savefig.facecolor": "white", "savefig.dpi": 160,
}  # fmt: skip


def require_matplotlib() -> None:
    """Raises ConfigError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as err:
        raise ConfigError(
            "figures need matplotlib, which is not installed; pip install 'fairseq-knnlm[plots]', or give --no-figures"
        ) from err


def draw_figures(swept: Swept, split: str, directory: Path) -> list[Path]:
    """Writes each figure as SVG and PNG, and returns the files; what has a single value has no figure of its own."""
    import matplotlib
    from matplotlib.figure import Figure

    grid = swept.grid
    wanted = {
        "perplexity_by_lambda": (_by_lambda, len(grid.lmbdas) > 1),
        "perplexity_by_k": (_by_k, len(grid.ks) > 1),
        "perplexity_by_k_and_temperature": (_by_k_and_temperature, len(grid.ks) * len(grid.temperatures) > 1),
    }
    files = []
    for name, (draw, is_wanted) in wanted.items():
        if not is_wanted:
            continue
        # The salt makes the ids within an SVG the same every time, and unlike those of the others beside it.
        style: Any = {**_STYLE, "svg.hashsalt": name}
        with matplotlib.rc_context(style):
            figure = Figure(figsize=(7.2, 4.4), layout="constrained")
            draw(swept, split, figure)
            for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
                path = directory / f"{name}.{kind}"
                with atomic_write(path) as file:
                    figure.savefig(file, format=kind, metadata=metadata)
                files.append(path)
    return files


def _ppl(loss: Float64s) -> Float64s:
    with np.errstate(over="ignore"):
        ppl: Float64s = np.exp2(loss)
    return ppl


def _finite(values: Float64s) -> Float64s:
    """Returns values for a minimum: what is not finite is never the smallest."""
    return np.where(np.isfinite(values), values, np.inf)


def _gaps(values: Float64s) -> Float64s:
    """Returns values to draw: nothing where they are not finite."""
    return np.where(np.isfinite(values), values, np.nan)


def _by_lambda(swept: Swept, split: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    ppl_TJL, best, lmbdas = _finite(_ppl(swept.loss_TJL)), swept.best(), swept.grid.lmbdas
    chosen = _some(swept.grid.ks, best.k)
    drawn = []
    for number, (k, colour) in enumerate(zip(chosen, _colours(len(chosen)), strict=True)):
        ppl_TL = ppl_TJL[:, swept.grid.ks.index(k)]
        t = int(np.argmin(ppl_TL.min(axis=1)))
        needs_t = k > 1 and len(swept.grid.temperatures) > 1
        label = f"{k:,}  (T = {swept.grid.temperatures[t]:g})" if needs_t else f"{k:,}"
        every = max(len(lmbdas) // 20, 1)
        axes.plot(lmbdas, _gaps(ppl_TL[t]), color=colour, label=label, marker=_MARKERS[number], markevery=every)
        drawn.append(ppl_TL[t])
    bottom = float(ppl_TJL.min())
    _language_model(axes, swept)
    _mark(axes, best.lmbda, bottom, f"{bottom:.2f} at λ = {best.lmbda:g}")
    lowest = [float(ppl_L.min()) for ppl_L in drawn if np.isfinite(ppl_L.min())]
    top = _limit(axes, bottom, max(perplexity_of(swept.lm_loss), *lowest), above=0.5)
    last = max(int(np.flatnonzero(ppl_L <= top).max(initial=0)) for ppl_L in drawn)
    axes.set_xlim(lmbdas[0], lmbdas[min(last + 1, len(lmbdas) - 1)])
    axes.set(xlabel="weight of the neighbours, λ", ylabel=f"perplexity on {split}", title="Perplexity over λ")
    title = "neighbours k" if len(swept.grid.temperatures) == 1 else "neighbours k (their best T)"
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 0.6), alignment="left")


def _by_k(swept: Swept, split: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    ppl_TJ = _finite(_ppl(swept.loss_TJL)).min(axis=2)
    best = swept.best()
    chosen = _some(swept.grid.temperatures, best.knn_temp)
    colours = _colours(len(chosen))
    for number, temperature in enumerate(chosen):
        ppl_J = ppl_TJ[swept.grid.temperatures.index(temperature)]
        axes.plot(
            swept.grid.ks, _gaps(ppl_J), color=colours[number], marker=_MARKERS[number],
            label=f"{temperature:g}",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    ks = swept.grid.ks
    doubled = [1 << i for i in range(ks[-1].bit_length()) if ks[0] <= 1 << i]
    ticks = list(ks) if len(ks) <= MOST_LINES else doubled[:: -(-len(doubled) // MOST_LINES)] or [ks[0], ks[-1]]
    axes.set_xticks(ticks, [f"{k:,}" for k in ticks])
    axes.minorticks_off()
    _language_model(axes, swept)
    bottom = float(ppl_TJ[swept.grid.temperatures.index(best.knn_temp), swept.grid.ks.index(best.k)])
    ends = {swept.grid.ks[0]: "left", swept.grid.ks[-1]: "right"}
    _mark(axes, best.k, bottom, f"{bottom:.2f} at k = {best.k:,}", ends.get(best.k, "center"))
    _limit(axes, bottom, max(perplexity_of(swept.lm_loss), float(ppl_TJ[np.isfinite(ppl_TJ)].max())), above=0.15)
    axes.set(
        xlabel="neighbours, k", ylabel=f"perplexity on {split}", title="Perplexity over k, each at its best λ"
    )  # fmt: skip
    axes.legend(title="temperature T", loc="upper left", bbox_to_anchor=(1.01, 0.6), alignment="left")


def _by_k_and_temperature(swept: Swept, split: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    grid = swept.grid
    loss_TJL = _finite(swept.loss_TJL)
    ppl_TJ, lmbda_TJ = _ppl(loss_TJL.min(axis=2)), loss_TJL.argmin(axis=2)
    shown_TJ = _gaps(ppl_TJ)
    has_words = ppl_TJ.size <= MOST_WORDS_IN_CELLS
    image = axes.pcolormesh(shown_TJ, cmap="viridis", edgecolors="white", linewidth=1.5 if has_words else 0)
    axes.set_xticks(np.arange(len(grid.ks)) + 0.5, [f"{k:,}" for k in grid.ks])
    axes.set_yticks(np.arange(len(grid.temperatures)) + 0.5, [f"{t:g}" for t in grid.temperatures])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    best = swept.best()
    t_best, j_best = grid.temperatures.index(best.knn_temp), grid.ks.index(best.k)
    if has_words:
        digits = 2 if np.nanmax(shown_TJ) - np.nanmin(shown_TJ) < 10 else 1
        for t, j in np.ndindex(ppl_TJ.shape):
            if np.isfinite(ppl_TJ[t, j]):
                _write_cell(axes, image, (t, j), f"{ppl_TJ[t, j]:.{digits}f}", f"λ {grid.lmbdas[lmbda_TJ[t, j]]:g}")
    else:
        for axis, values in ((axes.xaxis, grid.ks), (axes.yaxis, grid.temperatures)):
            step = -(-len(values) // 12)
            axis.set_ticks(np.arange(0, len(values), step) + 0.5, [f"{value:,g}" for value in values[::step]])
    # Beside the cells that were not chosen, a frame that neither hue nor lightness can hide.
    axes.add_patch(_frame(j_best, t_best))
    bar = figure.colorbar(image, ax=axes, label="perplexity at the best λ")
    bar.outline.set_visible(False)
    axes.set(xlabel="neighbours, k", ylabel="temperature, T", title=f"Best perplexity on {split} by k and T")


def _write_cell(axes: "Axes", image: Any, place: tuple[int, int], ppl: str, weight: str) -> None:
    """Writes perplexity and λ into a cell, in what can be read on its colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in image.cmap(image.norm(float(ppl)))]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Contrast as the accessibility guidelines (WCAG) define it: white is better below a luminance of about 0.19.
    ink = _INK if (luminance + 0.05) / 0.065 > 1.05 / (luminance + 0.05) else "white"
    x, y = place[1] + 0.5, place[0] + 0.5
    axes.text(x, y + 0.08, ppl, ha="center", va="center", color=ink, fontsize=10)
    axes.text(x, y - 0.2, weight, ha="center", va="center", color=ink, fontsize=8)


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column, row), 1, 1, fill=False, edgecolor=_MARKED, linewidth=3, zorder=5, clip_on=False)


def _language_model(axes: "Axes", swept: Swept) -> None:
    ppl = perplexity_of(swept.lm_loss)
    axes.axhline(ppl, color=_QUIET, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
    axes.annotate(
        f"language model\n{ppl:.2f}", (1, ppl), xycoords=("axes fraction", "data"), xytext=(8, 0),
        textcoords="offset points", va="center", color=_QUIET, fontsize=9, annotation_clip=False,
    )  # fmt: skip


def _mark(axes: "Axes", x: float, y: float, words: str, align: str = "center") -> None:
    axes.plot([x], [y], marker="o", markersize=11, fillstyle="none", markeredgewidth=2, color=_MARKED, zorder=6)
    axes.annotate(
        words, (x, y), xytext=(0, -17), textcoords="offset points", ha=align, color=_MARKED, fontweight="bold",
        fontsize=9,
    )  # fmt: skip


def _limit(axes: "Axes", bottom: float, top: float, above: float) -> float:
    """Shows the best, the language model, and some room above it, and returns where that ends."""
    room = max(top - bottom, 0.02 * bottom)
    axes.set_ylim(bottom - 0.25 * room, top + above * room)
    return top + above * room


def _some(values: Sequence[Any], chosen: Any) -> list[Any]:
    """Returns at most so many values, the first, the last and the chosen one among them."""
    if len(values) <= MOST_LINES:
        return list(values)
    places = {round(place) for place in np.linspace(0, len(values) - 1, MOST_LINES)}
    if values.index(chosen) not in places:
        inner = sorted(places - {0, len(values) - 1}, key=lambda place: abs(place - values.index(chosen)))
        places = (places - {inner[0]}) | {values.index(chosen)}
    return [values[place] for place in sorted(places)]


def _colours(count: int) -> list[Any]:
    import matplotlib

    return [matplotlib.colormaps["viridis"](place) for place in np.linspace(0, 0.82, count)]
