"""The rows of the table by name: the original's own commands on the golden model and data."""

from collections.abc import Callable

from bench import Bench, Row
from knn_rows import dump_row, index_row, knn_row
from lm_rows import eval_row, preprocess_row, train_row

ROWS: dict[str, Callable[[Bench], Row]] = {
    "preprocess": preprocess_row,
    "train": lambda bench: train_row(bench, bf16=False),
    "train-bf16": lambda bench: train_row(bench, bf16=True),
    "eval": lambda bench: eval_row(bench, bf16=False),
    "eval-bf16": lambda bench: eval_row(bench, bf16=True),
    "dump": lambda bench: dump_row(bench, bf16=False),
    "dump-bf16": lambda bench: dump_row(bench, bf16=True),
    "index": lambda bench: index_row(bench, None),
    "knn-exact": lambda bench: knn_row(bench, exact=True),
    "knn-own": lambda bench: knn_row(bench, exact=False),
}


def make_row(bench: Bench, name: str) -> Row:
    """Returns a row by name; ``index:SPEC``, ``knn-exact:SPEC`` and ``knn-own:SPEC`` take an index of ours.

    Raises:
        ValueError: there is no such row.
    """
    base, _, spec = name.partition(":")
    chosen = None if spec == "default" else spec
    if spec and base == "index":
        return index_row(bench, chosen)
    if spec and base in ("knn-exact", "knn-own"):
        return knn_row(bench, exact=base == "knn-exact", spec=chosen)
    if name not in ROWS:
        raise ValueError(
            f"--rows: no row {name!r}; there are {', '.join(ROWS)}, index:SPEC, knn-exact:SPEC, knn-own:SPEC"
        )
    return ROWS[name](bench)
