"""RATE's speed and memory: ours against R grf where Rscript and grf are installed, else against the tests' plain numpy.

Both sides do the same work in one process group, on one core (neither has threads): every check, the sort, R = 200
half-samples of 5,000 clusters, weights, ties. ``python benchmarks/rate.py [--quick]``; the last line is a JSON object.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
from helpers_rate import reference_rate

from eo_cate.evaluation import rate

REPLICATES, CLUSTERS, REPEATS, THREADS = 200, 5_000, 3, 1
BARS = {"grf": 20.0, "numpy": 4.0}
SECONDS_BAR, BYTES_BAR = 3.0, 40.0
GRF = """
suppressMessages(library(grf))
d <- read.csv(commandArgs(TRUE)[1])
seconds <- function() {
  gc()
  unname(system.time(estimate <<- rank_average_treatment_effect.fit(
    d$dr_score, d$priority, R = 200, sample.weights = d$weight, clusters = d$cluster)$estimate)["elapsed"])
}
best <- min(sapply(1:3, function(i) seconds()))
cat(sprintf("%.17g %.17g\\n", best, estimate))
"""


def draw(n, num_groups, *, ties=True):
    rng = np.random.default_rng(n)
    priorities = rng.normal(size=n)
    return {
        "dr_scores": rng.normal(size=n) + 0.1 * priorities,
        "priorities": np.round(priorities, 2) if ties else priorities,
        "sample_weights": rng.uniform(0.5, 2, n),
        "groups": rng.permutation(np.arange(n) % num_groups),
    }


def time_calls(function, data):
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = function(**data, num_replicates=REPLICATES)
        times.append(time.perf_counter() - start)
    return min(times), result


def has_grf():
    if shutil.which("Rscript") is None:
        return False
    found = subprocess.run(["Rscript", "-e", "quit(status = !requireNamespace('grf', quietly = TRUE))"], check=False)
    return found.returncode == 0


def time_grf(data):
    with tempfile.TemporaryDirectory() as folder:
        table, script = Path(folder) / "units.csv", Path(folder) / "rate.R"
        columns = (data["dr_scores"], data["priorities"], data["sample_weights"], data["groups"])
        np.savetxt(
            table, np.column_stack(columns), "%.17g", ",", header="dr_score,priority,weight,cluster", comments=""
        )
        script.write_text(GRF)
        done = subprocess.run(["Rscript", str(script), str(table)], check=True, capture_output=True, text=True)
    seconds, estimate = (float(value) for value in done.stdout.split())
    return seconds, estimate


def time_numpy(data):
    seconds, result = time_calls(reference_rate, data)
    return seconds, result[0]


def compare(n, num_groups, time_rival):
    """Seconds of ours and of the rival, best of three each; both must find the same figure."""
    data = draw(n, num_groups)
    ours, result = time_calls(rate, data)
    theirs, estimate = time_rival(data)
    if abs(result.estimate[0] - estimate) > 1e-12:
        raise SystemExit(f"different figures at n = {n:,}: ours {result.estimate[0]!r}, the rival's {estimate!r}")
    return ours, theirs


def peak_bytes(data):
    """Peak of what one call allocates beside its input, per unit and thread."""
    tracemalloc.start()
    rate(**data, num_replicates=REPLICATES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / len(data["dr_scores"]) / THREADS


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the million units")
    quick = parser.parse_args().quick
    rival = "grf" if has_grf() else "numpy"
    time_rival = {"grf": time_grf, "numpy": time_numpy}[rival]
    rate(**draw(100, 10), num_replicates=2)  # compiles, once per machine

    print(f"R = {REPLICATES}, weights, ties, clusters; one core; seconds, best of {REPEATS}; rival: {rival}")
    print(f"{'n':>9} {'clusters':>8} {'ours':>8} {rival:>8} {'ratio':>6}")
    for n, num_groups in ((1_000, 50), (100_000, CLUSTERS)):
        ours, theirs = compare(n, num_groups, time_rival)
        ratio = theirs / ours
        print(f"{n:>9,} {num_groups:>8,} {ours:>8.4f} {theirs:>8.4f} {ratio:>6.1f}")
    result = {"name": "rate", "rival": rival, "ratio": round(ratio, 2), "bar": BARS[rival]}
    holds = ratio >= BARS[rival]
    if not quick:
        for ties in (True, False):
            data = draw(1_000_000, CLUSTERS, ties=ties)
            seconds, used = time_calls(rate, data)[0], peak_bytes(data)
            print(
                f"{1_000_000:>9,} {CLUSTERS:>8,} {seconds:>8.4f}   {'ties' if ties else 'no ties'}: bar "
                f"{SECONDS_BAR} s; peak {used:.1f} bytes x n x {THREADS} thread, bar {BYTES_BAR:.0f}"
            )
            holds = holds and seconds < SECONDS_BAR and used < BYTES_BAR
    print(json.dumps(result | {"holds": bool(holds)}))


if __name__ == "__main__":
    main()
