"""R- and DR-risk: weighted means, paired differences."""

import numpy as np
import pytest

from eo_cate.errors import EvaluationError
from eo_cate.evaluation.risks import dr_risk, r_risk
from eo_cate.evaluation.scores import doubly_robust_scores

RNG = np.random.default_rng(8)
N = 240
GROUPS = np.arange(N) // 6
W = (np.arange(N) % 2).astype(float)
TAU = RNG.normal(size=40)[GROUPS]
BASE = RNG.normal(size=N)
Y = BASE + (W - 0.5) * TAU + RNG.normal(size=N)
WEIGHTS = RNG.uniform(0.2, 2, N)
TRIAL = {"Y": Y, "W": W, "propensity": 0.5, "Y_hat": BASE}


def test_risks_are_weighted_means_of_squares():
    scores = doubly_robust_scores(Y, W, propensity=0.5, Y_hat=BASE, tau_hat=0.0)
    r = r_risk(**TRIAL, tau_hat=TAU, sample_weights=WEIGHTS, groups=GROUPS)
    d = dr_risk(scores, TAU, sample_weights=WEIGHTS, groups=GROUPS)
    assert r.estimate == pytest.approx([np.average((Y - BASE - (W - 0.5) * TAU) ** 2, weights=WEIGHTS)], rel=1e-12)
    assert d.estimate == pytest.approx([np.average((scores - TAU) ** 2, weights=WEIGHTS)], rel=1e-12)
    assert r.interval.shape == (1, 2)


def test_two_models_are_compared_on_the_same_resamples():
    both = r_risk(**TRIAL, tau_hat=np.column_stack([TAU, np.zeros(N)]), groups=GROUPS)
    first, second = (r_risk(**TRIAL, tau_hat=t, groups=GROUPS) for t in (TAU, np.zeros(N)))
    np.testing.assert_allclose(both.estimate[:2], [first.estimate[0], second.estimate[0]], rtol=1e-14)
    np.testing.assert_allclose(both.std_err[:2], [first.std_err[0], second.std_err[0]], rtol=1e-12)
    assert both.estimate[2] == pytest.approx(both.estimate[0] - both.estimate[1], rel=1e-12)
    # Unpaired, the noise that both risks share would make the difference wider than either risk.
    assert both.std_err[2] < 0.8 * np.hypot(*both.std_err[:2])
    assert both.interval[2, 1] < 0
    same = r_risk(**TRIAL, tau_hat=np.column_stack([TAU, TAU]), groups=GROUPS)
    assert (same.estimate[2], same.std_err[2]) == (0, 0)


def test_std_err_is_the_clustered_one_of_a_mean():
    """Bootstrap of a weighted mean over groups against its linear variance: 4,000 draws, 1.1 % each; 4 %."""
    losses = (Y - TAU) ** 2
    result = dr_risk(Y, TAU, groups=GROUPS, num_replicates=4000)
    totals = np.bincount(GROUPS, weights=losses - losses.mean())
    assert result.std_err[0] == pytest.approx(np.sqrt(np.sum(totals**2)) / N, rel=0.04)
    units = dr_risk(Y, TAU, num_replicates=4000)
    assert units.std_err[0] == pytest.approx(losses.std() / np.sqrt(N), rel=0.04)


def test_difference_interval_covers():
    """95 % of 300 trials with 60 groups, percentile bootstrap: 90 to 98 % (Monte-Carlo 1.3, small groups 1 to 2)."""
    rng, hits = np.random.default_rng(4), 0
    groups = np.repeat(np.arange(60), 6)
    for _ in range(300):
        tau = rng.normal(size=60)[groups]
        scores = tau + 0.5 * rng.normal(size=60)[groups] + 2 * rng.normal(size=360)
        models = np.column_stack([tau + 0.5, 0.5 * tau])
        # E over units: .25 for the shift; .25 E[tau^2] = .25 for the shrinkage.
        low, high = dr_risk(scores, models, groups=groups, num_replicates=300).interval[2]
        hits += low <= 0 <= high
    assert 0.90 < hits / 300 < 0.98


def test_seed_decides():
    assert dr_risk(Y, TAU, seed=1).std_err == dr_risk(Y, TAU, seed=1).std_err
    assert dr_risk(Y, TAU, seed=1).std_err != dr_risk(Y, TAU, seed=2).std_err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau_hat": np.where(np.arange(N) < 3, np.nan, TAU)}, "`tau_hat` has 3 NaN"),
        ({"tau_hat": TAU[1:]}, "`tau_hat` has 239 rows"),
        ({"tau_hat": np.zeros((N, 3))}, r"`tau_hat` has shape \(240, 3\)"),
        ({"W": np.ones(N)}, "no control unit"),
        ({"groups": np.zeros(N, int)}, r"1 group\(s\)"),
        ({"num_replicates": 1}, "`num_replicates` is 1"),
        ({"level": 1.0}, "`level` is 1.0"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(EvaluationError, match=message):
        r_risk(**TRIAL | {"tau_hat": TAU} | change)
