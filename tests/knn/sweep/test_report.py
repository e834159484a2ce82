"""What is said of a sweep, against loops over its settings: tables, choices, edges, and the flags of a choice."""

import math
from pathlib import Path

import numpy as np
import pytest

from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.bootstrap import Gain, gain_of
from fairseq.knn.sweep.edges import doubts, weight_edge
from fairseq.knn.sweep.grid import Grid
from fairseq.knn.sweep.report import BOTH, CACHE, KNN_LM, LM, NEIGHBOURS, CacheReport, NeighbourReport
from fairseq.knn.sweep.sweep import sweep
from tests.builders.cached_retrieval import CACHES, cached_retrieval
from tests.builders.small_retrieval import small_retrieval
from tests.oracles.knn import knn_probability, mixture
from tests.oracles.sweep import loss_of_mixture

LMBDAS, KS, TEMPERATURES = (0.1, 0.3, 0.6), (1, 4, 16), (0.5, 5.0, 50.0)
PAIRS = tuple((cache["cache_size"], cache["cache_theta"]) for cache in CACHES)
RESAMPLES = 100


def loss_of(columns: dict, k: int, temperature: float, lmbda: float) -> float:
    """Returns bits per token of one setting, token by token."""
    bits = 0.0
    for n, lm in enumerate(np.exp(columns["lm_log_prob"])):
        hits = columns["hits"][n, :k].astype(int)
        p = knn_probability(columns["distances"][n, :k], columns["ids"][n, :k], hits, 1, temperature)
        mixed = mixture(lm, p, lmbda)
        bits -= math.log2(mixed) if mixed else -math.inf
    return bits / len(columns["lm_log_prob"])


def neighbour_report(directories: list[Path], grid: Grid) -> NeighbourReport:
    texts = [Retrieval.open(directory) for directory in directories]
    return NeighbourReport(texts, sweep(texts[0], grid), RESAMPLES, 1)


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[dict]]:
    """Returns two retrievals and their columns."""
    directories = [tmp_path_factory.mktemp("saved") / name for name in ("valid", "test")]
    found = [small_retrieval(one, seed=n, split=one.name) for n, one in enumerate(directories)]
    return directories, found


def cells(line: str) -> list[str]:
    return [cell.strip(" *") for cell in line.strip("|").split("|")]


def test_every_line_of_the_table_is_the_best_of_a_k_and_a_temperature(columns: tuple[list[Path], list[dict]]) -> None:
    directories, (valid, test) = columns
    lines = list(neighbour_report(directories, Grid(LMBDAS, KS, TEMPERATURES)).table())
    lm = 2 ** (-valid["lm_log_prob"].mean() / math.log(2))
    assert lines[0] == f"27 settings of 60 tokens (valid); language model: {lm:.2f}"
    losses = {(k, t, i): loss_of(valid, k, t, i) for k in KS for t in TEMPERATURES for i in LMBDAS}
    best = min(losses, key=lambda setting: losses[setting])
    for line, (k, t) in zip(lines[4:13], [(k, t) for k in KS for t in TEMPERATURES], strict=True):
        chosen = min(LMBDAS, key=lambda i, k=k, t=t: losses[k, t, i])
        loss = losses[k, t, chosen]
        ppl = f"{2**loss:.2f}"
        assert cells(line) == [str(k), f"{t:g}", f"{chosen:g}", f"{loss:.4f}", ppl, f"{lm - 2**loss:.2f}"]
        assert ("**" in line) == ((k, t) == best[:2])
    assert lines[14].startswith(f"Chosen on valid: --lmbda {best[2]:g} --k {best[0]} --knn-temp {best[1]:g}")
    applied = loss_of(test, *best)
    (mixed,) = [line for line in lines if line.startswith("| kNN-LM")]
    assert cells(mixed) == ["kNN-LM", f"{2 ** losses[best]:.2f}", f"{2**applied:.2f}"]


