"""``fairseq-knnlm sweep``: the best setting of a retrieval, how sure its gain is, and what it gives on another text.

OUT/table.md      what is printed
OUT/sweep.csv     every setting: lmbda, k, knn_temp, loss_base2, ppl, gain_ppl
OUT/sweep.json    the same as arrays, with the retrieval's identity, the choice and its intervals
OUT/*.svg, *.png  figures
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fairseq.criterions.perplexity import perplexity_of
from fairseq.errors import ConfigError
from fairseq.knn.retrieval.compare import check_alike, warn_if_outdated
from fairseq.knn.retrieval.results import Kept, check_results
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.bootstrap import Gain, gain_of
from fairseq.knn.sweep.config import Setting, SweepConfig
from fairseq.knn.sweep.output import (
    csv_text,
    interval_words,
    output_directory,
    plain,
    resamples_words,
    text_record,
    write_text,
)
from fairseq.knn.sweep.sweep import Swept, mixture_log_prob, sweep
from fairseq.runtime.files import locked, write_json

KIND, VERSION = "sweep", 1
MOST_PRINTED = 40


def run_sweep(config: SweepConfig, seed: int, show: Callable[[str], None]) -> Kept:
    """Sweeps, writes everything, shows the table, and returns what the retrieval's results are to keep.

    Raises:
        ConfigError: flags do not go together, or matplotlib is missing.
        DatastoreError: a retrieval cannot be read, or no setting has a finite loss.
        MismatchError: the other retrieval is of another model or datastore.
    """
    retrieval = Retrieval.open(config.directory)
    warn_if_outdated(retrieval)
    grid = config.grid(retrieval.k)
    other = Retrieval.open(config.apply) if config.apply is not None else None
    if other is not None:
        if grid.ks[-1] > other.k:
            raise ConfigError(
                f"--k {grid.ks[-1]} is more than the {other.k} neighbours of each token in {other.directory}; give a"
                " smaller one, or save that retrieval with more"
            )
        check_alike(retrieval, other, allow_mismatch=config.allow_mismatch)
    out = output_directory(config.out, retrieval, "sweep")
    check_results(retrieval.directory)
    if not config.no_figures:
        from fairseq.knn.sweep.figure_style import require_matplotlib
        from fairseq.knn.sweep.figures import draw_figures

        require_matplotlib()
    with locked(out):
        swept = sweep(retrieval, grid)
        setting = swept.best()
        texts = [retrieval, *([other] if other is not None else [])]
        gains = [
            gain_of(text.lm_log_p_N, mixture_log_prob(text, setting), text.block_N, config.resamples, seed)
            for text in texts
        ]
        table = "\n".join(_table(texts, swept, setting, gains))
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "table.md", table + "\n")
        write_text(out / "sweep.csv", _csv(swept))
        if not config.no_figures:
            draw_figures(swept, retrieval.manifest["split"], out)
        found = plain(_found(texts, setting, gains, seed))
        write_json(out / "sweep.json", {"kind": KIND, "version": VERSION, **found, **plain(_losses(swept))})
    show(table)
    return Kept(retrieval.directory, "sweep", found)


def _table(texts: list[Retrieval], swept: Swept, setting: Setting, gains: list[Gain]) -> Iterator[str]:
    """Yields the lines that are printed: the best of every k and T, the choice, and what it gives."""
    split, grid = texts[0].manifest["split"], swept.grid
    lm_ppl = perplexity_of(swept.lm_loss)
    yield f"{len(grid):,} settings of {swept.num_tokens:,} tokens ({split}); language model: {lm_ppl:.2f}"
    yield ""
    yield "| k | T | best λ | loss (base 2) | perplexity | gain |"
    yield "|---:|---:|---:|---:|---:|---:|"
    loss_TJL = np.where(np.isfinite(swept.loss_TJL), swept.loss_TJL, np.inf)
    by_pair = len(grid.ks) * len(grid.temperatures) <= MOST_PRINTED
    for j, k in enumerate(grid.ks):
        every = range(len(grid.temperatures))
        for t in every if by_pair else [int(loss_TJL[:, j].min(axis=1).argmin())]:
            i = int(loss_TJL[t, j].argmin())
            loss, temperature = float(loss_TJL[t, j, i]), grid.temperatures[t]
            ppl = perplexity_of(loss)
            is_best = (k, temperature) == (setting.k, setting.knn_temp)
            shown = f"**{ppl:.2f}**" if is_best else f"{ppl:.2f}"
            yield f"| {k} | {temperature:g} | {grid.lmbdas[i]:g} | {loss:.4f} | {shown} | {lm_ppl - ppl:.2f} |"
    yield ""
    yield f"Chosen on {split}: {flags_of(texts[0], setting)}"
    yield from _at_the_edge(swept, setting, texts[0].k)
    yield ""
    rows = {
        "perplexity": [text.manifest["split"] for text in texts],
        "---": ["---:"] * len(texts),
        "language model": [f"{perplexity_of(gain.lm_loss):.2f}" for gain in gains],
        "kNN-LM": [f"{perplexity_of(gain.loss):.2f}" for gain in gains],
        "gain": [f"{gain.ppl:.2f}" for gain in gains],
        "95 % interval": [interval_words(gain) for gain in gains],
    }
    for name, cells in rows.items():
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    yield resamples_words(gains)


def flags_of(retrieval: Retrieval, setting: Setting) -> str:
    """Returns the flags of ``fairseq-eval-lm`` that compute the setting."""
    words = f"--lmbda {setting.lmbda:g} --k {setting.k} --knn-temp {setting.knn_temp:g}"
    saved = retrieval.manifest["settings"]
    own_distances = saved.get("knn_sim_func") == "do_not_recomp_l2" or (
        saved.get("knn_sim_func") is None and saved.get("metric") == "ip"
    )
    asked = saved.get("rerank") or retrieval.k
    return words if own_distances or asked == setting.k else f"{words} --rerank {asked}"


def _at_the_edge(swept: Swept, setting: Setting, saved_k: int) -> Iterator[str]:
    """Yields advice where the best value is the first or the last that was tried."""
    grid = swept.grid
    tried = (
        ("--lmbda", setting.lmbda, grid.lmbdas, (0.0, 1.0)),
        ("--knn-temp", setting.knn_temp, grid.temperatures, ()),
    )
    for name, value, values, ends in tried:
        if value not in ends and value in (values[0], values[-1]):
            side = ("smaller" if value == values[0] else "larger") if len(values) > 1 else "other"
            yield f"{name} {value:g} is at the edge of what was tried: {side} values may be better."
    if setting.k == saved_k and len(grid.ks) > 1:
        yield f"--k {saved_k} is all that was saved: a retrieval with more neighbours may be better."


def _csv(swept: Swept) -> str:
    lm_ppl = perplexity_of(swept.lm_loss)
    rows = (
        (lmbda, k, temperature, loss, perplexity_of(loss), lm_ppl - perplexity_of(loss))
        for t, temperature in enumerate(swept.grid.temperatures)
        for j, k in enumerate(swept.grid.ks)
        for lmbda, loss in zip(swept.grid.lmbdas, swept.loss_TJL[t, j].tolist(), strict=True)
    )
    return csv_text(("lmbda", "k", "knn_temp", "loss_base2", "ppl", "gain_ppl"), rows)


def _found(texts: list[Retrieval], setting: Setting, gains: list[Gain], seed: int) -> dict[str, Any]:
    """Returns the choice, and what it gives on each text."""
    used = [
        {**text_record(text), "result": {**gain.record(), "seed": seed}}
        for text, gain in zip(texts, gains, strict=True)
    ]
    return {
        "chosen_on": used[0],
        "applied_to": used[1] if len(used) > 1 else None,
        "best": {
            "lmbda": setting.lmbda,
            "k": setting.k,
            "knn_temp": setting.knn_temp,
            "flags": flags_of(texts[0], setting),
        },
    }


def _losses(swept: Swept) -> dict[str, Any]:
    """Returns every loss."""
    grid = swept.grid
    return {
        "grid": {"knn_temp": grid.temperatures, "k": grid.ks, "lmbda": grid.lmbdas},
        "lm_loss_base2": swept.lm_loss,
        "loss_base2": swept.loss_TJL.tolist(),
    }
