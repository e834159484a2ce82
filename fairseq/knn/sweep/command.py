"""What ``fairseq-knnlm sweep`` and ``sweep-cache`` do: sweep a saved retrieval, and write what was found.

OUT/sweep.json    every setting as arrays, with the retrieval's identity, the choices and their intervals
OUT/table.md      what is printed, and a comment that says who wrote it
OUT/sweep.csv     every setting: its values, loss_base2, ppl, gain_ppl
OUT/*.svg, *.png  figures, where matplotlib is installed

sweep.json comes first: it has the settings, by which the same command is known again after it was killed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq.config.flags import as_dict
from fairseq.errors import ConfigError
from fairseq.knn.retrieval.compare import require_comparable, warn_if_outdated
from fairseq.knn.retrieval.own_text import warn_if_own_text
from fairseq.knn.retrieval.results import Choice, Kept, check_results, plain, swept_choice
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.config import CacheSweepConfig, SweepConfig
from fairseq.knn.sweep.figures import can_draw, draw_figures
from fairseq.knn.sweep.grid import Grid
from fairseq.knn.sweep.report import CacheReport, NeighbourReport, Origin
from fairseq.knn.sweep.sources import read_caches
from fairseq.knn.sweep.sweep import sweep
from fairseq.knn.sweep.temperatures import offered_temperatures
from fairseq.storage.files import atomic_write, encoded, locked, write_json
from fairseq.storage.marks import TABLE_MARK, json_at
from fairseq.storage.outputs import claim, claim_directory
from fairseq.storage.stores import sweep_names

VERSION = 1
Caches = tuple[tuple[int, float], ...]


def run_sweep(config: SweepConfig | CacheSweepConfig, seed: int, show: Callable[[str], None]) -> Kept:
    """Sweeps, writes everything, shows the table, and returns what the retrieval's results are to keep.

    Raises:
        ConfigError: flags do not go together.
        DatastoreError: a retrieval cannot be read, has no cache to sweep, or no setting has a finite loss.
        MismatchError: the other retrieval is of another model, datastore or cache.
    """
    kind = NeighbourReport if isinstance(config, SweepConfig) else CacheReport
    out = Path(config.out) if config.out is not None else Path(config.directory) / kind.command
    settings = plain({**as_dict(config), "seed": seed, "out": None, "overwrite": None, "no_figures": None})
    texts = [Retrieval.open(directory) for directory in (config.directory, config.apply) if directory is not None]
    first = texts[0]
    warn_if_outdated(first)
    for text in texts:
        warn_if_own_text(text)
    choice = _choice_for(config, first)
    for text in texts:
        text.check_k(_largest_k(config, choice, first.k))
    if len(texts) == 2:
        require_comparable(first, texts[1], allow_mismatch=config.allow_mismatch)
    caches = _common_caches(texts) if isinstance(config, CacheSweepConfig) else ()
    _claim(config, out, settings)  # after the inputs: --overwrite is no answer to a mistake there
    for text in texts:
        check_results(text.directory)
    grid, origin = _grid_of(config, choice, first, caches)
    figures = not config.no_figures and can_draw()
    with locked(out):
        swept = sweep(first, grid)
        report = kind(texts, swept, config.resamples, seed, origin)
        table = "\n".join(report.table())
        found = plain(report.record())
        record = {"kind": kind.kind, "version": VERSION, **found, **plain(report.losses()), "settings": settings}
        write_json(out / "sweep.json", record)
        for name, content in (("table.md", f"{table}\n\n{TABLE_MARK}\n"), ("sweep.csv", report.csv())):
            with atomic_write(out / name) as file:
                file.write(encoded(content))
        if figures:
            draw_figures(swept, first.manifest.split, out)
    show(table)
    return Kept(first.directory, kind.command.replace("-", "_"), found, tuple(text.directory for text in texts[1:]))


def _claim(config: SweepConfig | CacheSweepConfig, out: Path, settings: dict[str, Any]) -> None:
    """Raises ConfigError where the directory holds what is not a sweep of ours, or one of other settings."""
    claim_directory("--out", out)
    before = json_at(out / "sweep.json")
    same = before.get("settings") == settings
    for path, kind in sweep_names(out, figures=not config.no_figures):
        claim("--out", path, kind, overwrite=config.overwrite or same)


def _choice_for(config: SweepConfig | CacheSweepConfig, retrieval: Retrieval) -> Choice | None:
    """Returns the sweep's choice, from which a cache sweep takes k and T where they were not typed."""
    is_open = isinstance(config, CacheSweepConfig) and (config.k is None or config.knn_temp is None)
    return swept_choice(retrieval, ("sweep",)) if is_open else None


def _largest_k(config: SweepConfig | CacheSweepConfig, choice: Choice | None, saved_k: int) -> int:
    if isinstance(config, SweepConfig):
        return config.ks(saved_k)[-1]
    if config.k is not None:
        return config.k
    return choice.k if choice is not None else saved_k


def _common_caches(texts: list[Retrieval]) -> Caches:
    """Returns size and θ of each cache of the retrievals, which must be the same in all."""
    caches = [read_caches(text)[0] for text in texts]
    if caches[0] != caches[-1]:
        raise ConfigError(
            f"{texts[1].directory} was saved with other caches than {texts[0].directory}; save both with the same"
            " --cache-size and --cache-theta"
        )
    return caches[0]


def _grid_of(
    config: SweepConfig | CacheSweepConfig, choice: Choice | None, first: Retrieval, caches: Caches
) -> tuple[Grid, Origin]:
    """Returns the settings, and where those that a cache sweep does not vary come from."""
    if isinstance(config, SweepConfig):
        return config.grid(first.k, offered_temperatures(first, config.knn_temp)), Origin()
    k = _largest_k(config, choice, first.k)
    if choice is not None and config.knn_temp is None:
        words = f", {choice.words}" if config.k is None else ""
        return config.grid(k, choice.knn_temp, caches), Origin(words)
    offered = offered_temperatures(first, config.knn_temp)
    if len(offered) == 1:
        return config.grid(k, offered[0], caches), Origin()
    weights = tuple(lmbda for lmbda in config.lmbdas if lmbda > 0) or config.lmbdas  # with λ 0, every T is the best
    best = sweep(first, Grid(weights, (k,), offered)).best()
    origin = Origin(f", the best of {len(offered)} temperatures for the neighbours alone", offered)
    return config.grid(k, best.knn_temp, caches), origin
