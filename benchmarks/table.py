"""The table: what each piece of work costs, ours and the original's, and how far that is from what the machine allows.

    python benchmarks/table.py [--rows train,eval,…] [--runs 3] [--peer VENV] [--work DIR] [--out table.json]

Ours and a live peer run in turn (ours, peer, ours, peer, …), so that a machine that gets slower slows both; a figure
is the median, its spread the smallest and the largest. Where nothing alive can do the original's work, the seconds
recorded on another machine are corrected by the calibration figure named in the row (``calibrate.py``).
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import Bench, Measured, Row, RowError
from calibrate import GOLDEN, figures
from floors import Rates
from machine import NO_BF16, describe
from peer import make_peer
from rows import ROWS, make_row

HEAD = ("work", "ours s", "rate", "original s", "by", "ratio", "peak GiB", "floor s", "set by", "of it", "loss, bits")
BUSY = 0.1  # CPUs that worked for something else during a run, beyond which the machine was not idle


@dataclass
class Outcome:
    """All runs of a row."""

    row: Row
    ours: list[Measured] = field(default_factory=list)
    peer: list[Measured] = field(default_factory=list)
    problem: str = ""


def median(runs: Sequence[Measured]) -> float:
    """Returns the median of the runs' seconds."""
    return statistics.median(run.seconds for run in runs)


def measure(row: Row, runs: int, *, has_bf16: bool) -> Outcome:
    """Returns the runs of a row, ours and the peer's in turn; a command that fails ends the row, not the table."""
    outcome = Outcome(row)
    if row.bf16 and not has_bf16:
        outcome.problem = NO_BF16
        return outcome
    try:
        for number in range(runs):
            for name, command, kept in (("ours", row.ours, outcome.ours), ("peer", row.peer, outcome.peer)):
                if command is None:
                    continue
                kept.append(command())
                done = kept[-1]
                print(
                    f"{row.name} {name} {number + 1}/{runs}: {done.seconds:.1f} s, wall {done.wall_s:.1f} s,"
                    f" others {done.others:.2f} CPUs {done.note}",
                    file=sys.stderr,
                    flush=True,
                )
    except RowError as err:
        outcome.problem = str(err)
    return outcome


def original(outcome: Outcome, ratios: dict[str, float]) -> tuple[float | None, str]:
    """Returns the original's seconds on this machine and where they come from, the peer's if it was measured."""
    row = outcome.row
    if outcome.peer and (not row.parts or row.scales not in ratios):
        return median(outcome.peer), f"{row.peer_name}, float32" if row.bf16 else row.peer_name
    if row.recorded_s is None:
        return None, "no peer"
    if row.scales not in ratios:
        return None, f"recorded {row.recorded_s:.1f}, no calibration"
    seconds = row.recorded_s / ratios[row.scales]
    by = f"recorded {row.recorded_s:.1f} ÷ {row.scales} {ratios[row.scales]:.2f}"
    if row.parts and all(scales in ratios for _, scales in row.parts):
        split = sum(seconds / ratios[scales] for seconds, scales in row.parts)
        by += f"; {split:.1f} by {', '.join(scales for _, scales in row.parts)}"
    if outcome.peer:
        return median(outcome.peer), f"{row.peer_name}; {seconds:.1f} {by}"
    return seconds, by


def loss_cell(outcome: Outcome) -> str:
    """Returns the loss, what it must be, and whether it is."""
    row, loss = outcome.row, outcome.ours[-1].loss
    if loss is None:
        return (outcome.peer or outcome.ours)[-1].note  # the later run compares with the earlier
    expected, tolerance = row.expected, row.tolerance
    if row.tolerance_part and outcome.peer and outcome.peer[-1].loss is not None:
        expected = outcome.peer[-1].loss
        tolerance = row.tolerance_part * expected
    if expected is None:
        return f"{loss:.5f}"
    verdict = "ok" if abs(loss - expected) <= tolerance else "MISSED"
    return f"{loss:.5f} ({expected:.5f} ± {tolerance:.2g} {verdict})"


