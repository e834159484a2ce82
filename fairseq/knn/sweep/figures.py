"""What a sweep found, drawn: perplexity over λ, over k, and over both k and temperature."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fairseq.criterions.perplexity import perplexity_of
from fairseq.knn.sweep.figure_style import (
    MARKERS,
    MOST_LINES,
    HeatMap,
    colours,
    draw_heat_map,
    draw_reference,
    finite,
    gaps,
    limit,
    mark,
    ppl_of,
    save_figures,
    some,
)
from fairseq.knn.sweep.sweep import Swept

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figures(swept: Swept, split: str, directory: Path) -> list[Path]:
    """Writes each figure as SVG and PNG, and returns the files; what has a single value has no figure of its own."""
    grid = swept.grid
    wanted = {
        "perplexity_by_lambda": (_by_lambda, len(grid.lmbdas) > 1),
        "perplexity_by_k": (_by_k, len(grid.ks) > 1),
        "perplexity_by_k_and_temperature": (_by_k_and_temperature, len(grid.ks) * len(grid.temperatures) > 1),
    }
    drawings = {name: partial(draw, swept, split) for name, (draw, is_wanted) in wanted.items() if is_wanted}
    return save_figures(drawings, directory)


def _by_lambda(swept: Swept, split: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    ppl_TJL, best, lmbdas = finite(ppl_of(swept.loss_TJL)), swept.best(), swept.grid.lmbdas
    chosen = some(swept.grid.ks, best.k)
    drawn = []
    for number, (k, colour) in enumerate(zip(chosen, colours(len(chosen)), strict=True)):
        ppl_TL = ppl_TJL[:, swept.grid.ks.index(k)]
        t = int(np.argmin(ppl_TL.min(axis=1)))
        needs_t = k > 1 and len(swept.grid.temperatures) > 1
        label = f"{k:,}  (T = {swept.grid.temperatures[t]:g})" if needs_t else f"{k:,}"
        every = max(len(lmbdas) // 20, 1)
        axes.plot(lmbdas, gaps(ppl_TL[t]), color=colour, label=label, marker=MARKERS[number], markevery=every)
        drawn.append(ppl_TL[t])
    bottom = float(ppl_TJL.min())
    draw_reference(axes, "language model", perplexity_of(swept.lm_loss))
    mark(axes, best.lmbda, bottom, f"{bottom:.2f} at λ = {best.lmbda:g}")
    lowest = [float(ppl_L.min()) for ppl_L in drawn if np.isfinite(ppl_L.min())]
    top = limit(axes, bottom, max(perplexity_of(swept.lm_loss), *lowest), above=0.5)
    last = max(int(np.flatnonzero(ppl_L <= top).max(initial=0)) for ppl_L in drawn)
    axes.set_xlim(lmbdas[0], lmbdas[min(last + 1, len(lmbdas) - 1)])
    axes.set(xlabel="weight of the neighbours, λ", ylabel=f"perplexity on {split}", title="Perplexity over λ")
    title = "neighbours k" if len(swept.grid.temperatures) == 1 else "neighbours k (their best T)"
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 0.6), alignment="left")


def _by_k(swept: Swept, split: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    ppl_TJ = finite(ppl_of(swept.loss_TJL)).min(axis=2)
    best = swept.best()
    chosen = some(swept.grid.temperatures, best.knn_temp)
    by_number = colours(len(chosen))
    for number, temperature in enumerate(chosen):
        ppl_J = ppl_TJ[swept.grid.temperatures.index(temperature)]
        axes.plot(
            swept.grid.ks,
            gaps(ppl_J),
            color=by_number[number],
            marker=MARKERS[number],
            label=f"{temperature:g}",
        )
    axes.set_xscale("log", base=2)
    ks = swept.grid.ks
    doubled = [1 << i for i in range(ks[-1].bit_length()) if ks[0] <= 1 << i]
    ticks = list(ks) if len(ks) <= MOST_LINES else doubled[:: -(-len(doubled) // MOST_LINES)] or [ks[0], ks[-1]]
    axes.set_xticks(ticks, [f"{k:,}" for k in ticks])
    axes.minorticks_off()
    draw_reference(axes, "language model", perplexity_of(swept.lm_loss))
    bottom = float(ppl_TJ[swept.grid.temperatures.index(best.knn_temp), swept.grid.ks.index(best.k)])
    ends = {swept.grid.ks[0]: "left", swept.grid.ks[-1]: "right"}
    mark(axes, best.k, bottom, f"{bottom:.2f} at k = {best.k:,}", ends.get(best.k, "center"))
    limit(axes, bottom, max(perplexity_of(swept.lm_loss), float(ppl_TJ[np.isfinite(ppl_TJ)].max())), above=0.15)
    axes.set(xlabel="neighbours, k", ylabel=f"perplexity on {split}", title="Perplexity over k, each at its best λ")
    axes.legend(title="temperature T", loc="upper left", bbox_to_anchor=(1.01, 0.6), alignment="left")


def _by_k_and_temperature(swept: Swept, split: str, figure: "Figure") -> None:
    grid, best = swept.grid, swept.best()
    loss_TJL = finite(swept.loss_TJL)
    lmbda_TJ = loss_TJL.argmin(axis=2)
    shown = HeatMap(
        ppl_of(loss_TJL.min(axis=2)),
        grid.temperatures,
        grid.ks,
        (grid.temperatures.index(best.knn_temp), grid.ks.index(best.k)),
        lambda t, j: f"λ {grid.lmbdas[lmbda_TJ[t, j]]:g}",
        ("neighbours, k", "temperature, T", "perplexity at the best λ"),
    )
    draw_heat_map(figure, shown, f"Best perplexity on {split} by k and T")
