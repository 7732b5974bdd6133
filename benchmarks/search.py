"""Scale search: 21 configurations, 150 villages, 400 features per scale, 999 sign-flip draws with RidgeR.

Rival: the naive way, refitting the public estimator without each village in every draw. It is timed on a part of the
work (one configuration, `--rival-draws` draws, all 150 villages) and scaled up: the whole would take hours.
"""

import argparse
import itertools
import json
import time

import numpy as np
from threadpoolctl import threadpool_limits

from eo_cate.estimators import RidgeR
from eo_cate.evaluation import refit_test
from eo_cate.evaluation.autoc import autoc_columns
from eo_cate.evaluation.refit_tests import join_columns
from eo_cate.simulation.clustered import ClusteredDesign, ClusteredTrial, draw_clustered
from eo_cate.types import FeatureBlocks

BAR_RATIO, BAR_SECONDS = 100, 10.0


def naive_statistic(X: FeatureBlocks, u: np.ndarray, village: np.ndarray) -> float:
    """AUTOC of leave-one-village-out predictions, each village by a fit of its own.

    With e = 1/2 an outcome of u (W - e) has the pseudo-outcome u.
    """
    W = np.arange(len(u)) % 2.0
    predictions = np.empty(len(u))
    for g in np.unique(village):
        out = np.flatnonzero(village == g)
        kept = np.flatnonzero(village != g)
        Y = u[kept] * (W[kept] - 0.5)
        fitted = RidgeR().fit(X.take(kept), Y, W[kept], propensity=0.5, groups=village[kept])
        predictions[out] = fitted.predict(X.take(out))
    return float(autoc_columns(u[:, None], predictions[:, None], np.ones(len(u)))[0])


def time_search(trial: ClusteredTrial, draws: int) -> float:
    names = list(trial.scales)
    sets = [*itertools.combinations(names, 1), *itertools.combinations(names, 2)]
    configurations = {"+".join(some): trial.blocks(*some) for some in sets}
    start = time.perf_counter()
    refit_test(
        configurations, trial.Y, trial.W, propensity=0.5, groups=trial.village, num_draws=draws,
        nuisance_X=join_columns(list(configurations.values())),
    )  # fmt: skip
    return time.perf_counter() - start


def time_naive(trial: ClusteredTrial, draws: int) -> float:
    """Seconds of one draw of one configuration."""
    X, rng = trial.blocks("image_16"), np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(draws):
        u = rng.normal(size=len(trial.Y)) * rng.choice([-1.0, 1.0], 150)[trial.village]
        naive_statistic(X, u, trial.village)
    return (time.perf_counter() - start) / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one draw of the rival")
    parser.add_argument("--rival-draws", type=int, default=5)
    arguments = parser.parse_args()
    design = ClusteredDesign(villages=150, households=10, scales=6, width=400, mixed=0.0)
    trial = draw_clustered(design, seed=1)
    with threadpool_limits(1):
        seconds = min(time_search(trial, 999) for _ in range(1 if arguments.quick else 3))
        one = time_naive(trial, 1 if arguments.quick else arguments.rival_draws)
    naive = one * 21 * 1000
    print(f"search, 21 configurations x 999 draws: {seconds:.2f} s (bar {BAR_SECONDS:.0f} s), one core")
    print(f"naive, one configuration and draw: {one:.2f} s; all of them: {naive / 3600:.1f} h")
    ratio = naive / seconds
    holds = bool(ratio >= BAR_RATIO and seconds < BAR_SECONDS)
    print(json.dumps({"name": "search", "ratio": round(ratio), "bar": BAR_RATIO, "holds": holds}))


if __name__ == "__main__":
    main()
