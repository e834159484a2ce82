"""The page's summary: the results of the commands that read a retrieval, from its results.json.

    {"texts": ["valid", "test"],
     "rows": [{"name": "+ both", "ppl": [109.54, 94.63], "setting": "--lmbda 0.3 …"}, …],
     "gains": [{"name": "+ both over language model", "cells": ["30.82, 29.90 to 31.74", …]}, …]}

A number is null where it is not known, or not finite. Where the evaluation knows how many words and bytes its text
has, ``"sized"`` names that text, and each row has ``"word"``, its perplexity by word, and ``"byte"``, its bits by byte.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.criterions.perplexity import perplexity_of
from fairseq.knn.retrieval.results import read_results, unsound

# What the rows of both sweeps are compared with.
_OVER = {"gain_over_lm": "language model", "gain_over_neighbours": "+ neighbours"}
_Row = tuple[dict[str, float | None], str]  # perplexity on each text, setting
_Rows = dict[str, _Row]
_Gains = dict[str, dict[str, str]]  # words for each text


def summary_of(directory: Path) -> dict[str, Any] | None:
    """Returns the summary of a retrieval's results; None where nothing was kept.

    Raises:
        DatastoreError: results.json is broken.
    """
    rows: _Rows = {}
    gains: _Gains = {}
    sections = read_results(directory)
    for name, command, read in (
        ("sweep_cache", "fairseq-knnlm sweep-cache", _of_cache_sweep),
        ("sweep", "fairseq-knnlm sweep", _of_sweep),
        ("lmbda", "fairseq-knnlm fit-lmbda", _of_lmbda),
        ("evaluation", "fairseq-eval-lm --save-retrieval", _of_evaluation),
    ):
        if name not in sections or (name == "evaluation" and rows):
            continue
        try:
            more_rows, more_gains = read(sections[name])
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise unsound(directory, name, command, err) from err
        rows |= {name: row for name, row in more_rows.items() if name not in rows}
        gains |= {name: words for name, words in more_gains.items() if name not in gains}
    if not rows:
        return None
    texts = list(dict.fromkeys(text for ppl, _ in rows.values() for text in ppl))
    size = _Size.of(sections.get("evaluation", {}))
    sized = {"sized": size.text} if size is not None else {}
    return {
        "texts": texts,
        **sized,
        "rows": [
            {
                "name": name,
                "ppl": [_rounded(ppl.get(text), 2) for text in texts],
                **(size.figures(ppl) if size is not None else {}),
                "setting": setting,
            }
            for name, (ppl, setting) in rows.items()
        ],
        "gains": [{"name": n, "cells": [words.get(text, "") for text in texts]} for n, words in gains.items()],
    }


@dataclass(frozen=True)
class _Size:
    """How many tokens, words and bytes the evaluated text has."""

    text: str
    targets: int
    words: int
    bytes: int

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "_Size | None":
        """Returns the size that an evaluation has kept; None where it has none, or counts words of subwords."""
        sizes = [section.get(name) for name in ("targets", "words", "bytes")]
        if section.get("targets_joined_to_the_next") or not all(type(size) is int and size > 0 for size in sizes):
            return None
        return cls(str(section["split"]), *(int(str(size)) for size in sizes))

    def figures(self, ppl: Mapping[str, float | None]) -> dict[str, float | None]:
        """Returns what a perplexity by token is by word, and in bits by byte."""
        by_token = ppl.get(self.text)
        if by_token is None or not 0 < by_token < math.inf:
            return {"word": None, "byte": None}
        bits = math.log2(by_token) * self.targets
        return {"word": _rounded(perplexity_of(bits / self.words), 2), "byte": _rounded(bits / self.bytes, 4)}


def _texts(section: Mapping[str, Any], first: str) -> dict[str, Mapping[str, Any]]:
    """Returns the text that a choice was made on, and the one that it was applied to, each by its split's name."""
    return {str(section[key]["split"]): section[key] for key in (first, "applied_to") if section[key] is not None}


def _of_cache_sweep(section: Mapping[str, Any]) -> tuple[_Rows, _Gains]:
    texts = _texts(section, "chosen_on")
    search = _search(section["neighbours"])
    rows: _Rows = {}
    gains: _Gains = {}
    for name, best in section["best"].items():
        is_whole = "lmbda" not in best or "k" in best  # older versions of this program left k and T out
        setting = str(best["flags"]) if is_whole else f"{best['flags']} {search}"
        results = {text: t["results"][name] for text, t in texts.items()}
        rows[str(name)] = _row({text: result["ppl"] for text, result in results.items()}, setting)
        for key, over in _OVER.items():
            words = {text: _words(result[key]) for text, result in results.items() if key in result}
            if words:
                gains[f"{name} over {over}"] = words
    return rows, gains


def _of_sweep(section: Mapping[str, Any]) -> tuple[_Rows, _Gains]:
    results = {text: t["result"] for text, t in _texts(section, "chosen_on").items()}
    name = "+ neighbours, best k and T"
    rows = {
        "language model": _row({text: result["lm_ppl"] for text, result in results.items()}),
        name: _row({text: result["ppl"] for text, result in results.items()}, str(section["best"]["flags"])),
    }
    return rows, {f"{name} over language model": {text: _words(result) for text, result in results.items()}}


def _of_lmbda(section: Mapping[str, Any]) -> tuple[_Rows, _Gains]:
    ppls = {text: t["ppl"] for text, t in _texts(section, "fitted_on").items()}
    chosen, setting = section["chosen"], f"--lmbda-model {section['file']} {_search(section)}"
    rows = {
        "language model": _row({text: ppl["language model"] for text, ppl in ppls.items()}),
        f"{chosen}, held out": _row({text: ppl[chosen] for text, ppl in ppls.items()}, setting),
    }
    return rows, {}


def _of_evaluation(section: Mapping[str, Any]) -> tuple[_Rows, _Gains]:
    text, settings = str(section["split"]), section["settings"]
    setting = f"--lmbda {settings['lmbda']:g} {_search(settings)}"
    return {
        "language model": _row({text: section["lm"]["ppl"]}),
        "+ neighbours": _row({text: section["ppl"]}, setting),
    }, {}


def _row(ppl: Mapping[str, Any], setting: str = "") -> _Row:
    return {text: None if value is None else float(value) for text, value in ppl.items()}, setting


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _search(settings: Mapping[str, Any]) -> str:
    return f"--k {int(settings['k'])} --knn-temp {float(settings['knn_temp']):g}"


def _words(gain: Mapping[str, Any]) -> str:
    interval, value = gain["gain_ppl_interval"], gain["gain_ppl"]
    if value is None:
        return ""
    return f"{value:.2f}" if interval is None else f"{value:.2f}, {interval[0]:.2f} to {interval[1]:.2f}"
