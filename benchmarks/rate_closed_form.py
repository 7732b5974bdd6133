"""AUTOC and QINI where the answer is known: tau ~ Exp(1), perfect ranking, AUTOC 1 and QINI .25; and econml's figures.

``python benchmarks/rate_closed_form.py`` prints the tables of docs/rate.md (half a minute).
"""

import numpy as np
from econml.validate import DRTester

from eo_cate.evaluation import rate

SIZES = {100: 4_000, 500: 2_000, 2_000: 1_000, 20_000: 200}
SEED = 20_241


def run_econml(tau, metric):
    """DRTester as econml ships it, on its default grid, given the effects as scores and as predictions."""
    tester = DRTester(model_regression=None, model_propensity=None, cate=None)
    tester.treatments, tester.n_treat = np.array([0, 1]), 1
    tester.dr_val_ = tester.cate_preds_train_ = tester.cate_preds_val_ = tau[:, None]
    return tester.evaluate_uplift(metric=metric, n_bootstrap=2).params[0]


def run_ours(tau, target):
    return rate(tau, tau, target=target, num_replicates=2).estimate[0]


def exact(n, target):
    """The mean of the k largest of n draws exceeds the mean of all by 1/(k+1) + ... + 1/n (Renyi)."""
    return 1 - np.sum(1 / np.arange(1, n + 1)) / n if target == "AUTOC" else (n - 1) / (4 * n)


def simulate(run, n, repetitions):
    draws = np.random.default_rng([SEED, n])
    return np.array([run(draws.exponential(size=n)) for _ in range(repetitions)])


def show(values):
    return f"{values.mean():.4f} ({values.std(ddof=1) / np.sqrt(len(values)):.4f})"


def main():
    for target, limit, metric in (("AUTOC", 1.0, "toc"), ("QINI", 0.25, "qini")):
        print(f"\n| n | repetitions | {target} (MC SE) | bias | exact bias | econml 0.17 (MC SE) |")
        print("|---|---|---|---|---|---|")
        for n, repetitions in SIZES.items():
            ours = simulate(lambda tau, t=target: run_ours(tau, t), n, repetitions)
            few = min(repetitions, 200)
            econml = simulate(lambda tau, m=metric: run_econml(tau, m), n, few)
            bias, known = ours.mean() - limit, exact(n, target) - limit
            print(f"| {n:,} | {repetitions:,} | {show(ours)} | {bias:+.4f} | {known:+.4f} | {show(econml)} |")


if __name__ == "__main__":
    main()