def test_of_many_temperatures_only_each_k_s_best_is_printed(columns: tuple[list[Path], list[dict]]) -> None:
    directories, (valid, _) = columns
    temperatures = tuple(float(t) for t in np.geomspace(0.1, 100, 14))
    lines = list(neighbour_report(directories[:1], Grid((0.3,), KS, temperatures)).table())
    for line, k in zip(lines[4:7], KS, strict=True):
        t = min(temperatures, key=lambda t, k=k: loss_of(valid, k, t, 0.3))
        assert cells(line)[:2] == [str(k), f"{t:g}"]
    assert lines[7] == ""


def test_gains_are_those_of_the_choice_on_each_text(columns: tuple[list[Path], list[dict]]) -> None:
    directories, (valid, test) = columns
    report = neighbour_report(directories, Grid((0.3,), (4,), (5.0,)))
    for number, found in enumerate((valid, test)):
        result = report.results(number)["result"]
        assert result["loss_base2"] == pytest.approx(loss_of(found, 4, 5.0, 0.3))
        assert result["lm_loss_base2"] == pytest.approx(loss_of(found, 4, 5.0, 0.0))
        assert result["gain_bits"] == pytest.approx(result["lm_loss_base2"] - result["loss_base2"])
        assert result["gain_ppl"] == pytest.approx(2 ** result["lm_loss_base2"] - 2 ** result["loss_base2"])
        assert (result["resamples"], result["blocks"], result["seed"]) == (RESAMPLES, 8, 1)
    record = report.record()
    assert (record["chosen_on"]["split"], record["applied_to"]["split"]) == ("valid", "test")
    assert neighbour_report(directories[:1], Grid((0.3,), (4,), (5.0,))).record()["applied_to"] is None
    assert list(report.interval_lines())[1].endswith("100 paired resamples of 8 and 8 blocks.")


def test_gains_in_doubt_are_said() -> None:
    sure, chance, harm = (
        Gain(3.0, loss, (0.0, 0.0), interval, 8, RESAMPLES)
        for loss, interval in ((2.0, (1.0, 5.0)), (2.9, (-0.1, 0.8)), (3.5, (-4.0, 1.0)))
    )
    same, unknown = Gain(3.0, 3.0, (0.0, 0.0), (0.0, 0.0), 8, RESAMPLES), Gain(3.0, 2.0, None, None, 1, RESAMPLES)
    assert list(doubts("A over B", (sure, chance, harm, same, unknown), ("a", "b", "c", "d", "e"))) == [
        "On b, the gain of A over B may be chance: its interval contains 0.",
        "On c, A over B is worse: 8.00 → 11.31.",
    ]


def test_doubts_are_told_with_the_intervals(columns: tuple[list[Path], list[dict]]) -> None:
    directories, _ = columns
    report = neighbour_report(directories, Grid((0.99,), (1,), (5.0,)))
    gains = report.gains[KNN_LM, LM]
    assert all(gain.bits < 0 for gain in gains), "neighbours alone are worse"
    assert [line.partition(",")[0] for line in report.table()][-2:] == ["On valid", "On test"]


@pytest.mark.parametrize("lmbdas", [(0.0, 0.1, 0.2), (0.1, 0.2, 0.3), (0.0, 0.05, 0.1, 0.2)])
def test_the_smallest_weight_above_0_is_an_edge(lmbdas: tuple[float, ...]) -> None:
    found = list(weight_edge("--lmbda", 0.1, lmbdas))
    expected = {
        (0.0, 0.1, 0.2): ["--lmbda 0.1 is the smallest above 0 that was tried: smaller values may be better; try"],
        (0.1, 0.2, 0.3): ["--lmbda 0.1 is at the edge of what was tried: smaller values may be better; try"],
    }
    assert found == [f"{words} --lmbda 0:0.1:0.01." for words in expected.get(lmbdas, [])]


