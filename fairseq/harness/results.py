"""The harness's results of two models, side by side."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fairseq.errors import DataError

Results = Mapping[str, Any]


def files_of(output: Path) -> set[Path]:
    """Returns the files of results that the harness has written for ``--output_path``."""
    if output.suffix == ".json":
        return set(output.parent.glob(f"{output.stem}_*.json"))
    return set(output.rglob("results_*.json"))


def read_results(output: Path, earlier: Collection[Path] = ()) -> Results:
    """Returns the newest results that the harness has written for ``--output_path``.

    Args:
        output: a directory, or a name that ends in ``.json``.
        earlier: files that were there before.

    Raises:
        DataError: there are none.
    """
    found = files_of(output) - set(earlier)
    if not found:
        raise DataError(
            f"lm-eval has written no results to {output}; see its warnings above, and whether there is room"
        )
    newest = max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
    results: Results = json.loads(newest.read_text(encoding="utf-8"))
    return results


def beside_each_other(alone: Results, mixed: Results) -> str:
    """Returns a table of every metric of both, as markdown, and how much neighbours change it; then k, λ and T."""
    rows = [["Tasks", "Metric", "", "model alone", "with neighbours", "change"]]
    for task, metrics in mixed["results"].items():
        others, better = alone["results"].get(task, {}), mixed.get("higher_is_better", {}).get(task, {})
        name = metrics.get("alias", task)
        for key, value in metrics.items():
            metric, comma, kept = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            arrow = {True: "↑", False: "↓"}.get(better.get(metric), "")
            shown = metric if kept == "none" else f"{metric} ({kept})"
            rows.append([name, shown, arrow, *_figures(others.get(key), value)])
            name = ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["|" + "|".join(_cell(row, column, widths[column]) for column in range(len(row))) + "|" for row in rows]
    rule = "|" + "|".join("-" * (width - 1) + (":" if column > 2 else "-") for column, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:], *_settings(mixed)])


def _settings(mixed: Results) -> list[str]:
    """Returns a line with how neighbours were searched and weighed, where the results say so."""
    knn = (mixed.get("config") or {}).get("neighbours")
    if not knn:
        return []
    chosen = f" ({knn['knn_temp_asked']})" if "knn_temp_asked" in knn else ""
    return ["", f"neighbours: k {knn['k']}, λ {knn['lmbda']:g}, T {knn['knn_temp']:g}{chosen}, probe {knn['probe']}"]


def _figures(alone: Any, mixed: float) -> list[str]:
    if not isinstance(alone, (int, float)):
        return ["", f"{mixed:.4f}", ""]
    return [f"{alone:.4f}", f"{mixed:.4f}", f"{mixed - alone:+.4f}"]


def _cell(row: list[str], column: int, width: int) -> str:
    return row[column].rjust(width) if column > 2 else row[column].ljust(width)
