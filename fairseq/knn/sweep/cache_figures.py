"""What a sweep over neighbours and cache found, drawn: perplexity over μ, and over both weights."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fairseq.knn.sweep.cache_mix import Mixed
from fairseq.knn.sweep.figure_style import (
    MARKERS,
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Colours end a little above the language model: near λ + μ = 1 perplexities have no bounds.
_ABOVE_LM = 1.1


def draw_figures(mixed: Mixed, split: str, directory: Path) -> list[Path]:
    """Writes each figure as SVG and PNG, and returns the files; what has a single value has no figure of its own."""
    many_lmbdas, many_weights = len(mixed.lmbdas) > 1, len(mixed.cache_lmbdas) > 1
    wanted = {
        "perplexity_by_cache_weight": (_by_cache_weight, many_weights),
        "perplexity_by_both_weights": (_by_both_weights, many_lmbdas and many_weights),
    }
    drawings = {name: partial(draw, mixed, split) for name, (draw, is_wanted) in wanted.items() if is_wanted}
    return save_figures(drawings, directory)


def _by_cache_weight(mixed: Mixed, split: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    ppl_SLM, (s, i, j) = finite(ppl_of(mixed.loss_SLM)), mixed.best(neighbours=True, cache=True)
    chosen = some(list(range(len(mixed.caches))), s)
    every = max(len(mixed.cache_lmbdas) // 20, 1)
    for number, (place, colour) in enumerate(zip(chosen, colours(len(chosen)), strict=True)):
        cache = mixed.caches[place]
        axes.plot(
            mixed.cache_lmbdas,
            gaps(ppl_SLM[place].min(axis=0)),
            color=colour,
            marker=MARKERS[number],
            markevery=every,
            label=f"{cache['cache_size']:,}, {cache['cache_theta']:g}",
        )
    bottom, without, lm = float(ppl_SLM[s, i, j]), float(ppl_SLM[0, :, 0].min()), float(ppl_SLM[0, 0, 0])
    draw_reference(axes, "language model", lm)
    if without < lm:
        draw_reference(axes, "+ neighbours", without)
    mark(axes, mixed.cache_lmbdas[j], bottom, f"{bottom:.2f} at μ = {mixed.cache_lmbdas[j]:g}, λ = {mixed.lmbdas[i]:g}")
    top = limit(axes, bottom, lm, above=0.3)
    lowest_M = ppl_SLM.min(axis=(0, 1))
    last = int(np.flatnonzero(lowest_M <= top).max(initial=1))
    axes.set_xlim(mixed.cache_lmbdas[0], mixed.cache_lmbdas[min(last + 1, len(mixed.cache_lmbdas) - 1)])
    axes.set(
        xlabel="weight of the cache, μ", ylabel=f"perplexity on {split}", title="Perplexity over μ, each at its best λ"
    )
    axes.legend(title="cache size, θ", loc="upper left", bbox_to_anchor=(1.01, 0.6), alignment="left")


def _by_both_weights(mixed: Mixed, split: str, figure: "Figure") -> None:
    s, i, j = mixed.best(neighbours=True, cache=True)
    cache = mixed.caches[s]
    ppl_LM = finite(ppl_of(mixed.loss_SLM[s]))
    shown = HeatMap(
        ppl_LM,
        mixed.lmbdas,
        mixed.cache_lmbdas,
        (i, j),
        None,
        ("weight of the cache, μ", "weight of the neighbours, λ", "perplexity"),
        most=_ABOVE_LM * float(ppl_LM[0, 0]),
    )
    words = f"cache of {cache['cache_size']:,}, θ = {cache['cache_theta']:g}"
    draw_heat_map(figure, shown, f"Perplexity on {split} by λ and μ ({words})")
