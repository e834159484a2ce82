"""``fairseq-knnlm report``: a saved retrieval as a page.

Legend: N tokens · K neighbours · H neighbours shown · C tokens that have their neighbours in the page.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Array, Float32s, Float64s, Int64s
from fairseq.config.flags import as_dict
from fairseq.criterions.perplexity import perplexity_of
from fairseq.data.blocks import joined_ranges
from fairseq.knn.report.config import ReportConfig
from fairseq.knn.report.groups import Grouping, gain_by_group, groupings
from fairseq.knn.report.pack import AFTER, BEFORE, by_change, choose, packed
from fairseq.knn.report.page import is_of, render
from fairseq.knn.report.scores import Columns, MixtureSettings, gain, longest_overlap, score
from fairseq.knn.report.settings import settings_of
from fairseq.knn.report.summary import summary_of
from fairseq.knn.report.sweep_images import sweep_figures
from fairseq.knn.report.texts import Texts, check_hits, check_targets, open_texts, source_positions
from fairseq.knn.report.wording import facts_of, pieces_of, places_of, unit_of, vocabulary_of, words_of
from fairseq.knn.retrieval.compare import outdated_lines, warn_if_outdated
from fairseq.knn.retrieval.own_text import own_text_line, warn_if_own_text
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.runtime.progress import Progress
from fairseq.storage.files import atomic_write, encoded, locked
from fairseq.storage.marks import PAGE
from fairseq.storage.outputs import claim

BLOCK_BYTES = 1 << 24
LONGEST_OVERLAP = 64
OVERLAP_HITS = 8  # the nearest hits in whose contexts verbatim runs are looked for
SWEEPS = ("sweep-cache", "sweep")  # directories beside a retrieval that may hold figures
LM_COLUMNS = {"lm_max_log_prob": "lm_max", "lm_entropy": "lm_entropy"}


@dataclass(frozen=True)
class _Report:
    """The first tokens of a retrieval, with all that the page is made from.

    Attributes:
        retrieval: that is shown.
        summary: of its results.
        texts: of the tokens and of the datastores.
        settings: k, temperature and weight.
        origin: where they come from, in words.
        columns: of the tokens.
        mixture_log_p_N: ln p of the mixture.
        groupings: of the tokens.
        source_at_NH: where the neighbours that may be shown stand in the datastores' texts.
        distances_NH: theirs.
    """

    retrieval: Retrieval
    summary: dict[str, Any] | None
    texts: Texts
    settings: MixtureSettings
    origin: str
    columns: Columns
    mixture_log_p_N: Float64s
    groupings: tuple[Grouping, ...]
    source_at_NH: Int64s
    distances_NH: Float32s


def write_report(config: ReportConfig) -> str:
    """Writes the page and returns what to tell the user of it.

    Raises:
        ConfigError: it is there already, or the settings ask for more than the retrieval has.
        MismatchError: the texts are not those of the retrieval.
    """
    out = Path(config.out or Path(config.retrieval) / "report.html")
    settings = {name: value for name, value in as_dict(config).items() if name not in ("out", "overwrite")}
    retrieval = Retrieval.open(config.retrieval)
    mixture = settings_of(config, retrieval)
    # After the inputs: --overwrite is no answer to a mistake there.
    claim("--out", out, PAGE, overwrite=config.overwrite or is_of(out, settings))
    report = _read(config, retrieval, *mixture)
    facts, arrays = _contents(report, config.max_megabytes)
    warnings = [own_text_line(retrieval), *outdated_lines(retrieval)]
    with locked(out), atomic_write(out) as file:
        for piece in render(facts["title"], facts, packed(arrays), settings, [line for line in warnings if line]):
            file.write(encoded(piece))
    written = [f"{out}: {out.stat().st_size / 1e6:.1f} MB"] if out.is_file() else []
    return "\n".join([*_lines(report), *written])


def _read(config: ReportConfig, retrieval: Retrieval, settings: MixtureSettings, origin: str) -> _Report:
    warn_if_outdated(retrieval)
    warn_if_own_text(retrieval)
    summary = summary_of(retrieval.directory)  # a broken one fails before the work, not after it
    texts = open_texts(retrieval, config.data, config.dstore_data)
    n = min(len(retrieval), config.max_tokens)
    shown = min(config.neighbours, settings.k)
    target_N = retrieval.target_N[:n]
    position_N = np.asarray(retrieval.position_N[:n], np.int64)
    check_targets(texts.text, position_N, target_N)
    columns = _columns(retrieval, texts, settings, n)
    symbols = words_of(texts, position_N, np.empty(0, np.int64))
    ids_NH, distances_NH = (np.array(a[:n, :shown]) for a in (retrieval.ids_NK, retrieval.distances_NK))
    return _Report(
        retrieval,
        summary,
        texts,
        settings,
        origin,
        columns,
        columns.mixture(settings.lmbda),
        groupings(columns, symbols, target_N, texts.count_V[target_N], unit_of(texts)),
        source_positions(texts, ids_NH),
        distances_NH,
    )


def _columns(retrieval: Retrieval, texts: Texts, settings: MixtureSettings, n: int) -> Columns:
    """Returns the columns of the first n tokens, computed block by block; the hits are compared with the text."""
    step = max(1, BLOCK_BYTES // (8 * settings.k))
    parts = []
    with Progress("read retrieval", n, "tokens") as progress:
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            hits_NK = retrieval.hits_NK(rows)[:, : settings.k]
            source_at_NK = source_positions(texts, retrieval.ids_NK[rows, : settings.k])
            check_hits(texts, source_at_NK, retrieval.target_N[rows], hits_NK)
            at_N = retrieval.position_N[rows]
            overlap_N = longest_overlap(
                texts.text, at_N, texts.source, source_at_NK, hits_NK, OVERLAP_HITS, LONGEST_OVERLAP
            )
            distances_NK = np.asarray(retrieval.distances_NK[rows])
            parts.append(score(retrieval.lm_log_p_N[rows], distances_NK, hits_NK, overlap_N, settings))
            progress.advance(rows.stop - start)
    return Columns.joined(parts)


def _contents(report: _Report, max_megabytes: float) -> tuple[dict[str, Any], dict[str, Array]]:
    """Returns what the page's scripts know: facts, which are JSON, and arrays."""
    retrieval, texts, columns = report.retrieval, report.texts, report.columns
    n = len(report.source_at_NH)
    order_N = by_change(gain(columns.lm_log_p_N, report.mixture_log_p_N))
    chosen_C, windows = choose(order_N, report.source_at_NH, pieces_of(texts), max_megabytes * 1e6)
    at_N, source_at_M = np.asarray(retrieval.position_N[:n], np.int64), joined_ranges(windows.start_W, windows.length_W)
    vocabulary, (files, places) = vocabulary_of(texts, at_N, source_at_M), places_of(texts, at_N, source_at_M)
    word = vocabulary.word_L.astype(np.uint16 if len(vocabulary.words) <= 1 << 16 else np.uint32)
    arrays: dict[str, Array] = {
        "word": word[:n],
        "source": word[n:],
        "chosen": chosen_C.astype(np.uint32),
        "place": windows.place(report.source_at_NH[chosen_C]),
        "distance": report.distances_NH[chosen_C],
        "piece": windows.offset_W.astype(np.uint32),
        "start": windows.start_W.astype(np.float64),
        **places,
        **_token_arrays(report),
        **{f"group{number}": grouping.code_N for number, grouping in enumerate(report.groupings)},
    }
    split = retrieval.manifest.split
    facts = {
        "title": f"kNN-LM on {split}",
        "split": split,
        "settings": asdict(report.settings),
        "origin": report.origin,
        "has_cache": bool(retrieval.manifest.cache),
        "tokens": n,
        "all_tokens": len(retrieval),
        "shown": report.distances_NH.shape[1],
        "with_neighbours": len(chosen_C),
        **vocabulary.facts,
        **facts_of(texts, files),
        "counts": texts.count_V[vocabulary.id_W].tolist(),
        "runs": _runs(retrieval.position_N[:n]),
        "groups": [{"title": one.title, "note": one.note, "labels": one.labels} for one in report.groupings],
        "figures": [f for name in SWEEPS for f in sweep_figures(retrieval.directory / name)],
        "summary": report.summary,
        "before": BEFORE,
        "after": AFTER,
        "stores": texts.stores,
        "source_tokens": texts.source_tokens,
        "longest_overlap": LONGEST_OVERLAP,
        "overlap_hits": OVERLAP_HITS,
        "max_megabytes": max_megabytes,
        "rows": texts.pieces_of_rows(),
    }
    return facts, arrays


