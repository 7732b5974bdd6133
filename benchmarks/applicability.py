"""Area of applicability of a million cells: ours against all distances at once (numpy, scipy's cdist).

1,000 training sites, 30 components. The rival computes the same figures from one matrix of distances, on as many cells
as fit a gigabyte, and its time is scaled to the number of cells. One thread each; CPU seconds.
``python benchmarks/applicability.py [--quick]``; the last line is a JSON object.
"""

import argparse
import json
import time
import tracemalloc

import numpy as np
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from eo_cate.extrapolation import area_of_applicability

SITES, COMPONENTS, FOLDS = 1_000, 30, 5
RIVAL_CELLS = 2**30 // (8 * SITES)
BAR, BYTES_BAR = 2.0, 128 * 2**20
REPEATS = 3


def draw(num_cells):
    rng = np.random.default_rng(1)
    train = rng.normal(size=(SITES, COMPONENTS))
    return train, 1.2 * rng.normal(size=(num_cells, COMPONENTS)), rng.permutation(np.arange(SITES) % FOLDS)


def all_distances(train, new, folds):
    """DI and density by definition."""
    center, spread = train.mean(axis=0), train.std(axis=0, ddof=1)
    train, new = (train - center) / spread, (new - center) / spread
    between = cdist(train, train)
    mean = between.sum() / (SITES * (SITES - 1))
    train_di = np.where(folds[:, None] != folds, between, np.inf).min(axis=1) / mean
    lower, upper = np.quantile(train_di, [0.25, 0.75])
    threshold = min(upper + 1.5 * (upper - lower), train_di.max())
    distances = cdist(new, train)
    distances /= mean
    return distances.min(axis=1), (distances < threshold).sum(axis=1)


def seconds(function):
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200,000 cells instead of a million")
    num_cells = 200_000 if parser.parse_args().quick else 1_000_000
    train, new, folds = draw(num_cells)
    ours, found = seconds(lambda: area_of_applicability(train, new, folds=folds))
    part = new[: min(RIVAL_CELLS, num_cells)]
    rival, (dissimilarity, density) = seconds(lambda: all_distances(train, part, folds))
    rival *= num_cells / len(part)
    worst = np.abs(found.dissimilarity[: len(part)] - dissimilarity).max()
    if worst > 1e-12 or (found.local_point_density[: len(part)] != density).any():
        raise SystemExit(f"different figures: DI differs by {worst:.1e}")

    tracemalloc.start()
    area_of_applicability(train, new, folds=folds)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{SITES:,} sites, {COMPONENTS} components; best of {REPEATS}; rival: cdist on {len(part):,} cells, scaled")
    print(f"{'cells':>9} {'ours, s':>8} {'cdist, s':>8} {'ratio':>6} {'ours, MB':>9} {'cdist, MB':>9}")
    print(
        f"{num_cells:>9,} {ours:>8.2f} {rival:>8.2f} {rival / ours:>6.1f} {peak / 2**20:>9.1f} "
        f"{8 * SITES * num_cells / 2**20:>9,.0f}"
    )
    print(f"peak beside the inputs: bar {BYTES_BAR / 2**20:.0f} MB")
    ratio = rival / ours
    holds = ratio >= BAR and peak < BYTES_BAR
    print(json.dumps({"name": "applicability", "ratio": round(ratio, 2), "bar": BAR, "holds": bool(holds)}))


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
