"""What figures of sweeps have in common: style, lines, marks, heat maps, and files that are the same every time.

Ordered values have ordered colours (viridis without its light end, told apart by the colour-blind and in grey), and
markers as well. The only module that uses matplotlib, whose pyplot it leaves alone: nothing global, no display.

Legend: R rows · C columns of a heat map.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairseq.arrays import Float64s
from fairseq.errors import ConfigError
from fairseq.runtime.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# It reports at INFO that it looks for fonts.
logging.getLogger("matplotlib").setLevel(logging.WARNING)

MOST_LINES = 7
MOST_WORDS_IN_CELLS = 60
MARKERS = "osD^vPX"
_INK, _QUIET, _MARKED = "#222222", "#666666", "#D55E00"
_STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "text.parse_math": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 160,
}


def require_matplotlib() -> None:
    """Raises ConfigError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as err:
        raise ConfigError(
            "figures need matplotlib, which is not installed; pip install 'fairseq-knnlm[plots]', or give --no-figures"
        ) from err


def save_figures(drawings: Mapping[str, Callable[["Figure"], None]], directory: Path) -> list[Path]:
    """Draws each figure, writes it as SVG and PNG under its name, and returns the files."""
    import matplotlib
    from matplotlib.figure import Figure

    files = []
    for name, draw in drawings.items():
        # The salt makes the ids within an SVG the same every time, and unlike those of the others beside it.
        style: Any = {**_STYLE, "svg.hashsalt": name}
        with matplotlib.rc_context(style):
            figure = Figure(figsize=(7.2, 4.4), layout="constrained")
            draw(figure)
            for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
                path = directory / f"{name}.{kind}"
                with atomic_write(path) as file:
                    figure.savefig(file, format=kind, metadata=metadata)
                files.append(path)
    return files


def ppl_of(loss: Float64s) -> Float64s:
    """Returns perplexities of losses in bits."""
    with np.errstate(over="ignore"):
        ppl: Float64s = np.exp2(loss)
    return ppl


def finite(values: Float64s) -> Float64s:
    """Returns values for a minimum: what is not finite is never the smallest."""
    return np.where(np.isfinite(values), values, np.inf)


def gaps(values: Float64s) -> Float64s:
    """Returns values to draw: nothing where they are not finite."""
    return np.where(np.isfinite(values), values, np.nan)


@dataclass(frozen=True)
class HeatMap:
    """Perplexities by two values.

    Attributes:
        ppl_RC: not finite where there is none.
        rows, columns: the values.
        best: place of the smallest.
        words: what stands under a cell's perplexity, by its place; None for nothing.
        labels: of the columns, of the rows, of the colours.
        most: perplexity from which on cells have the same colour; None for the largest.
    """

    ppl_RC: Float64s
    rows: Sequence[float]
    columns: Sequence[float]
    best: tuple[int, int]
    words: Callable[[int, int], str] | None
    labels: tuple[str, str, str]
    most: float | None = None


def draw_heat_map(figure: "Figure", shown: HeatMap, title: str) -> None:
    """Draws a cell for each pair, with its numbers where there is room, and a frame around the best."""
    axes = figure.add_subplot()
    cells_RC = gaps(shown.ppl_RC)
    has_words = cells_RC.size <= MOST_WORDS_IN_CELLS
    image = axes.pcolormesh(
        cells_RC, cmap="viridis", edgecolors="white", linewidth=1.5 if has_words else 0, vmax=shown.most
    )
    for axis, values in ((axes.xaxis, shown.columns), (axes.yaxis, shown.rows)):
        step = 1 if has_words else -(-len(values) // 12)
        axis.set_ticks(np.arange(0, len(values), step) + 0.5, [f"{value:,g}" for value in values[::step]])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if has_words:
        digits = 2 if np.nanmax(cells_RC) - np.nanmin(cells_RC) < 10 else 1
        for r, c in np.ndindex(cells_RC.shape):
            if np.isfinite(cells_RC[r, c]):
                words = shown.words(r, c) if shown.words is not None else ""
                _write_cell(axes, image, (r, c), f"{cells_RC[r, c]:.{digits}f}", words)
    # Beside the cells that were not chosen, a frame that neither hue nor lightness can hide.
    axes.add_patch(_frame(shown.best[1], shown.best[0]))
    ends = "neither" if shown.most is None else "max"
    bar = figure.colorbar(image, ax=axes, label=shown.labels[2], extend=ends)
    bar.outline.set_visible(False)
    axes.set(xlabel=shown.labels[0], ylabel=shown.labels[1], title=title)


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


def draw_reference(axes: "Axes", name: str, ppl: float) -> None:
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


def mark(axes: "Axes", x: float, y: float, words: str, align: str = "center") -> None:
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


def limit(axes: "Axes", bottom: float, top: float, above: float) -> float:
    """Shows the best, the language model, and some room above it, and returns where that ends."""
    room = max(top - bottom, 0.02 * bottom)
    axes.set_ylim(bottom - 0.25 * room, top + above * room)
    return top + above * room


def some(values: Sequence[Any], chosen: Any) -> list[Any]:
    """Returns at most so many values, the first, the last and the chosen one among them."""
    if len(values) <= MOST_LINES:
        return list(values)
    places = {round(place) for place in np.linspace(0, len(values) - 1, MOST_LINES)}
    if values.index(chosen) not in places:
        inner = sorted(places - {0, len(values) - 1}, key=lambda place: abs(place - values.index(chosen)))
        places = (places - {inner[0]}) | {values.index(chosen)}
    return [values[place] for place in sorted(places)]


def colours(count: int) -> list[Any]:
    """Returns so many colours, ordered as values are."""
    import matplotlib

    return [matplotlib.colormaps["viridis"](place) for place in np.linspace(0, 0.82, count)]
