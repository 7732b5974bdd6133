"""Beyond the trial over 10 seeds of the demo -> docs/beyond.csv; fails when the bands do not hold (docs/beyond.md)."""

import argparse
from pathlib import Path

from eo_cate.config import load_config
from eo_cate.executor import open_executor
from eo_cate.simulation import prepare_demo
from eo_cate.simulation.beyond_seeds import (
    LEVEL_SLOPES,
    SLOPE_BOUNDS,
    STUDY_BOUNDS,
    embed_scenery,
    require_coverage,
    run_seeds,
    summarise_slopes,
)
from eo_cate.store import Store, write_atomic

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Embed the places once, take every seed beyond its trial (resumable), write, print and check the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--executor", default="inline", help="inline, dask or tcp://host:8786")
    arguments = parser.parse_args()
    prepare_demo(REPO / "data" / "demo")
    config = load_config(REPO / "configs" / "demo.yaml")
    store = Store(REPO / "runs" / "demo_seeds" / "store")
    with open_executor(arguments.executor) as executor:
        scenery = embed_scenery(config, REPO / "data" / "demo", store=store, executor=executor)
        seeds = range(1, arguments.seeds + 1)
        options = {"store": store, "executor": executor}
        tables = {slope: run_seeds(scenery, config, seeds, level_slope=slope, **options) for slope in LEVEL_SLOPES}
    summary = summarise_slopes(tables)
    write_atomic(REPO / "docs" / "beyond.csv", summary.round(3).to_csv(index=False, lineterminator="\n").encode())
    print(summary.round(3).to_string(index=False))
    require_coverage(summary[summary["level_slope"] == LEVEL_SLOPES[0]], STUDY_BOUNDS)
    for slope in LEVEL_SLOPES[1:]:
        require_coverage(summary[summary["level_slope"] == slope], SLOPE_BOUNDS)


if __name__ == "__main__":
    main()
