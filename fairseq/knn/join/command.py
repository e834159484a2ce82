"""``fairseq-knnlm join``: what is given says what is put together."""

from pathlib import Path

from fairseq.config.kinds import stores_in
from fairseq.errors import ConfigError
from fairseq.knn.join.config import JoinConfig
from fairseq.storage.file_kinds import kind_at
from fairseq.storage.marks import is_of_kind

_RESULTS, _RETRIEVALS, _DATASTORES = "a job's result", "a retrieval", "a datastore"


def join(config: JoinConfig) -> str:
    """Puts together what jobs have written, and returns what to print.

    Raises:
        ConfigError: it is of several kinds, or a flag is for another kind; and what the kind's function raises.
    """
    from fairseq.knn.join.results import join_results, results_in
    from fairseq.knn.join.retrieval import join_retrieval

    parts = [part for part in map(Path, config.parts) if not is_of_kind(part, "times")]  # which lie beside results
    if not parts:
        raise ConfigError(f"{config.parts[0]} is the record of times beside a result; give the result")
    kind = _kind_of(parts[0])
    for part in parts:
        if (other := _kind_of(part)) != kind:
            raise ConfigError(f"{parts[0]} is {kind}, but {part} is {other}; give those of one kind")
    for flag, value, of in (
        ("--results-path", config.results_path, _RESULTS),
        ("--dstore-mmap", config.dstore_mmap, _DATASTORES),
    ):
        if value is not None and kind != of:
            raise ConfigError(f"{flag} goes with {of}, but {parts[0]} is {kind}; leave it out")
    if config.overwrite and kind == _RETRIEVALS:
        raise ConfigError(f"--overwrite has no effect: {parts[0]} is made whole where it is; leave it out")
    if kind == _DATASTORES:
        from fairseq.knn.dump.join import join_datastore

        return join_datastore([str(part) for part in parts], config.dstore_mmap, overwrite=config.overwrite)
    if kind == _RETRIEVALS:
        return join_retrieval(parts)
    paths = [path for part in parts for path in (results_in(part) if part.is_dir() else [part])]
    return join_results(paths, config.results_path, overwrite=config.overwrite)


def _kind_of(part: Path) -> str:
    """Returns what jobs have written there, in words.

    Raises:
        ConfigError: it is a directory of something else.
    """
    from fairseq.knn.join.results import results_in

    if is_of_kind(part / "manifest.json", "retrieval"):
        return _RETRIEVALS
    if part.is_dir():
        if results_in(part):
            return _RESULTS
        stores = stores_in(part)
        prefix = f", such as {stores[0]}" if stores else ""
        raise ConfigError(
            f"{part} is a directory without anything of a job array; give what fairseq-eval-lm --num-shards has"
            f" written: --results-path, --save-retrieval, or the prefix of --dstore-mmap{prefix}"
        )
    if part.suffix == ".json":
        if not part.is_file():
            raise ConfigError(f"{part} does not exist; give the results of the jobs")
        if is_of_kind(part, "evaluation"):
            return _RESULTS
        raise ConfigError(f"{part} is not the result of a job{_but(part)}; give what fairseq-eval-lm has written")
    return _DATASTORES


def _but(part: Path) -> str:
    kind = kind_at(part)
    return f", but {kind}" if kind else ""
