"""FAISS indexes that are trained in a moment, for tests that are not about training."""

from typing import Any

import faiss

ROTATION_ROUNDS = 4


def small_index(width: int, spec: str, metric: int = faiss.METRIC_L2) -> Any:
    """Returns the untrained index of a factory string, without what takes long and moves no neighbour.

    FAISS orders the words of product codes for a filter that no search here uses (polysemous training, twenty times as
    long as all else), and turns an OPQ rotation fifty times.
    """
    index = faiss.index_factory(width, spec, metric)
    base = faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index
    if isinstance(base, faiss.IndexPreTransform):
        rotation: Any = faiss.downcast_VectorTransform(base.chain.at(0))
        if isinstance(rotation, faiss.OPQMatrix):
            rotation.niter = ROTATION_ROUNDS
    inverted: Any = faiss.try_extract_index_ivf(base)
    coded: Any = faiss.downcast_index(base if inverted is None else inverted)
    if hasattr(coded, "do_polysemous_training"):
        coded.do_polysemous_training = False
    return index
