"""How many inverted lists suit how many rows: to train them, and to find k neighbours in those that are visited.

4096 lists of 432,157 rows, 8 visited ── about 844 rows ── fewer than k = 1024: places stay empty
1688 lists, or 20 visited             ── about 2,048 rows, twice k, since lists are not of one size
"""

import logging
import math

from fairseq.errors import ConfigError
from fairseq.knn.config import KNNConfig

logger = logging.getLogger(__name__)

# What FAISS asks for: product codes need 2**8 points, and k-means 39 a list for centroids that are worth something.
PQ_CENTROIDS = 256
POINTS_PER_CENTROID = 39
# Rows that the visited lists should hold for each of the k neighbours.
ROWS_A_PLACE = 2


def fitting(count: int, visited: int, rows_visited: float, k: int) -> tuple[int, int]:
    """Returns how many lists an index should have, or how many a search should visit, to find k neighbours.

    Args:
        count: lists that there are.
        visited: lists that a search visits.
        rows_visited: rows in these, on average.
        k: neighbours.
    """
    factor = max(ROWS_A_PLACE * k / rows_visited, float(ROWS_A_PLACE))
    return max(int(count / factor), 1), min(math.ceil(visited * factor), count)


def check_lists(spec: str | None, count: int, sample: int, rows: int, probe: int) -> None:
    """Refuses, before anything is read, more lists than rows to train on, and warns of too many for the rows.

    Args:
        spec: that was given; None for the default.
        count: lists.
        sample: rows to train on.
        rows: that can be found.
        probe: lists that a search visits.

    Raises:
        ConfigError: the lists cannot be trained.
    """
    enough_to_train = max(sample // POINTS_PER_CENTROID, 1)
    needed = max(count, PQ_CENTROIDS) if spec is None else count
    if sample < needed:
        name = "--ncentroids" if spec is None else f"--index-spec {spec}:"
        raise ConfigError(
            f"{name} {count} lists need {needed} rows to train on, but there are {sample}; use {enough_to_train} lists"
            " or fewer, or --index-spec Flat for so small a store"
        )
    reasons, most, instead = [], count, ""
    if sample < POINTS_PER_CENTROID * count:
        reasons, most = [f"{sample} rows are few to train them on"], enough_to_train
    k, rows_visited = KNNConfig.k, probe * rows / max(count, 1)
    if 0 < probe < count and rows_visited < k:
        lists, visited = fitting(count, probe, rows_visited, k)
        if lists > probe:  # else so many that all would be visited
            instead = "" if reasons else f", or search with --probe {visited}"
            reasons.append(f"the {probe} that a search visits hold about {rows_visited:.0f}, and --k is {k} by default")
            most = min(most, lists)
    if reasons:
        fewer = f"--ncentroids {most}" if spec is None else f"{most} lists"
        logger.warning(
            "%d inverted lists are many for %d rows: %s; %s or fewer would do%s",
            count,
            rows,
            "; ".join(reasons),
            fewer,
            instead,
        )
