"""The demo: a simulated village trial on real Sentinel-2 pixels, from nothing to runs/demo/report.html.

Copy this file for a trial of your own: prepare the units table, then call `extrapolate` (or `run_trial` for no region).
"""

from pathlib import Path

import pandas as pd

from eo_cate.config import load_config
from eo_cate.report import print_region
from eo_cate.run import extrapolate
from eo_cate.simulation import prepare_demo
from eo_cate.simulation.demo_region import prepare_region

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Prepare the data folder, run the trial, carry it to the districts, print its tables."""
    data_dir, run_dir = REPO / "data" / "demo", REPO / "runs" / "demo"
    prepare_demo(data_dir)
    prepare_region(data_dir)
    result = extrapolate(load_config(REPO / "configs" / "demo.yaml"), data_dir=data_dir, run_dir=run_dir)
    print(result.summary)
    if result.inputs.region is not None:
        print(f"Beyond the trial\n\n{print_region(result.inputs.region)}\n")
    print("The same design over 20 seeds, one fold order each (`python pipelines/demo_seeds.py` makes it anew):\n")
    print(pd.read_csv(REPO / "docs" / "demo_seeds.csv").round(2).to_string(index=False, na_rep=""))
    print("\nBeyond the trial over 10 seeds (`python pipelines/beyond_seeds.py`; docs/beyond.md says what is what):\n")
    beyond = pd.read_csv(REPO / "docs" / "beyond.csv").query("level_slope == 0 and not measure.str.contains('places')")
    print(beyond[["measure", "mean", "mc_error", "min", "max"]].round(2).to_string(index=False, na_rep=""))
    print(f"\nReport: {result.report}")


if __name__ == "__main__":
    main()
