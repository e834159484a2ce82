"""Generating by the book: a function gives ln p of every word behind a row, and everything else is loops."""

from collections.abc import Callable, Sequence

import numpy as np

NextLogP = Callable[[Sequence[int]], np.ndarray]


def allowed(log_p: NextLogP, row: Sequence[int], size: int, min_len: int, pad: int, eos: int) -> np.ndarray:
    """Returns ln p of every word that may follow ``size`` tokens of text; −inf for the others."""
    out = np.array(log_p(row), np.float64)
    out[pad] = -np.inf
    if size < min_len:
        out[eos] = -np.inf
    return out


def beam_search(
    log_p: NextLogP, row: list[int], beam: int, most: int, lenpen: float = 1.0, min_len: int = 1, pad=1, eos=2
) -> list[tuple[float, list[int]]]:
    """Returns (score, text) of the finished texts, the best first."""
    live, done = [(0.0, list[int]())], []
    for size in range(most):
        found = []
        for total, text in live:
            worth = allowed(log_p, row + text, size, min_len, pad, eos)
            found += [(total + worth[w], [*text, w]) for w in range(len(worth)) if worth[w] > -np.inf]
        found.sort(key=lambda item: -item[0])
        found = found[: 2 * beam]
        done += [item for item in found[:beam] if item[1][-1] == eos][: beam - len(done)]
        live = [item for item in found if item[1][-1] != eos][:beam]
        if len(done) == beam:
            live = []
            break
    done += live
    return sorted(((total / len(text) ** lenpen, text) for total, text in done), key=lambda item: -item[0])


def best_text(log_p: NextLogP, row: list[int], most: int, min_len: int = 1, pad=1, eos=2) -> tuple[float, list[int]]:
    """Returns the text with the largest mean ln p among all that end in ``eos`` or have ``most`` tokens."""
    best, todo = (-np.inf, list[int]()), [(0.0, list[int]())]
    while todo:
        total, text = todo.pop()
        worth = allowed(log_p, row + text, len(text), min_len, pad, eos)
        for w in np.flatnonzero(worth > -np.inf).tolist():
            item = (total + worth[w], [*text, w])
            if w == eos or len(item[1]) == most:
                best = max(best, (item[0] / len(item[1]), item[1]))
            else:
                todo.append(item)
    return best


def most_probable(log_p: Sequence[float], count: int) -> set[int]:
    """Returns the ``count`` most probable words."""
    return set(sorted(range(len(log_p)), key=lambda w: -log_p[w])[:count])


def nucleus(log_p: Sequence[float], share: float) -> set[int]:
    """Returns the fewest most probable words that have this share of the probability."""
    p = np.exp(log_p) / np.exp(log_p).sum()
    kept, total = set[int](), 0.0
    for w in sorted(range(len(p)), key=lambda w: -p[w]):
        if total >= share:
            break
        kept.add(w)
        total += p[w]
    return kept


def holds_twice(tokens: Sequence[int], n: int) -> bool:
    """Returns whether some n tokens in a row stand twice in ``tokens``."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) < len(grams)
