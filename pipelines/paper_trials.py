"""The configurations of the paper's trials, end to end against a STAC server, on simulated scenes and units.

Their real units are not public; each configuration's manifest in data_manifests/ says where they are had.

    python pipelines/paper_trials.py [uganda_yop_landsat | peru_graduation | georgia_water ...]
"""

import sys
from pathlib import Path

from eo_cate.run import run_trial
from eo_cate.simulation.paper_trials import TRIALS, serve_trial
from eo_cate.simulation.village_trial import VillageDesign

ROOT = Path(__file__).resolve().parents[1]


def main(names: list[str]) -> None:
    """Run the named trials, or all three."""
    for name in names or list(TRIALS):
        design = VillageDesign(villages=150, households=(6, 10))
        with serve_trial(name, ROOT / "runs" / "archives", configs=ROOT / "configs", design=design) as (
            config,
            data_dir,
        ):
            result = run_trial(config, data_dir=data_dir, run_dir=ROOT / "runs" / name)
        print(result.summary)
        print(f"Report: {result.report}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
