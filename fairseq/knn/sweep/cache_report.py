"""``fairseq-knnlm sweep-cache``: the best weights of neighbours and cache, how sure their gains are, and another text.

OUT/table.md      what is printed
OUT/sweep.csv     every setting: cache_size, cache_theta, lmbda, cache_lmbda, loss_base2, ppl, gain_ppl
OUT/sweep.json    the same as arrays, with the retrieval's identity, the choices and the intervals
OUT/*.svg, *.png  figures
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.criterions.perplexity import perplexity_of
from fairseq.knn.retrieval.compare import check_alike, warn_if_outdated
from fairseq.knn.retrieval.results import Kept, check_results
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.bootstrap import Gain, gain_of
from fairseq.knn.sweep.cache_mix import Mixed, Sources, check_same_caches, mix
from fairseq.knn.sweep.config import CacheMixConfig
from fairseq.knn.sweep.output import (
    csv_text,
    interval_words,
    output_directory,
    plain,
    resamples_words,
    text_record,
    write_text,
)
from fairseq.runtime.files import locked, write_json

KIND, VERSION = "cache-sweep", 1
LM, CACHE, NEIGHBOURS, BOTH = PARTS = ("language model", "+ cache", "+ neighbours", "+ both")
_TAKES_PART = {LM: (False, False), CACHE: (False, True), NEIGHBOURS: (True, False), BOTH: (True, True)}
_COMPARED = ((CACHE, LM), (NEIGHBOURS, LM), (BOTH, LM), (BOTH, NEIGHBOURS))

# Names of gains in files.
_KEYS = {LM: "gain_over_lm", NEIGHBOURS: "gain_over_neighbours"}


@dataclass(frozen=True)
class Chosen:
    """The best of one combination of parts.

    Attributes:
        setting: its weights, and size and θ of its cache.
        flags: the same as typed.
        losses: on each text, bits per token.
        gains: on each text, by the name of what it is compared with.
    """

    setting: dict[str, float]
    flags: str
    losses: list[float]
    gains: dict[str, list[Gain]]


def run_cache_sweep(config: CacheMixConfig, seed: int, show: Callable[[str], None]) -> Kept:
    """Sweeps, writes everything, shows the table, and returns what the retrieval's results are to keep.

    Raises:
        ConfigError: flags do not go together, or matplotlib is missing.
        DatastoreError: a retrieval cannot be read, or was saved without a cache.
        MismatchError: the other retrieval is of another model, datastore or cache.
    """
    texts = [Retrieval.open(directory) for directory in (config.directory, config.apply) if directory is not None]
    warn_if_outdated(texts[0])
    if len(texts) == 2:
        check_same_caches(texts[0], texts[1])
        check_alike(texts[0], texts[1], allow_mismatch=config.allow_mismatch)
    out = output_directory(config.out, texts[0], "sweep-cache")
    check_results(texts[0].directory)
    k = texts[0].k if config.k is None else config.k
    knn_temp = float(texts[0].manifest["knn_temp"]) if config.knn_temp is None else config.knn_temp
    if not config.no_figures:
        from fairseq.knn.sweep.cache_figures import draw_figures
        from fairseq.knn.sweep.figure_style import require_matplotlib

        require_matplotlib()
    with locked(out):
        sources = [Sources(text, k, knn_temp) for text in texts]
        mixed = mix(sources[0], config.lmbdas, config.cache_lmbdas)
        chosen = _chosen(mixed, sources, [text.block_N for text in texts], config.resamples, seed)
        neighbours = {"k": k, "knn_temp": knn_temp}
        table = "\n".join(_table(texts, mixed, neighbours, chosen))
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "table.md", table + "\n")
        write_text(out / "sweep.csv", _csv(mixed))
        if not config.no_figures:
            draw_figures(mixed, texts[0].manifest["split"], out)
        found = plain(_found(texts, neighbours, chosen, seed))
        write_json(out / "sweep.json", {"kind": KIND, "version": VERSION, **found, **plain(_losses(mixed))})
    show(table)
    return Kept(texts[0].directory, "sweep_cache", found)


def _chosen(mixed: Mixed, sources: list[Sources], blocks: list[Any], resamples: int, seed: int) -> dict[str, Chosen]:
    """Returns the best of each combination of parts, and its gains over the model and over the best neighbours."""
    places = {name: mixed.best(neighbours=n, cache=c) for name, (n, c) in _TAKES_PART.items()}
    log_ps = {
        name: [source.log_prob(s, mixed.lmbdas[i], mixed.cache_lmbdas[j]) for source in sources]
        for name, (s, i, j) in places.items()
    }

    def gains(name: str, over: str) -> list[Gain]:
        triples = zip(log_ps[over], log_ps[name], blocks, strict=True)
        return [gain_of(base_N, log_p_N, block_N, resamples, seed) for base_N, log_p_N, block_N in triples]

    chosen = {}
    for name, (s, i, j) in places.items():
        has_neighbours, has_cache = _TAKES_PART[name]
        setting: dict[str, float] = {"lmbda": mixed.lmbdas[i]} if has_neighbours else {}
        setting |= {**mixed.caches[s], "cache_lmbda": mixed.cache_lmbdas[j]} if has_cache else {}
        flags = " ".join(f"--{key.replace('_', '-')} {value:g}" for key, value in setting.items())
        losses = [float(-log_p_N.mean() / np.log(2)) for log_p_N in log_ps[name]]
        chosen[name] = Chosen(setting, flags, losses, {over: gains(name, over) for n, over in _COMPARED if n == name})
    return chosen


def _table(
    texts: list[Retrieval], mixed: Mixed, neighbours: dict[str, float], chosen: dict[str, Chosen]
) -> Iterator[str]:
    """Yields the lines that are printed: the perplexity of each part at its best, and how sure the gains are."""
    splits = [text.manifest["split"] for text in texts]
    count = f"{mixed.loss_SLM.size:,} settings of {len(texts[0]):,} tokens"
    yield f"{count}; neighbours with --k {neighbours['k']} --knn-temp {neighbours['knn_temp']:g}"
    yield ""
    yield f"| | {' | '.join(splits)} | chosen on {splits[0]} |"
    yield "|---|" + "---:|" * len(splits) + "---|"
    for name, part in chosen.items():
        numbers = " | ".join(f"{perplexity_of(loss):.2f}" for loss in part.losses)
        yield f"| {name} | {numbers} | {part.flags} |"
    yield ""
    yield f"| gain, 95 % interval | {' | '.join(splits)} |"
    yield "|---|" + "---:|" * len(splits)
    for name, over in _COMPARED:
        cells = [f"{gain.ppl:.2f}, {interval_words(gain)}" for gain in chosen[name].gains[over]]
        yield f"| {name} over {over} | {' | '.join(cells)} |"
    yield ""
    yield resamples_words(chosen[BOTH].gains[LM])


def _csv(mixed: Mixed) -> str:
    names = ("cache_size", "cache_theta", "lmbda", "cache_lmbda", "loss_base2", "ppl", "gain_ppl")
    lm_ppl = perplexity_of(float(mixed.loss_SLM[0, 0, 0]))
    rows = (
        (
            cache["cache_size"],
            cache["cache_theta"],
            lmbda,
            weight,
            loss,
            perplexity_of(loss),
            lm_ppl - perplexity_of(loss),
        )
        for s, cache in enumerate(mixed.caches)
        for i, lmbda in enumerate(mixed.lmbdas)
        for weight, loss in zip(mixed.cache_lmbdas, mixed.loss_SLM[s, i].tolist(), strict=True)
        if lmbda + weight <= 1 + 1e-9
    )
    return csv_text(names, rows)


def _found(
    texts: list[Retrieval], neighbours: dict[str, float], chosen: dict[str, Chosen], seed: int
) -> dict[str, Any]:
    """Returns the choices, and what each gives on each text."""
    used = []
    for number, text in enumerate(texts):
        results = {
            name: {
                "loss_base2": part.losses[number],
                "ppl": perplexity_of(part.losses[number]),
                **{_KEYS[over]: gains[number].record("over") for over, gains in part.gains.items()},
            }
            for name, part in chosen.items()
        }
        used.append({**text_record(text), "results": results, "seed": seed})
    best = {name: {**part.setting, "flags": part.flags} for name, part in chosen.items()}
    return {
        "chosen_on": used[0],
        "applied_to": used[1] if len(used) > 1 else None,
        "best": best,
        "neighbours": neighbours,
    }


def _losses(mixed: Mixed) -> dict[str, Any]:
    """Returns every loss."""
    return {
        "grid": {"cache": mixed.caches, "lmbda": mixed.lmbdas, "cache_lmbda": mixed.cache_lmbdas},
        "loss_base2": mixed.loss_SLM.tolist(),
    }
