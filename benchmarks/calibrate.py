"""Machine figures: rates for the floors, and those that put figures recorded on another machine beside this one's.

    python benchmarks/calibrate.py [--golden DIR] [--work DIR]

The second kind comes from ``calibrate.py`` beside the golden artefacts: the same short program ran on the machine that
their speeds were recorded on, and ``calibration.json`` holds what it printed there.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "knnlm"


def calibration_ratios(golden: Path) -> dict[str, float]:
    """Returns this machine's speed over the recording machine's, by figure; empty where the program is not there."""
    program, recorded = golden.parent / "calibrate.py", golden.parent / "calibration.json"
    if not program.exists() or not recorded.exists():
        return {}
    output = subprocess.run([sys.executable, program], check=True, capture_output=True, text=True).stdout
    return ratios(json.loads(output.splitlines()[-1]), json.loads(recorded.read_text()))


def ratios(here: dict[str, float], there: dict[str, float]) -> dict[str, float]:
    """Returns the quotient of each figure that both machines have, under the first word of its name."""
    return {name.split("_")[0]: here[name] / there[name] for name in there if name in here}


def main() -> None:
    """Prints the figures."""
    from machine import describe, facts, measure_rates

    parser = argparse.ArgumentParser(description="Print machine figures.")
    parser.add_argument("--golden", type=Path, default=GOLDEN, metavar="DIR")
    parser.add_argument("--work", type=Path, default=Path(), metavar="DIR")
    args = parser.parse_args()
    print(describe(facts()))
    print(json.dumps({name: f"{value / 1e9:.1f} G" for name, value in asdict(measure_rates(args.work)).items()}))
    print(json.dumps({name: round(value, 3) for name, value in calibration_ratios(args.golden).items()}))


if __name__ == "__main__":
    main()
