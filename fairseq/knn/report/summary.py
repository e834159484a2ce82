"""The page's summary: what the commands that looked at a retrieval have found, from its results.json.

    {"texts": ["valid", "test"],
     "rows": [{"name": "+ both", "ppl": [109.54, 94.63], "setting": "--lmbda 0.3 …"}, …],
     "gains": [{"name": "+ both over language model", "cells": ["30.82, 29.90 to 31.74", …]}, …]}

A number is null where it is not known, or not finite.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairseq.errors import DatastoreError
from fairseq.knn.retrieval.results import RESULTS, read_results

_COMMANDS = {
    "evaluation": "fairseq-eval-lm --save-retrieval",
    "lmbda": "fairseq-knnlm fit-lmbda",
    "sweep": "fairseq-knnlm sweep",
    "sweep_cache": "fairseq-knnlm sweep-cache",
}
_OVER = {"gain_over_lm": "language model", "gain_over_neighbours": "+ neighbours"}
_Row = tuple[str, dict[str, float | None], str]  # name, perplexity on each text, setting
_Gain = tuple[str, dict[str, str]]  # name, words for each text


def summary_of(directory: Path) -> dict[str, Any] | None:
    """Returns the summary of a retrieval's results; None where nothing was kept.

    Raises:
        DatastoreError: results.json is broken.
    """
    rows: list[_Row] = []
    gains: list[_Gain] = []
    readers = {"sweep_cache": _of_cache_sweep, "sweep": _of_sweep, "lmbda": _of_lmbda, "evaluation": _of_evaluation}
    sections = read_results(directory)
    for name, reader in readers.items():
        if name not in sections or (name == "evaluation" and rows):
            continue
        try:
            found_rows, found_gains = reader(sections[name])
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise DatastoreError(
                f"{directory / RESULTS}: the section {name!r} is not sound ({type(err).__name__}: {err});"
                f" run {_COMMANDS[name]} again"
            ) from err
        known = {row[0] for row in rows}
        rows += [row for row in found_rows if row[0] not in known]
        gains += [gain for gain in found_gains if gain[0] not in {other[0] for other in gains}]
    if not rows:
        return None
    texts = list(dict.fromkeys(text for _, ppl, _ in rows for text in ppl))
    return {
        "texts": texts,
        "rows": [{"name": n, "ppl": [ppl.get(text) for text in texts], "setting": s} for n, ppl, s in rows],
        "gains": [{"name": n, "cells": [words.get(text, "") for text in texts]} for n, words in gains],
    }


def _texts(section: Mapping[str, Any], first: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the text that a choice was made on, and the one that it was applied to, each by its split's name."""
    for key in (first, "applied_to"):
        if section[key] is not None:
            yield str(section[key]["split"]), section[key]


def _of_cache_sweep(section: Mapping[str, Any]) -> tuple[list[_Row], list[_Gain]]:
    texts = dict(_texts(section, "chosen_on"))
    search = f"--k {int(section['neighbours']['k'])} --knn-temp {float(section['neighbours']['knn_temp']):g}"
    rows: list[_Row] = []
    gains: list[_Gain] = []
    for name, best in section["best"].items():
        setting = f"{best['flags']} {search}" if "lmbda" in best else str(best["flags"])
        rows.append((str(name), {text: _number(t["results"][name]["ppl"]) for text, t in texts.items()}, setting))
        for key, over in _OVER.items():
            words = {text: _words(t["results"][name][key]) for text, t in texts.items() if key in t["results"][name]}
            if words:
                gains.append((f"{name} over {over}", words))
    return rows, gains


def _of_sweep(section: Mapping[str, Any]) -> tuple[list[_Row], list[_Gain]]:
    results = {text: t["result"] for text, t in _texts(section, "chosen_on")}
    name = "+ neighbours, best k and T"
    rows: list[_Row] = [
        ("language model", {text: _number(result["lm_ppl"]) for text, result in results.items()}, ""),
        (name, {text: _number(result["ppl"]) for text, result in results.items()}, str(section["best"]["flags"])),
    ]
    return rows, [(f"{name} over language model", {text: _words(result) for text, result in results.items()})]


def _of_lmbda(section: Mapping[str, Any]) -> tuple[list[_Row], list[_Gain]]:
    ppls = {text: t["ppl"] for text, t in _texts(section, "fitted_on")}
    setting = f"--lmbda-model {section['file']} --k {int(section['k'])} --knn-temp {float(section['knn_temp']):g}"
    chosen = section["chosen"]
    rows: list[_Row] = [
        ("language model", {text: _number(ppl["language model"]) for text, ppl in ppls.items()}, ""),
        (f"{chosen}, held out", {text: _number(ppl[chosen]) for text, ppl in ppls.items()}, setting),
    ]
    return rows, []


def _of_evaluation(section: Mapping[str, Any]) -> tuple[list[_Row], list[_Gain]]:
    text, settings = str(section["split"]), section["settings"]
    setting = f"--lmbda {settings['lmbda']:g} --k {settings['k']} --knn-temp {settings['knn_temp']:g}"
    rows: list[_Row] = [
        ("language model", {text: _number(section["lm"]["ppl"])}, ""),
        ("+ neighbours", {text: _number(section["ppl"])}, setting),
    ]
    return rows, []


def _words(gain: Mapping[str, Any]) -> str:
    interval, value = gain["gain_ppl_interval"], gain["gain_ppl"]
    if value is None:
        return ""
    return f"{value:.2f}" if interval is None else f"{value:.2f}, {interval[0]:.2f} to {interval[1]:.2f}"


def _number(value: object) -> float | None:
    return None if value is None else round(float(value), 2)  # type: ignore[arg-type]
