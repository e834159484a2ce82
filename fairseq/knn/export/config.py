"""Flags of ``fairseq-knnlm export-distribution``."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fairseq.config.flags import flag
from fairseq.config.kinds import File, Prefix, Rows
from fairseq.config.path_lists import split_paths, unescaped
from fairseq.errors import ConfigError
from fairseq.knn.config import AUTO, SIM_FUNCS, check_temperature
from fairseq.knn.datastore.config import parse_rows


@dataclass(frozen=True)
class ExportConfig:
    """The datastore, how its rows are searched for, and the file to write."""

    dstore_filename: Prefix = flag(
        dataclasses.MISSING, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy"
    )
    indexfile: File = flag(dataclasses.MISSING, "FAISS index of the datastore")
    destination: File = flag(dataclasses.MISSING, "Arrow file to write (an IPC stream)")
    k: int = flag(1024, "neighbours of a row, itself not among them", minimum=1, maximum=(1 << 31) - 2)
    probe: int = flag(8, "inverted lists of the index that a search visits", minimum=1)
    knn_temp: float | Literal["auto"] = flag(
        1.0,
        "temperature T: a neighbour's weight is exp(−distance / T); auto takes T from the distances between the rows",
    )
    knn_sim_func: str | None = flag(
        None,
        "distance that neighbours are weighed by [default: exact squared L2, from the stored keys]",
        choices=SIM_FUNCS,
    )
    rows: Rows | None = flag(None, "only the rows from FIRST on, before STOP [default: all]")
    allow_mismatch: bool = flag(False, "only warn if datastore and index do not belong together")
    overwrite: bool = flag(False, "replace an existing file, if this program wrote it")

    def __post_init__(self) -> None:
        check_temperature(self.knn_temp)
        for name in ("dstore_filename", "indexfile"):
            if len(split_paths(getattr(self, name))) != 1 or not getattr(self, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} must name one datastore's, but is {getattr(self, name)!r}; export"
                    " several one after the other"
                )
        if self.knn_temp == AUTO and self.knn_sim_func == "dot":
            raise ConfigError(
                "--knn-temp auto is taken from squared distances, but --knn-sim-func dot is of inner products; give a"
                " number"
            )
        if self.rows is not None:
            parse_rows(self.rows)

    @property
    def prefix(self) -> str:
        """The datastore's."""
        return unescaped(self.dstore_filename)
