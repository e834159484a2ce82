"""``fairseq-knnlm report``: from a saved retrieval to a page.

Legend: N tokens · K neighbours · H neighbours shown · C tokens that have their neighbours in the page.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Array
from fairseq.errors import ConfigError
from fairseq.knn.report.config import ReportConfig
from fairseq.knn.report.figures import sweep_figures
from fairseq.knn.report.groups import Grouping, groupings, table
from fairseq.knn.report.pack import AFTER, BEFORE, Vocabulary, by_change, choose, packed
from fairseq.knn.report.page import render
from fairseq.knn.report.scores import Columns, Settings, gain, longest_overlap, score
from fairseq.knn.report.summary import summary_of
from fairseq.knn.report.texts import Texts, check_hits, check_targets, open_texts, source_positions
from fairseq.knn.retrieval.compare import warn_if_outdated
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.runtime.files import atomic_write, locked
from fairseq.runtime.progress import Progress

BLOCK_BYTES = 1 << 24
LONGEST_OVERLAP = 64
OVERLAP_HITS = 8  # the nearest hits in whose contexts verbatim runs are looked for
SWEEPS = ("sweep-cache", "sweep")  # directories beside a retrieval that may hold figures
LM_COLUMNS = {"lm_max_log_prob": "lm_max", "lm_entropy": "lm_entropy"}


@dataclass(frozen=True)
class Contents:
    """What goes into the page, and what the summary is made from.

    Attributes:
        facts: settings, words, groups: what is no array.
        arrays: by name, as the page's scripts know them.
        ways: the groupings.
        lm_log_p_N: of the tokens in the page.
        mixture_log_p_N: likewise.
    """

    facts: dict[str, Any]
    arrays: dict[str, Array]
    ways: tuple[Grouping, ...]
    lm_log_p_N: Array
    mixture_log_p_N: Array


@dataclass(frozen=True)
class _Read:
    """What was read and computed: everything that ``_contents`` chooses from."""

    retrieval: Retrieval
    summary: dict[str, Any] | None
    texts: Texts
    settings: Settings
    columns: Columns
    source_at_NH: Array
    distances_NH: Array


def write_report(config: ReportConfig) -> str:
    """Writes the page and returns what to tell the user of it.

    Raises:
        ConfigError: it is there already, or the settings ask for more than the retrieval has.
        MismatchError: the texts are not those of the retrieval.
    """
    out = Path(config.out or Path(config.retrieval) / "report.html")
    if out.exists() and not config.overwrite:
        raise ConfigError(f"{out} is there already; give --overwrite to replace it, or --out to write elsewhere")
    retrieval = Retrieval.open(config.retrieval)
    warn_if_outdated(retrieval)
    settings = _settings(config, retrieval)
    summary = summary_of(retrieval.directory)  # a broken one fails before the work, not after it
    texts = open_texts(retrieval.manifest, retrieval.directory, config.data, config.dstore_data)
    n = min(len(retrieval), config.max_tokens)
    shown = min(config.neighbours, settings.k)
    check_targets(texts, retrieval.position_N[:n], retrieval.target_N[:n])
    columns = _columns(retrieval, texts, settings, n)
    ids_NH, distances_NH = (np.array(a[:n, :shown]) for a in (retrieval.ids_NK, retrieval.distances_NK))
    source_at_NH = source_positions(texts, ids_NH)
    contents = _contents(config, _Read(retrieval, summary, texts, settings, columns, source_at_NH, distances_NH))
    with locked(out), atomic_write(out) as file:
        for piece in render(contents.facts["title"], contents.facts, packed(contents.arrays)):
            file.write(piece.encode())
    return "\n".join([*_summary(contents), f"{out}: {out.stat().st_size / 1e6:.1f} MB"])


def _settings(config: ReportConfig, retrieval: Retrieval) -> Settings:
    k = retrieval.k if config.k is None else config.k
    if k > retrieval.k:
        raise ConfigError(f"--k {k} is more than the {retrieval.k} neighbours of {retrieval.directory}; give fewer")
    manifest = retrieval.manifest
    temperature = config.knn_temp if config.knn_temp is not None else float(manifest["knn_temp"])
    return Settings(k, temperature, config.lmbda if config.lmbda is not None else float(manifest["lmbda"]))


def _columns(retrieval: Retrieval, texts: Texts, settings: Settings, n: int) -> Columns:
    """Returns the columns of the first n tokens, computed block by block; the hits are compared with the text."""
    step = max(1, BLOCK_BYTES // (8 * settings.k))
    parts = []
    with Progress("read retrieval", n, "tokens") as progress:
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            hits_NK = retrieval.hits_NK(rows)[:, : settings.k]
            ids_NK = retrieval.ids_NK[rows, : settings.k]
            source_at_NK = source_positions(texts, ids_NK)
            check_hits(texts, source_at_NK, retrieval.target_N[rows], hits_NK)
            overlap_N = longest_overlap(
                texts.text,
                retrieval.position_N[rows],
                texts.source,
                source_at_NK,
                hits_NK,
                OVERLAP_HITS,
                LONGEST_OVERLAP,
            )
            distances_NK = retrieval.distances_NK[rows, : settings.k]
            parts.append(score(retrieval.lm_log_p_N[rows], distances_NK, ids_NK, hits_NK, overlap_N, settings))
            progress.advance(rows.stop - start)
    return Columns.joined(parts)


def _contents(config: ReportConfig, read: _Read) -> Contents:
    """Returns what goes into the page."""
    retrieval, texts, columns, settings = read.retrieval, read.texts, read.columns, read.settings
    n = len(read.source_at_NH)
    target_N, position_N = retrieval.target_N[:n], retrieval.position_N[:n]
    mixture_N = columns.mixture(settings.lmbda)
    count_V = texts.source_counts()
    ways = groupings(columns, texts.dictionary.symbols, target_N, count_V[target_N])
    order_N = by_change(gain(columns.lm_log_p_N, mixture_N))
    pieces = [(part.start, part.stop) for part in texts.parts]
    chosen_C, windows = choose(order_N, read.source_at_NH, pieces, config.max_megabytes * 1e6)
    source = windows.cut(texts.source)
    words = Vocabulary.of(target_N, source)
    arrays = {
        "word": words.encode(target_N),
        "source": words.encode(source),
        "chosen": chosen_C.astype(np.uint32),
        "place": windows.place(read.source_at_NH[chosen_C]),
        "distance": read.distances_NH[chosen_C],
        "piece": windows.offset_W.astype(np.uint32),
        "start": windows.start_W.astype(np.float64),
        **_token_arrays(columns, settings),
        **_extra_arrays(retrieval, n),
        **{f"group{number}": way.code_N for number, way in enumerate(ways)},
    }
    split = retrieval.manifest["split"]
    facts = {
        "title": f"kNN-LM on {split}",
        "split": split,
        "settings": asdict(settings),
        "tokens": n,
        "all_tokens": len(retrieval),
        "shown": read.distances_NH.shape[1],
        "with_neighbours": len(chosen_C),
        "words": [texts.dictionary[idx] for idx in words.ids_V],
        "counts": count_V[words.ids_V].tolist(),
        "runs": _runs(position_N),
        "groups": [{"title": way.title, "note": way.note, "labels": way.labels} for way in ways],
        "figures": [f for name in SWEEPS for f in sweep_figures(retrieval.directory / name)],
        "summary": read.summary,
        "before": BEFORE,
        "after": AFTER,
        "stores": texts.stores,
        "source_tokens": texts.source_tokens,
        "longest_overlap": LONGEST_OVERLAP,
        "overlap_hits": OVERLAP_HITS,
        "max_megabytes": config.max_megabytes,
        "rows": texts.pieces_of_rows(),
    }
    return Contents(facts, arrays, ways, columns.lm_log_p_N, mixture_N)


def _token_arrays(columns: Columns, settings: Settings) -> dict[str, Array]:
    ranks = np.uint16 if settings.k < 1 << 16 else np.uint32
    return {
        "lm": columns.lm_log_p_N.astype(np.float32),
        "knn": columns.knn_log_p_N.astype(np.float32),
        "votes": columns.log_votes_N.astype(np.float32),
        "hits": columns.num_hits_N.astype(ranks),
        "first": (columns.first_hit_N + 1).astype(ranks),
        "overlap": (columns.overlap_N + 1).astype(np.uint8),
    }


def _extra_arrays(retrieval: Retrieval, n: int) -> dict[str, Array]:
    """Returns the columns that not every retrieval has."""
    there = {short: retrieval.columns.get(name) for name, short in LM_COLUMNS.items()}
    return {short: np.asarray(column[:n], np.float32) for short, column in there.items() if column is not None}


def _runs(position_N: Array) -> list[tuple[int, int]]:
    """Returns (token, position) wherever a token does not follow the one before it in the text; the first included."""
    breaks = np.flatnonzero(np.diff(position_N) != 1) + 1
    return [(int(start), int(position_N[start])) for start in (0, *breaks)]


def _ppl(log_p_N: Array) -> float:
    mean = -float(np.mean(log_p_N))
    return math.exp(mean) if mean < 700 else math.inf


def _summary(contents: Contents) -> Iterator[str]:
    facts, settings = contents.facts, contents.facts["settings"]
    lm, mixture = (_ppl(log_p_N) for log_p_N in (contents.lm_log_p_N, contents.mixture_log_p_N))
    yield (
        f"{facts['tokens']:,} of {facts['all_tokens']:,} tokens, k {settings['k']}, temperature"
        f" {settings['temperature']:g}, λ {settings['lmbda']:g}: perplexity {lm:.2f} → {mixture:.2f}"
    )
    for way in contents.ways:
        rows = table(way, contents.lm_log_p_N, contents.mixture_log_p_N)
        best = max(rows, key=lambda row: row.share_bits)
        yield f"{way.title}: most of the gain comes from '{best.label}', {best.share_bits:+.4f} bits a token"
