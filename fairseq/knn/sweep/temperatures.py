"""The temperatures that are tried on a saved retrieval."""

from fairseq.knn.config import AUTO
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.retrieval.unit import has_unit, unit_of
from fairseq.knn.sweep.grid import temperatures_of

# Where distances have no unit.
OF_INNER_PRODUCTS = (0.1, 1.0, 10.0, 100.0)


def offered_temperatures(retrieval: Retrieval, text: str | None) -> tuple[float, ...]:
    """Returns the temperatures that ``--knn-temp`` offers for a retrieval; multiples of its unit if left out.

    Raises:
        ConfigError: it spells none, or ``auto`` where distances have no unit.
    """
    if text is None and not has_unit(retrieval):
        return OF_INNER_PRODUCTS
    text = AUTO if text is None else text
    return temperatures_of(text, unit_of(retrieval) if AUTO in text.split(",") else 1.0)
