"""Reading the file of a fitted weight, and checking that the weight belongs to what it is used with."""

from collections.abc import Mapping
from pathlib import Path

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.identity import mismatch
from fairseq.knn.weight.model import LmbdaModel
from fairseq.storage.records import read_record


def read_model(path: Path) -> LmbdaModel:
    """Returns the weight in a file.

    Raises:
        DatastoreError: it is no such file, of another version, or not sound.
    """
    try:
        return read_record(path, LmbdaModel, DatastoreError, "fit it again (fairseq-knnlm fit-lmbda)")
    except FileNotFoundError as err:
        raise DatastoreError(f"{path} does not exist; fairseq-knnlm fit-lmbda writes one") from err


def check_fits(
    model: LmbdaModel, path: Path, found: Mapping[str, str | None], k: int, temperature: float, *, allow_mismatch: bool
) -> None:
    """Checks that a weight was fitted for what it is used with; what either side does not know is not compared.

    Raises:
        MismatchError: it was not; with ``allow_mismatch`` a warning.
    """
    for flag, fitted, used in (("--k", model.k, k), ("--knn-temp", model.knn_temp, temperature)):
        if fitted != used:
            mismatch(
                f"{path} was fitted with {flag} {fitted:g}, but this run has {used:g}; leave {flag} out, or give"
                f" {fitted:g}",
                allow_mismatch,
            )
    for name, fitted_for in model.fitted_for.items():
        used_with = found.get(name)
        if fitted_for is not None and used_with is not None and fitted_for != used_with:
            mismatch(
                f"{path} was fitted for {name} {fitted_for[:12]}, but this run has {used_with[:12]}; fit it again for"
                " this one",
                allow_mismatch,
            )
