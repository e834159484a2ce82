"""Advice on a choice: where a better value may lie beyond those that were offered, and where its gain is in doubt.

Ends that nothing lies behind (λ of 0 and 1, one neighbour, a cache as long as the text) are no edges.
"""

from collections.abc import Iterator, Sequence

from fairseq.criterions.perplexity import perplexity_of
from fairseq.knn.sweep.bootstrap import Gain
from fairseq.knn.sweep.grid import Setting


def neighbour_edges(
    setting: Setting,
    lmbdas: Sequence[float],
    ks: Sequence[int],
    temperatures: Sequence[float],
    saved_k: int,
    rows: int | None,
) -> Iterator[str]:
    """Yields the edges that the best λ, k and T lie at; the values that were offered are ascending.

    Args:
        setting: the best one.
        lmbdas: offered.
        ks: offered.
        temperatures: offered.
        saved_k: neighbours of a token in the retrieval.
        rows: of the datastore, more than which nobody finds; None where that is not known.
    """
    if setting.lmbda == 0:
        if len(lmbdas) > 1:
            yield "--lmbda 0 is best: neighbours help at none of these settings."
        return
    yield from weight_edge("--lmbda", setting.lmbda, lmbdas)
    yield from search_edges(setting.k, setting.knn_temp, ks, temperatures, saved_k, rows)


def search_edges(
    k: int, temperature: float, ks: Sequence[int], temperatures: Sequence[float], saved_k: int, rows: int | None
) -> Iterator[str]:
    """Yields the edges that the best k and T lie at, likewise."""
    if side := _side(temperature, temperatures):
        factors = (0.25, 0.5) if side == "smaller" else (2, 4) if side == "larger" else (0.5, 2)
        further = ",".join(f"{temperature * factor:.3g}" for factor in factors)
        yield _line(f"--knn-temp {temperature:g}", side, f"try --knn-temp {further} as well")
    if len(ks) < 2:
        return
    if k == saved_k:
        more = 2 * k if rows is None else min(2 * k, rows)
        if more > k:
            yield (
                f"--k {k} is all that was saved: more neighbours may be better; give fairseq-eval-lm --save-retrieval"
                f" --k {more}"
            )
    elif k == ks[-1]:
        yield _line(f"--k {k}", "larger", f"try --k {min(2 * k, saved_k)} as well")
    elif k == ks[0] > 1:
        yield _line(f"--k {k}", "smaller", f"try --k {k // 2} as well")


def weight_edge(name: str, weight: float, offered: Sequence[float]) -> Iterator[str]:
    """Yields the edge that the best weight of neighbours or of a cache lies at."""
    side = _side(weight, offered)
    if not side and offered[0] == 0 and weight == offered[1]:
        yield (
            f"{name} {weight:g} is the smallest above 0 that was tried: smaller values may be better; try {name}"
            f" 0:{weight:g}:{weight / 10:.2g}."
        )
    if side and weight not in (0.0, 1.0):
        further = {"smaller": f"0:{weight:g}:{weight / 10:.2g}", "larger": f"{weight:g}:1:0.01", "other": "0:1:0.05"}
        yield _line(f"{name} {weight:g}", side, f"try {name} {further[side]}")


def cache_edges(cache: tuple[int, float], saved: Sequence[tuple[int, float]], num_tokens: int) -> Iterator[str]:
    """Yields the edges that size and θ of the best cache lie at, of several that were saved."""
    sizes, thetas = (sorted(set(values)) for values in zip(*saved, strict=True))
    size, theta = cache
    if len(sizes) > 1 and (side := _side(size, sizes)) and size > 1 and (side == "smaller" or size < num_tokens):
        further = size // 2 if side == "smaller" else 2 * size
        yield _line(f"--cache-size {size}", side, f"save the retrieval with --cache-size {further} as well")
    if len(thetas) > 1 and (side := _side(theta, thetas)):
        further_theta = theta / 2 if side == "smaller" else theta * 2
        yield _line(
            f"--cache-theta {theta:g}", side, f"save the retrieval with --cache-theta {further_theta:g} as well"
        )


def doubts(what: str, gains: Sequence[Gain], splits: Sequence[str]) -> Iterator[str]:
    """Yields on which texts a choice is worse than what it is compared with, or no better that can be told.

    Args:
        what: was chosen and what it is compared with, in words.
        gains: on each text.
        splits: their names.
    """
    for gain, split in zip(gains, splits, strict=True):
        if gain.bits < 0:
            yield f"On {split}, {what} is worse: {perplexity_of(gain.lm_loss):.2f} → {perplexity_of(gain.loss):.2f}."
        elif gain.bits > 0 and gain.ppl_interval is not None and gain.ppl_interval[0] <= 0:
            yield f"On {split}, the gain of {what} may be chance: its interval contains 0."


def _side(value: float, offered: Sequence[float]) -> str:
    """Returns on which side nothing was offered: smaller, larger, or of a single value other; else nothing."""
    if value not in (offered[0], offered[-1]):
        return ""
    return "other" if len(offered) == 1 else "smaller" if value == offered[0] else "larger"


def _line(what: str, side: str, remedy: str) -> str:
    return f"{what} is at the edge of what was tried: {side} values may be better; {remedy}."