def cells(outcome: Outcome, ratios: dict[str, float], rates: Rates) -> list[str]:
    """Returns a row of the printed table."""
    row = outcome.row
    floor_s, bound = row.floor.seconds(rates)
    theirs, by = original(outcome, ratios)
    if not outcome.ours:
        shown = f"{theirs:.1f}" if theirs is not None else ""
        return [row.what, outcome.problem, "", shown, by, "", "", f"{floor_s:.2f}", bound, "", ""]
    seconds = median(outcome.ours)
    spread = [run.seconds for run in outcome.ours]
    rate = f"{row.units[0] / seconds:,.0f} {row.units[1]}/s" if row.units else ""
    return [
        row.what,
        f"{seconds:.1f} ({min(spread):.1f}–{max(spread):.1f})",
        rate,
        f"{theirs:.1f}" if theirs is not None else "",
        by,
        f"{theirs / seconds:.2f}" if theirs is not None else "",
        f"{max(run.peak_rss_gib for run in outcome.ours):.2f}",
        f"{floor_s:.2f}",
        bound,
        f"{100 * floor_s / seconds:.0f} %",
        loss_cell(outcome) + (f"; then {outcome.problem}" if outcome.problem else ""),
    ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose columns are as wide as they must be."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def as_record(outcome: Outcome, ratios: dict[str, float], rates: Rates) -> dict[str, Any]:
    """Returns a row for the JSON file: every run, and what was derived from them."""
    row = outcome.row
    seconds, by = original(outcome, ratios)
    floor_s, bound = row.floor.seconds(rates)
    return {
        "what": row.what,
        "ours": [asdict(run) for run in outcome.ours],
        "peer": [asdict(run) for run in outcome.peer],
        "problem": outcome.problem,
        "units": row.units,
        "original_s": seconds,
        "original_by": by,
        "ratio": seconds / median(outcome.ours) if seconds and outcome.ours else None,
        "floor": asdict(row.floor),
        "floor_s": floor_s,
        "floor_set_by": bound,
        "expected_loss": row.expected,
        "tolerance_bits": row.tolerance,
    }


def write_record(
    path: Path, machine: dict[str, Any], rates: Rates, ratios: dict[str, float], outcomes: Sequence[Outcome]
) -> None:
    """Writes all runs so far as JSON."""
    record = {
        "machine": machine,
        "rates": asdict(rates),
        "calibration_ratios": ratios,
        "rows": {outcome.row.name: as_record(outcome, ratios, rates) for outcome in outcomes},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def parse() -> argparse.Namespace:
    """Returns the flags."""
    parser = argparse.ArgumentParser(
        description="Print what our work costs beside the original's and the machine's floor."
    )
    parser.add_argument(
        "--rows",
        default=",".join(ROWS),
        metavar="NAME,…",
        help=f"of {', '.join(ROWS)}; index:SPEC, knn-exact:SPEC and knn-own:SPEC, with ';' between names then",
    )
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each row [default: 3]")
    parser.add_argument("--updates", type=int, default=200, metavar="N", help="of the training rows, at most 333")
    parser.add_argument("--golden", type=Path, default=GOLDEN, metavar="DIR", help="golden artefacts")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), metavar="DIR", help="3 GB are written here")
    parser.add_argument(
        "--peer", type=Path, metavar="VENV", help="environment of the live peer; made if it is not there"
    )
    parser.add_argument("--lock", type=Path, metavar="FILE", help="hold this lock during each run")
    parser.add_argument("--out", type=Path, default=Path("bench-work/table.json"), metavar="JSON")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="[default: all CPUs]")
    return parser.parse_args()


def main() -> None:
    """Measures and prints."""
    args = parse()
    if not (args.golden / "expected.json").exists():
        raise SystemExit(
            f"--golden {args.golden} has no expected.json; give the directory of the golden files, which"
            " are not in the repository (docs/performance.md names the benchmarks that run without)"
        )
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    peer = make_peer(args.peer) if args.peer else None
    bench = Bench(args.golden.absolute(), args.work.absolute(), peer, args.lock, args.updates)
    names = args.rows.split(";" if ";" in args.rows or ":" in args.rows else ",")
    try:
        rows = [make_row(bench, name) for name in names]
    except ValueError as err:
        raise SystemExit(str(err)) from err
    found = figures(args.work.absolute(), args.golden.absolute(), lock=args.lock)
    machine, rates, ratios = found.machine, found.rates, found.ratios
    assert rates is not None
    print(describe(machine))
    print(
        "rates, 1e9/s: "
        + ", ".join(f"{name.split('_per')[0]} {value / 1e9:.1f}" for name, value in asdict(rates).items())
    )
    print("speed over the recording machine's: " + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    outcomes = []
    for row in rows:
        outcomes.append(measure(row, args.runs, has_bf16=machine["bf16"]))
        write_record(args.out, machine, rates, ratios, outcomes)
    # A busy moment must not lower the floors: the better of two measurements, before and after.
    again = figures(args.work.absolute(), args.golden.absolute(), lock=args.lock).rates
    assert again is not None
    rates = Rates(**{name: max(value, asdict(again)[name]) for name, value in asdict(rates).items()})
    write_record(args.out, machine, rates, ratios, outcomes)
    print(aligned([HEAD, *(cells(outcome, ratios, rates) for outcome in outcomes)]))
    busy = [outcome.row.name for outcome in outcomes if any(run.others > BUSY for run in outcome.ours + outcome.peer)]
    if busy:
        print(f"Not an idle machine: something else had more than {BUSY:g} CPUs during a run of {', '.join(busy)}.")


if __name__ == "__main__":
    main()
