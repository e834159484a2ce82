"""What is said of a sweep: the best settings, how sure their gains are, what they give on another text, every loss.

``sweep`` chooses the best neighbours; ``sweep-cache`` the best cache, the best neighbours, and the best of both.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fairseq.criterions.perplexity import perplexity_of
from fairseq.knn.retrieval.results import text_record
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.retrieval.unit import unit_if_any
from fairseq.knn.sweep.bootstrap import Gain, gain_of
from fairseq.knn.sweep.edges import cache_edges, doubts, neighbour_edges, search_edges, weight_edge
from fairseq.knn.sweep.grid import Setting
from fairseq.knn.sweep.sweep import Swept, log_probs_of

MOST_PRINTED = 40
LM, KNN_LM, CACHE, NEIGHBOURS, BOTH = "language model", "kNN-LM", "+ cache", "+ neighbours", "+ both"
# What may have a weight: neighbours, cache.
PARTS = {LM: (False, False), KNN_LM: (True, False), CACHE: (False, True), NEIGHBOURS: (True, False), BOTH: (True, True)}


@dataclass(frozen=True)
class Origin:
    """Where k and T of a cache sweep come from: in words, and the temperatures that T was chosen from."""

    words: str = ""
    temperatures: tuple[float, ...] = ()


class Report(ABC):
    """What a sweep found: the best setting of each combination of parts, and its gains on each text.

    Attributes:
        settings: the best one of each combination.
        losses_of: bits per token of each combination, on each text.
        gains: of a combination over another, on each text.
    """

    command: ClassVar[str]
    kind: ClassVar[str]
    names: ClassVar[tuple[str, ...]]
    compared: ClassVar[tuple[tuple[str, str], ...]]
    columns: ClassVar[tuple[str, ...]]

    def __init__(
        self, texts: list[Retrieval], swept: Swept, resamples: int, seed: int, origin: Origin | None = None
    ) -> None:
        self.texts, self.swept, self.seed, self.origin = texts, swept, seed, origin or Origin()
        self.splits = [text.manifest.split for text in texts]
        parts = {name: PARTS[name] for name in self.names[1:]}
        self.settings = {
            name: swept.best(neighbours=neighbours, cache=cache) for name, (neighbours, cache) in parts.items()
        }
        mixed = zip(*(log_probs_of(text, list(self.settings.values())) for text in texts), strict=True)
        log_ps = {LM: [text.lm_log_p_N for text in texts], **dict(zip(self.settings, mixed, strict=True))}
        self.losses_of = {name: [float(-log_p_N.mean() / np.log(2)) for log_p_N in log_ps[name]] for name in self.names}
        self.gains = {
            (name, over): [
                gain_of(base_N, log_p_N, text.block_N, resamples, seed)
                for base_N, log_p_N, text in zip(log_ps[over], log_ps[name], texts, strict=True)
            ]
            for name, over in self.compared
        }

    @abstractmethod
    def table(self) -> Iterator[str]:
        """Yields the lines that are printed."""

    @abstractmethod
    def choice(self) -> dict[str, Any]:
        """Returns what was chosen."""

    @abstractmethod
    def results(self, number: int) -> dict[str, Any]:
        """Returns what the choices give on a text."""

    @abstractmethod
    def losses(self) -> dict[str, Any]:
        """Returns every loss."""

    def record(self) -> dict[str, Any]:
        """Returns the choices, and what each gives on each text."""
        used = [{**text_record(text), **self.results(number)} for number, text in enumerate(self.texts)]
        return {"chosen_on": used[0], "applied_to": used[1] if len(used) > 1 else None, **self.choice()}

    def csv(self) -> str:
        """Returns a line for each setting, and one of names first."""
        rows: list[list[object]] = [[*self.columns, "loss_base2", "ppl", "gain_ppl"]]
        grid, lm_ppl = self.swept.grid, perplexity_of(self.swept.lm_loss)
        allowed = grid.weights
        for place, loss in np.ndenumerate(self.swept.loss_TJSLM):
            if place[-2:] in allowed:
                values, ppl = grid.setting(place).values(), perplexity_of(float(loss))
                rows.append([*(values[name] for name in self.columns), float(loss), ppl, lm_ppl - ppl])
        return "".join(",".join(map(str, row)) + "\n" for row in rows)

    def interval_lines(self) -> Iterator[str]:
        """Yields how intervals were made, and which gains are in doubt."""
        gains = next(iter(self.gains.values()))
        drawn = " and ".join(f"{gain.num_blocks:,}" for gain in gains)
        yield ""
        yield f"Interval: percentiles of {gains[0].num_resamples:,} paired resamples of {drawn} blocks."
        for (name, over), shown in self.gains.items():
            yield from doubts(f"{name} over {over}", shown, self.splits)


class NeighbourReport(Report):
    """The best λ, k and temperature."""

    command, kind = "sweep", "sweep"
    names, compared = (LM, KNN_LM), ((KNN_LM, LM),)
    columns = ("lmbda", "k", "knn_temp")

    def table(self) -> Iterator[str]:
        """Yields the best of every k and T, the choice, and what it gives."""
        grid, setting = self.swept.grid, self.settings[KNN_LM]
        lm_ppl = perplexity_of(self.swept.lm_loss)
        yield f"{len(grid):,} settings of {self.swept.num_tokens:,} tokens ({self.splits[0]}); {LM}: {lm_ppl:.2f}"
        yield ""
        yield "| k | T | best λ | loss (base 2) | perplexity | gain |"
        yield "|---:|---:|---:|---:|---:|---:|"
        loss_TJL = self.swept.loss_TJSLM[:, :, 0, :, 0]
        loss_TJL = np.where(np.isfinite(loss_TJL), loss_TJL, np.inf)
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
        yield f"Chosen on {self.splits[0]}: {_flags_to_evaluate(self.texts[0], setting)}"
        if unit := unit_if_any(self.texts[0]):
            yield f"T is {setting.knn_temp / unit:.3g} × {unit:g}, the median squared distance to the nearest row."
        yield from neighbour_edges(
            setting, grid.lmbdas, grid.ks, grid.temperatures, self.texts[0].k, self.texts[0].rows
        )
        yield ""
        gains = self.gains[KNN_LM, LM]
        rows = {
            "perplexity": self.splits,
            "---": ["---:"] * len(gains),
            LM: [f"{perplexity_of(gain.lm_loss):.2f}" for gain in gains],
            KNN_LM: [f"{perplexity_of(gain.loss):.2f}" for gain in gains],
            "gain": [f"{gain.ppl:.2f}" for gain in gains],
            "95 % interval": [_interval_words(gain) for gain in gains],
        }
        for name, cells in rows.items():
            yield f"| {name} | {' | '.join(cells)} |"
        yield from self.interval_lines()

    def choice(self) -> dict[str, Any]:
        """Returns what was chosen."""
        setting = self.settings[KNN_LM]
        best = {**setting.values(), "flags": _flags_to_evaluate(self.texts[0], setting)}
        if unit := unit_if_any(self.texts[0]):
            best |= {"distance_unit": unit, "knn_temp_in_units": setting.knn_temp / unit}
        return {"best": best}

    def results(self, number: int) -> dict[str, Any]:
        """Returns what the choice gives on a text."""
        return {"result": {**self.gains[KNN_LM, LM][number].record(), "seed": self.seed}}

    def losses(self) -> dict[str, Any]:
        """Returns every loss, by T, k and λ."""
        grid = self.swept.grid
        return {
            "grid": {"knn_temp": grid.temperatures, "k": grid.ks, "lmbda": grid.lmbdas},
            "lm_loss_base2": self.swept.lm_loss,
            "loss_base2": self.swept.loss_TJSLM[:, :, 0, :, 0].tolist(),
        }


class CacheReport(Report):
    """The best weights of neighbours and cache, alone and together."""

    command, kind = "sweep-cache", "cache-sweep"
    names = (LM, CACHE, NEIGHBOURS, BOTH)
    compared = ((CACHE, LM), (NEIGHBOURS, LM), (BOTH, LM), (BOTH, NEIGHBOURS))
    columns = ("cache_size", "cache_theta", "lmbda", "cache_lmbda")

    def table(self) -> Iterator[str]:
        """Yields the perplexity of each combination of parts at its best, and the gains."""
        grid = self.swept.grid
        count = f"{len(grid):,} settings of {self.swept.num_tokens:,} tokens"
        yield f"{count}; neighbours with --k {grid.ks[0]} --knn-temp {grid.temperatures[0]:g}{self.origin.words}"
        yield ""
        yield f"| | {' | '.join(self.splits)} | chosen on {self.splits[0]} |"
        yield "|---|" + "---:|" * len(self.splits) + "---|"
        for name, losses in self.losses_of.items():
            numbers = " | ".join(f"{perplexity_of(loss):.2f}" for loss in losses)
            yield f"| {name} | {numbers} | {_flags_of(self._values(name))} |"
        yield ""
        yield f"| gain, 95 % interval | {' | '.join(self.splits)} |"
        yield "|---|" + "---:|" * len(self.splits)
        for (name, over), gains in self.gains.items():
            cells = [f"{gain.ppl:.2f}, {_interval_words(gain)}" for gain in gains]
            yield f"| {name} over {over} | {' | '.join(cells)} |"
        yield from self.interval_lines()
        edges = list(self._edges())
        yield from ["", *edges] if edges else []

    def _edges(self) -> Iterator[str]:
        """Yields the edges that the best of both lies at."""
        grid, best = self.swept.grid, self.settings[BOTH]
        offered = self.origin.temperatures
        if best.lmbda == 0 and best.cache_lmbda == 0:
            yield "--lmbda 0 and --cache-lmbda 0 are best: neither neighbours nor cache help at any of these settings."
        if best.lmbda > 0:
            yield from weight_edge("--lmbda", best.lmbda, grid.lmbdas)
            if offered:
                yield from search_edges(best.k, best.knn_temp, grid.ks, offered, self.texts[0].k, self.texts[0].rows)
        if best.cache_lmbda > 0 and best.cache is not None:
            yield from weight_edge("--cache-lmbda", best.cache_lmbda, grid.cache_lmbdas)
            yield from cache_edges(best.cache, grid.caches, self.swept.num_tokens)

    def choice(self) -> dict[str, Any]:
        """Returns what was chosen for each combination of parts."""
        grid = self.swept.grid
        best = {name: {**self._values(name), "flags": _flags_of(self._values(name))} for name in self.names}
        return {"best": best, "neighbours": {"k": grid.ks[0], "knn_temp": grid.temperatures[0]}}

    def results(self, number: int) -> dict[str, Any]:
        """Returns what each combination of parts gives on a text."""
        results: dict[str, dict[str, Any]] = {}
        for name, losses in self.losses_of.items():
            results[name] = {"loss_base2": losses[number], "ppl": perplexity_of(losses[number])}
        for (name, over), gains in self.gains.items():
            key = "gain_over_lm" if over == LM else "gain_over_neighbours"
            results[name][key] = gains[number].record("over")
        return {"results": results, "seed": self.seed}

    def losses(self) -> dict[str, Any]:
        """Returns every loss, by cache, λ and μ."""
        grid = self.swept.grid
        caches = [{"cache_size": size, "cache_theta": theta} for size, theta in grid.caches]
        return {
            "grid": {"cache": caches, "lmbda": grid.lmbdas, "cache_lmbda": grid.cache_lmbdas},
            "loss_base2": self.swept.loss_TJSLM[0, 0].tolist(),
        }

    def _values(self, name: str) -> dict[str, float]:
        """Returns the values of a combination that were chosen for it."""
        neighbours, cache = PARTS[name]
        chosen = dict.fromkeys(("lmbda", "k", "knn_temp"), neighbours)
        chosen |= dict.fromkeys(("cache_size", "cache_theta", "cache_lmbda"), cache)
        values = self.settings[name].values() if name in self.settings else {}
        return {flag: value for flag, value in values.items() if chosen.get(flag)}


def _flags_of(values: Mapping[str, float]) -> str:
    words = {name: value if isinstance(value, int) else f"{value:g}" for name, value in values.items()}
    return " ".join(f"--{name.replace('_', '-')} {word}" for name, word in words.items())


def _flags_to_evaluate(retrieval: Retrieval, setting: Setting) -> str:
    """Returns the flags of ``fairseq-eval-lm`` that compute the setting."""
    words = _flags_of(setting.values())
    saved = retrieval.manifest.settings
    own_distances = saved.knn_sim_func == "do_not_recomp_l2" or (saved.knn_sim_func is None and saved.metric == "ip")
    asked = saved.rerank or retrieval.k
    return words if own_distances or asked == setting.k else f"{words} --rerank {asked}"


def _interval_words(gain: Gain) -> str:
    return "none" if gain.ppl_interval is None else f"{gain.ppl_interval[0]:.2f} to {gain.ppl_interval[1]:.2f}"
