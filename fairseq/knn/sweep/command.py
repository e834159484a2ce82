"""What ``fairseq-knnlm sweep`` and ``sweep-cache`` do: sweep a saved retrieval, and write what was found.

OUT/table.md      what is printed
OUT/sweep.csv     every setting: its values, loss_base2, ppl, gain_ppl
OUT/sweep.json    the same as arrays, with the retrieval's identity, the choices and their intervals
OUT/*.svg, *.png  figures
"""

from collections.abc import Callable
from pathlib import Path

from fairseq.errors import ConfigError
from fairseq.knn.retrieval.compare import require_comparable, warn_if_outdated
from fairseq.knn.retrieval.results import Kept, check_results, plain
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.config import CacheSweepConfig, SweepConfig
from fairseq.knn.sweep.grid import Grid
from fairseq.knn.sweep.report import CacheReport, NeighbourReport
from fairseq.knn.sweep.sources import read_caches
from fairseq.knn.sweep.sweep import sweep
from fairseq.runtime.files import atomic_write, locked, write_json

VERSION = 1


def run_sweep(config: SweepConfig | CacheSweepConfig, seed: int, show: Callable[[str], None]) -> Kept:
    """Sweeps, writes everything, shows the table, and returns what the retrieval's results are to keep.

    Raises:
        ConfigError: flags do not go together, or matplotlib is missing.
        DatastoreError: a retrieval cannot be read, has no cache to sweep, or no setting has a finite loss.
        MismatchError: the other retrieval is of another model, datastore or cache.
    """
    texts = [Retrieval.open(directory) for directory in (config.directory, config.apply) if directory is not None]
    first = texts[0]
    warn_if_outdated(first)
    grid = _grid_of(config, texts)
    for text in texts:
        text.check_k(grid.ks[-1])
    if len(texts) == 2:
        require_comparable(first, texts[1], allow_mismatch=config.allow_mismatch)
    kind = NeighbourReport if isinstance(config, SweepConfig) else CacheReport
    out = Path(config.out) if config.out is not None else first.directory / kind.command
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: {out} must be a directory, but is a file; give another")
    check_results(first.directory)
    if not config.no_figures:
        from fairseq.knn.sweep.figures import draw_figures, require_matplotlib

        require_matplotlib()
    with locked(out):
        swept = sweep(first, grid)
        report = kind(texts, swept, config.resamples, seed)
        table = "\n".join(report.table())
        out.mkdir(parents=True, exist_ok=True)
        for name, content in (("table.md", table + "\n"), ("sweep.csv", report.csv())):
            with atomic_write(out / name) as file:
                file.write(content.encode())
        if not config.no_figures:
            draw_figures(swept, first.manifest.split, out)
        found = plain(report.record())
        losses = plain(report.losses())
        write_json(out / "sweep.json", {"kind": kind.kind, "version": VERSION, **found, **losses})
    show(table)
    return Kept(first.directory, kind.command.replace("-", "_"), found)


def _grid_of(config: SweepConfig | CacheSweepConfig, texts: list[Retrieval]) -> Grid:
    if isinstance(config, SweepConfig):
        return config.grid(texts[0].k)
    caches = [read_caches(text)[0] for text in texts]
    if caches[0] != caches[-1]:
        raise ConfigError(
            f"{texts[1].directory} was saved with other caches than {texts[0].directory}; save both with the same"
            " --cache-size and --cache-theta"
        )
    return config.grid(texts[0].k, texts[0].manifest.knn_temp, caches[0])