def _token_arrays(report: _Report) -> dict[str, Array]:
    """Returns the columns as the page has them, and those of the language model that not every retrieval has."""
    columns, ranks = report.columns, np.uint16 if report.settings.k < 1 << 16 else np.uint32
    arrays: dict[str, Array] = {
        "lm": columns.lm_log_p_N.astype(np.float32),
        "knn": columns.knn_log_p_N.astype(np.float32),
        "votes": columns.log_votes_N.astype(np.float32),
        "hits": columns.num_hits_N.astype(ranks),
        "first": (columns.first_hit_N + 1).astype(ranks),
        "overlap": (columns.overlap_N + 1).astype(np.uint8),
    }
    for name, short in LM_COLUMNS.items():
        column = report.retrieval.columns.get(name)
        if column is not None:
            arrays[short] = np.asarray(column[: len(columns.lm_log_p_N)], np.float32)
    return arrays


def _runs(position_N: Array) -> list[tuple[int, int]]:
    """Returns (token, position) wherever a token does not follow the one before it in the text; the first included."""
    breaks = np.flatnonzero(np.diff(position_N) != 1) + 1
    return [(int(start), int(position_N[start])) for start in (0, *breaks)]


def _lines(report: _Report) -> Iterator[str]:
    """Yields the lines that are printed: perplexities, and where there is a gain, the group with most of it."""
    lm_N, mixture_N, settings = report.columns.lm_log_p_N, report.mixture_log_p_N, report.settings
    lm, mixture = (perplexity_of(-float(log_p_N.mean()) / math.log(2)) for log_p_N in (lm_N, mixture_N))
    yield (
        f"{len(lm_N):,} of {len(report.retrieval):,} tokens, k {settings.k}, temperature"
        f" {settings.temperature:g}, λ {settings.lmbda:g}: perplexity {lm:.2f} → {mixture:.2f}"
    )
    yield f"these settings: {report.origin}"
    if settings.lmbda == 0:
        yield (
            "λ 0 leaves neighbours no weight: give --lmbda, such as 0.25, or run fairseq-knnlm sweep"
            f" {report.retrieval.directory} first, whose choice this takes"
        )
        return
    if not mixture < lm:
        yield "these settings gain nothing: give a smaller --lmbda, or run fairseq-knnlm sweep on held-out text"
        return
    for grouping in report.groupings:
        label, bits = max(gain_by_group(grouping, gain(lm_N, mixture_N)), key=lambda group: group[1])
        yield f"{grouping.title}: the largest share of the gain comes from '{label}', {bits:+.4f} bits a token"
