"""An untrained index of what the flags ask for."""

from typing import Any

from fairseq.errors import ConfigError
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import faiss_reason


def new_index(config: BuildConfig, dimension: int) -> Any:
    """Returns an untrained index.

    Raises:
        ConfigError: the specification cannot be built for keys of this width.
    """
    import faiss

    if config.index_spec is None:
        if dimension % config.code_size:
            raise ConfigError(
                f"--code-size {config.code_size} must divide the key width {dimension};"
                f" try {_divisor(config, dimension)}"
            )
        return faiss.IndexIVFPQ(faiss.IndexFlatL2(dimension), dimension, config.ncentroids, config.code_size, 8)
    try:
        return faiss.index_factory(dimension, config.index_spec)
    except RuntimeError as err:
        raise ConfigError(
            f"--index-spec {config.index_spec} must be a FAISS factory string for keys of width {dimension}, but"
            f" FAISS says: {faiss_reason(err)}"
        ) from err


def _divisor(config: BuildConfig, dimension: int) -> int:
    return max(size for size in range(1, config.code_size) if dimension % size == 0)
