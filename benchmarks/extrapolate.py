"""Cost of a region: cells per core-second and peak memory; and the forest's predictions against scikit-learn's.

1. A trial on a made-up landscape is carried to 1e4, 1e5 and 1e6 cells, each in a process of its own, with the
   mean-colour encoder (a network's cost is its own: `benchmarks/embed.py`). Time is the step `region` alone: cutting
   chips, embedding, predicting, comparing with the trial, tables. Bar: under 2 GiB at the most cells.
2. tau_hat with standard errors for a million cells of 400 features, against RandomForestRegressor.predict of as many
   trees on the same rows. One thread each; CPU seconds. Bar: at most 10 times its time.

``python benchmarks/extrapolate.py [--quick]``; the last line is a JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from threadpoolctl import threadpool_limits

BAR, BYTES_BAR = 10.0, 2 * 2**30
CELL_M, TREES, FEATURES, UNITS = 40.0, 200, 400, 3_000


def make(num_cells, folder):
    """Write landscape, trial and region; in a process of its own, whose memory is not the region's."""
    from eo_cate.simulation.demo_trial import write_demo
    from eo_cate.simulation.scene import write_scene
    from eo_cate.simulation.small import simulate_small, small_landscape

    side_m = CELL_M * num_cells**0.5
    scene = small_landscape(seed=1, size_px=int(side_m / 10) + 160)
    write_scene(scene, folder / "scene")
    write_demo(simulate_small(scene, seed=1), folder)
    left, top = scene.grid.transform[2] + 800, scene.grid.transform[5] - 800
    square = shapely.box(left, top - side_m, left + side_m, top)
    gpd.GeoDataFrame({"id": ["all"]}, geometry=[square], crs=scene.grid.crs).to_parquet(folder / "region.parquet")


def carry(num_cells):
    """Run a trial and its region in this process; print seconds, cells and peak bytes as JSON."""
    from eo_cate.config import RunConfig
    from eo_cate.run import extrapolate
    from eo_cate.simulation.small import SMALL_STRETCH

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, "--make", str(folder), "--carry", str(num_cells)], check=True)
        config = RunConfig.model_validate(
            {
                "name": "bench",
                "trial": {
                    "units": "units.csv", "outcome": "Y", "treatment": "W", "cluster": "village", "site": "village",
                    "stratum": "quadrant", "propensity": 0.5,
                },
                "imagery": {"source": "rasters", "files": {b: f"scene/{b}.tif" for b in ("B04", "B03", "B02")}},
                "embeddings": {
                    "encoder": "mean_colour", "scales": [16, 64], "bands": ["B04", "B03", "B02"],
                    "stretch": [list(SMALL_STRETCH)] * 3, "input_px": 56,
                },
                "estimators": {"num_trees": TREES},
                "evaluation": {"num_orders": 1, "num_permutations": 1, "num_draws": 19},
                "extrapolate": {"region": "region.parquet", "resolution_m": CELL_M},
            }
        )  # fmt: skip
        shown = extrapolate(config, data_dir=folder, run_dir=folder / "run", progress=False).inputs
    found = {"cells": sum(shown.region.counts.values()), "seconds": shown.timings["region"]}
    print(json.dumps(found | {"bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def compare_predictions(num_cells):
    """CPU seconds of both forests for as many rows."""
    from sklearn.ensemble import RandomForestRegressor

    from eo_cate.estimators import CausalForest

    rng = np.random.default_rng(1)
    X, W = rng.normal(size=(UNITS, FEATURES)).astype(np.float32), rng.integers(0, 2, UNITS).astype(float)
    Y = X[:, 0] + W * X[:, 1] + rng.normal(size=UNITS)
    cells = rng.normal(size=(num_cells, FEATURES)).astype(np.float32)
    ours = CausalForest(TREES, seed=1).fit(X, Y, W, propensity=0.5)
    rival = RandomForestRegressor(TREES, min_samples_leaf=5, max_features="sqrt", random_state=1, n_jobs=1).fit(X, Y)
    ours.predict(cells[:100], std_err=True)  # compiled before the clock starts
    times = []
    for predict in (lambda part: ours.predict(part, std_err=True), rival.predict):
        start = time.process_time()
        for first in range(0, num_cells, 50_000):
            predict(cells[first : first + 50_000])
        times.append(time.process_time() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1e4 cells only, and 50,000 predictions")
    parser.add_argument("--carry", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.carry, options.make)
        return
    if options.carry:
        carry(options.carry)
        return
    environment = os.environ | {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    print("mean-colour encoder, 2 scales; region step; wall seconds, of at most 2 cores in the forest's predictions")
    print(f"{'cells':>10} {'seconds':>9} {'cells/s':>9} {'peak MB':>8}")
    for size in (10_000,) if options.quick else (10_000, 100_000, 1_000_000):
        done = subprocess.run(
            [sys.executable, __file__, "--carry", str(size)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        rate = found["cells"] / found["seconds"]
        print(f"{found['cells']:>10,} {found['seconds']:>9.1f} {rate:>9.0f} {found['bytes'] / 2**20:>8.0f}")
    number = 50_000 if options.quick else 1_000_000
    ours, rival = compare_predictions(number)
    print(
        f"{number:,} x {FEATURES} features, {TREES} trees: ours with variance {ours:.1f} s, scikit-learn {rival:.1f} s"
    )
    holds = ours <= BAR * rival and found["bytes"] < BYTES_BAR
    print(json.dumps({"name": "extrapolate", "ratio": round(ours / rival, 2), "bar": BAR, "holds": bool(holds)}))


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
