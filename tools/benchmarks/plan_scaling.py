"""Predicted strong and weak scaling of LLaMA-2 7B, 13B and 70B with 1,024 clients on 64 to 1,024 ranks.

    python tools/benchmarks/plan_scaling.py            # A100, as shipped; writes docs/results/plan_scaling.csv
    python tools/benchmarks/plan_scaling.py --calibration h100 --out FOLDER

Nothing is measured: every figure is a prediction of the plan's model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPOSITORY / "engine")]

from tables import write_table  # noqa: E402

from heterotune.planning.calibration import load_calibration  # noqa: E402
from heterotune.planning.scaling import scaling_rows  # noqa: E402


def main() -> int:
    """Make the table. Returns the process's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "results", help="where the table goes")
    parser.add_argument("--calibration", default="a100", help="a100, h100 or a file")
    options = parser.parse_args()
    calibration = load_calibration(options.calibration, has_gpus=True)
    rows = [*scaling_rows(calibration, "strong"), *scaling_rows(calibration, "weak")]
    write_table(options.out / "plan_scaling.csv", rows, [f"predictions, nothing is measured: {calibration.name}"])
    for row in rows:
        print(*row.values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
