"""Machine figures: rates for the floors, and those that put figures recorded on another machine beside this one's.

    python benchmarks/calibrate.py [--golden DIR] [--work DIR] [--facts]        one line of JSON

The second kind comes from ``calibrate.py`` beside the golden artefacts: the same short program ran on the machine that
their speeds were recorded on, and ``calibration.json`` holds what it printed there.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from floors import Rates
from runs import turn

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "knnlm"


@dataclass(frozen=True)
class Figures:
    """What the machine is, what it was measured to do, and its speed over the recording machine's, by figure."""

    machine: dict[str, Any]
    rates: Rates | None
    ratios: dict[str, float]


def figures(work: Path, golden: Path = GOLDEN, *, facts_only: bool = False, lock: Path | None = None) -> Figures:
    """Returns this machine's figures, measured in a process of its own."""
    words: list[str | Path] = [
        sys.executable,
        __file__,
        "--golden",
        golden,
        "--work",
        work,
        *(["--facts"] if facts_only else []),
    ]
    with turn(lock):
        output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    record = json.loads(output)
    rates = Rates(**record["rates"]) if record["rates"] else None
    return Figures(record["machine"], rates, record["ratios"])


def calibration_ratios(golden: Path) -> dict[str, float]:
    """Returns this machine's speed over the recording machine's, by figure; empty where the program is not there."""
    program, recorded = golden.parent / "calibrate.py", golden.parent / "calibration.json"
    if not program.exists() or not recorded.exists():
        return {}
    output = subprocess.run([sys.executable, program], check=True, stdout=subprocess.PIPE, text=True).stdout
    return ratios(json.loads(output.splitlines()[-1]), json.loads(recorded.read_text()))


def ratios(here: dict[str, float], there: dict[str, float]) -> dict[str, float]:
    """Returns the quotient of each figure that both machines have, under the first word of its name."""
    return {name.split("_")[0]: here[name] / there[name] for name in there if name in here}


def main() -> None:
    """Prints the figures."""
    from machine import facts, measure_rates

    parser = argparse.ArgumentParser(description="Print machine figures.")
    parser.add_argument("--golden", type=Path, default=GOLDEN, metavar="DIR")
    parser.add_argument("--work", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--facts", action="store_true", help="measure nothing")
    args = parser.parse_args()
    record = {
        "machine": facts(),
        "rates": None if args.facts else asdict(measure_rates(args.work)),
        "ratios": {} if args.facts else calibration_ratios(args.golden),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