@pytest.mark.parametrize("lmbdas", [(0.0, 0.3, 1.0), (0.3,), (0.6, 0.9), (0.01, 0.02), (0.0,), (0.0, 0.01)])
@pytest.mark.parametrize("temperatures", [(0.001, 5.0, 5e5), (5.0,), (0.01, 0.02), (90.0, 99.0)])
def test_a_best_value_at_the_edge_is_said(
    columns: tuple[list[Path], list[dict]], lmbdas: tuple[float, ...], temperatures: tuple[float, ...]
) -> None:
    """λ of 0 and 1 are ends that nothing lies behind. With λ 0 no T is better than another."""
    directories, (valid, _) = columns
    lines = [line for line in neighbour_report(directories[:1], Grid(lmbdas, (4,), temperatures)).table()]
    settings = [(t, i) for t in temperatures for i in lmbdas]
    temperature, lmbda = min(settings, key=lambda one: round(loss_of(valid, 4, *one), 12))
    expected = []
    for name, best, tried in (("--lmbda", lmbda, lmbdas), ("--knn-temp", temperature, temperatures)):
        if lmbda > 0 and best in (tried[0], tried[-1]) and not (name == "--lmbda" and best == 1):
            side = "other" if len(tried) == 1 else "smaller" if best == tried[0] else "larger"
            expected.append((f"{name} {best:g} is at the edge of what was tried: {side} values may be better", name))
    found = [line.split("; try ") for line in lines if "at the edge" in line]
    assert [(words, remedy.split()[0]) for words, remedy in found] == expected
    assert any("help at none of these settings" in line for line in lines) == (lmbda == 0 and len(lmbdas) > 1)


def test_all_neighbours_that_were_saved_being_the_best_is_said(columns: tuple[list[Path], list[dict]]) -> None:
    directories, (valid, _) = columns
    for ks in ((1, 16), (16,), (1, 4)):
        report = neighbour_report(directories[:1], Grid((0.3,), ks, (0.5, 5.0, 50.0)))
        best = report.settings["kNN-LM"].k
        assert best == min(ks, key=lambda k: min(loss_of(valid, k, t, 0.3) for t in (0.5, 5.0, 50.0)))
        told = any("is all that was saved" in line for line in report.table())
        assert told == (best == 16 and len(ks) > 1)


@pytest.mark.parametrize(("rows", "more"), [(None, 32), (1000, 32), (20, 20), (16, None)])
def test_no_more_neighbours_are_advised_than_there_are_rows(
    columns: tuple[list[Path], list[dict]], tmp_path: Path, rows: int | None, more: int | None
) -> None:
    grid = Grid((0.3,), (1, 16), (0.5, 5.0, 50.0))
    assert neighbour_report(columns[0][:1], grid).settings["kNN-LM"].k == 16
    small_retrieval(tmp_path / "valid", datastore={"prefix": "dstore", **({"rows": rows} if rows else {})})
    lines = [line for line in neighbour_report([tmp_path / "valid"], grid).table() if "all that was saved" in line]
    assert [line.split("--save-retrieval --k ")[1] for line in lines] == ([str(more)] if more else [])


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> tuple[CacheReport, list[dict], Grid]:
    """Returns the report of two retrievals with caches, their columns, and the settings."""
    directories = [tmp_path_factory.mktemp("cached") / name for name in ("valid", "test")]
    columns = [cached_retrieval(one, seed=n, split=one.name) for n, one in enumerate(directories)]
    grid = Grid((0.0, 0.2, 0.5), (16,), (2.0,), PAIRS, (0.0, 0.1, 0.4))
    texts = [Retrieval.open(directory) for directory in directories]
    return CacheReport(texts, sweep(texts[0], grid), RESAMPLES, 1), columns, grid


def test_each_combination_of_parts_has_its_own_best(cached: tuple[CacheReport, list[dict], Grid]) -> None:
    report, (valid, test), grid = cached
    settings = [(s, i, j) for s in range(2) for i in grid.lmbdas for j in grid.cache_lmbdas]
    bits = {setting: loss_of_mixture(valid, *setting, 2.0) for setting in settings}
    allowed = {
        LM: [one for one in settings if one[1:] == (0, 0)],
        CACHE: [one for one in settings if one[1] == 0],
        NEIGHBOURS: [one for one in settings if one[2] == 0],
        BOTH: settings,
    }
    for name, some in allowed.items():
        best = min(some, key=lambda one: bits[one])
        expected = [bits[best], loss_of_mixture(test, *best, 2.0)]
        assert report.losses_of[name] == pytest.approx(expected, rel=1e-6), name
        if name == BOTH:
            chosen = report.choice()["best"][name]
            assert (chosen["lmbda"], chosen["cache_lmbda"]) == best[1:]
            assert (chosen["cache_size"], chosen["cache_theta"]) == PAIRS[best[0]]
    assert set(report.choice()["best"][CACHE]) == {"cache_size", "cache_theta", "cache_lmbda", "flags"}
    assert set(report.choice()["best"][NEIGHBOURS]) == {"lmbda", "k", "knn_temp", "flags"}
    assert report.choice()["best"][LM] == {"flags": ""} and report.choice()["neighbours"] == {"k": 16, "knn_temp": 2.0}


