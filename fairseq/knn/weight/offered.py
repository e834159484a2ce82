"""Which k and temperatures a weight is fitted for: those that were typed, else what a sweep has chosen.

Where no sweep was kept, one is done: of every k and T, those at which a fixed λ is best.
"""

from dataclasses import dataclass

import numpy as np

from fairseq.knn.config import AUTO
from fairseq.knn.retrieval.results import swept_choice
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.edges import search_edges
from fairseq.knn.sweep.grid import Grid, powers
from fairseq.knn.sweep.sweep import sweep
from fairseq.knn.sweep.temperatures import offered_temperatures
from fairseq.knn.weight.config import FitLmbdaConfig
from fairseq.knn.weight.tokens import lm_log_probs

# Weights of the fixed mixtures that k and T are chosen by.
LMBDAS = tuple(float(lmbda) for lmbda in np.arange(1, 20) / 20)


@dataclass(frozen=True)
class Offered:
    """What a weight is fitted for.

    Attributes:
        ks: numbers of neighbours, each with each of the temperatures.
        temperatures: of p_kNN.
        is_auto: no temperature was typed as a number.
        words: where they come from.
        edges: what is at an edge of what a sweep tried; None where no sweep was asked.
    """

    ks: tuple[int, ...]
    temperatures: tuple[float, ...]
    is_auto: bool
    words: str = ""
    edges: tuple[str, ...] | None = None


def offered(config: FitLmbdaConfig, retrieval: Retrieval) -> Offered:
    """Returns which k and temperatures a weight is fitted for.

    Raises:
        ConfigError: more neighbours are asked for than were saved, or ``auto`` where distances have no unit.
        DatastoreError: the retrieval's results are broken, or no setting has a finite loss.
    """
    ks, typed = tuple(sorted(set(config.k))), tuple(dict.fromkeys(config.knn_temp))
    for k in ks:
        retrieval.check_k(k)
    is_auto = all(temperature == AUTO for temperature in typed)
    choice = swept_choice(retrieval) if not ks or not typed else None
    if typed:
        ks = ks or (choice.k if choice is not None else retrieval.k,)
        return Offered(ks, offered_temperatures(retrieval, ",".join(map(str, typed))), is_auto)
    if choice is not None:
        words = choice.words if not ks else ""
        return Offered(ks or (choice.k,), (choice.knn_temp,), is_auto, words, edges=())  # that sweep has told them
    lm_log_probs(retrieval)  # says what is wrong with them, if anything is
    grid = Grid(LMBDAS, ks or powers(retrieval.k), offered_temperatures(retrieval, None))
    best = sweep(retrieval, grid).best()
    words = f"the best of {len(grid.ks) * len(grid.temperatures)} for a fixed λ"
    tried, saved = () if ks else grid.ks, (retrieval.k, retrieval.rows)
    edges = search_edges(best.k, best.knn_temp, tried, grid.temperatures, *saved)
    return Offered(ks or (best.k,), (best.knn_temp,), is_auto, words, tuple(edges))
