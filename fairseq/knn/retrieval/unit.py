"""The unit of a saved retrieval's distances, which temperatures are multiples of."""

import logging

import numpy as np

from fairseq.errors import ConfigError
from fairseq.knn.config import multiple
from fairseq.knn.retrieval.retrieval import Retrieval

logger = logging.getLogger(__name__)


def has_unit(retrieval: Retrieval) -> bool:
    """Returns whether its distances are squared ones, and no inner products."""
    settings = retrieval.manifest.settings
    return settings.knn_sim_func != "dot" and settings.metric != "ip"


def unit_of(retrieval: Retrieval) -> float:
    """Returns the unit that the run has measured; else the median distance of its tokens' nearest neighbours.

    Raises:
        ConfigError: its distances are inner products, or no token has a neighbour.
    """
    directory = retrieval.directory
    if not has_unit(retrieval):
        raise ConfigError(
            f"--knn-temp auto is taken from squared distances, but {directory} has inner products; give numbers"
        )
    unit = unit_if_any(retrieval)
    if unit is None:
        raise ConfigError(f"--knn-temp auto is taken from distances, but {directory} has none above 0; give numbers")
    if retrieval.manifest.distance_unit:
        return unit
    logger.info(
        "%s was saved without a unit of its distances: the median one of its tokens' nearest neighbours, %g, is taken",
        directory,
        unit,
    )
    return unit


def unit_if_any(retrieval: Retrieval) -> float | None:
    """Returns the unit; None of inner products, or where no token has a neighbour apart from it."""
    if not has_unit(retrieval):
        return None
    if measured := retrieval.manifest.distance_unit:
        return measured
    nearest_N = np.asarray(retrieval.distances_NK[:, 0])
    nearest_N = nearest_N[np.isfinite(nearest_N) & (nearest_N > 0)]
    return multiple(float(np.median(nearest_N)), 1.0) if len(nearest_N) else None