def test_every_number_of_the_tables_is_that_of_the_record(cached: tuple[CacheReport, list[dict], Grid]) -> None:
    report, _, grid = cached
    lines = list(report.table())
    assert lines[0] == f"{len(grid)} settings of 60 tokens; neighbours with --k 16 --knn-temp 2"
    for line, name in zip(lines[4:8], (LM, CACHE, NEIGHBOURS, BOTH), strict=True):
        results = [report.results(number)["results"][name] for number in (0, 1)]
        assert cells(line)[:3] == [name, *(f"{2 ** result['loss_base2']:.2f}" for result in results)]
    for line, (name, over) in zip(lines[11:15], report.compared, strict=True):
        key = "gain_over_lm" if over == LM else "gain_over_neighbours"
        for cell, number in zip(cells(line)[1:], (0, 1), strict=True):
            gain = report.results(number)["results"][name][key]
            low, high = gain["gain_ppl_interval"]
            assert cell == f"{gain['gain_ppl']:.2f}, {low:.2f} to {high:.2f}"
            assert gain["gain_ppl"] == pytest.approx(
                2 ** report.losses_of[over][number] - 2 ** report.losses_of[name][number]
            )


def test_every_setting_that_can_be_is_a_line_of_the_csv(cached: tuple[CacheReport, list[dict], Grid]) -> None:
    report, (valid, _), grid = cached
    head, *lines = report.csv().splitlines()
    assert head == "cache_size,cache_theta,lmbda,cache_lmbda,loss_base2,ppl,gain_ppl" and len(lines) == len(grid)
    lm = 2 ** (-valid["lm_log_prob"].mean() / math.log(2))
    for line in lines:
        size, theta, lmbda, cache_lmbda, loss, ppl, gain = map(float, line.split(","))
        expected = loss_of_mixture(valid, PAIRS.index((int(size), theta)), lmbda, cache_lmbda, 2.0)
        assert (loss, ppl, gain) == pytest.approx((expected, 2**expected, lm - 2**expected), rel=1e-5)


def test_every_loss_is_told_by_cache_lambda_and_mu(cached: tuple[CacheReport, list[dict], Grid]) -> None:
    report, (valid, _), grid = cached
    losses = report.losses()
    assert losses["grid"] == {"cache": CACHES, "lmbda": grid.lmbdas, "cache_lmbda": grid.cache_lmbdas}
    for s, i, j in np.ndindex(2, 3, 3):
        expected = loss_of_mixture(valid, s, grid.lmbdas[i], grid.cache_lmbdas[j], 2.0)
        assert losses["loss_base2"][s][i][j] == pytest.approx(expected, rel=1e-5)


def test_intervals_are_of_the_blocks_and_of_the_seed(cached: tuple[CacheReport, list[dict], Grid]) -> None:
    report, columns, _ = cached
    for number, found in enumerate(columns):
        gain = report.gains[NEIGHBOURS, LM][number]
        lmbda = report.settings[NEIGHBOURS].lmbda
        p = [
            knn_probability(found["distances"][n], found["ids"][n], found["hits"][n].astype(int), 1, 2.0)
            for n in range(60)
        ]
        mixed = np.log((1 - lmbda) * np.exp(found["lm_log_prob"]) + lmbda * np.array(p))
        own = gain_of(found["lm_log_prob"], mixed, found["blocks"], RESAMPLES, 1)
        assert gain.bits_interval == pytest.approx(own.bits_interval)
