"""Regions: direct, synthetic and composite estimates."""

import numpy as np
import pytest
import statsmodels.api as sm

from eo_cate.errors import EvaluationError
from eo_cate.evaluation import average_treatment_effect
from eo_cate.extrapolation import direct_estimates, fay_herriot, synthetic_estimates

RNG = np.random.default_rng(11)
REGIONS = np.repeat(["north", "south", "east"], [60, 40, 4])
GROUPS = np.concatenate([np.arange(60) // 5, 100 + np.arange(40) // 4, [200] * 4])
SCORES = RNG.normal(size=104) + RNG.normal(size=300)[GROUPS]
WEIGHTS = RNG.uniform(0.5, 2, 104)


def test_direct_is_the_clustered_mean_of_each_region():
    found = direct_estimates(SCORES, REGIONS, groups=GROUPS, sample_weights=WEIGHTS, min_units=4)
    assert found.regions.tolist() == ["east", "north", "south"]
    np.testing.assert_array_equal(found.num_units, [4, 60, 40])
    np.testing.assert_array_equal(found.num_groups, [1, 12, 10])
    for k, region in enumerate(found.regions):
        rows = region == REGIONS
        assert found.estimate[k] == pytest.approx(np.average(SCORES[rows], weights=WEIGHTS[rows]), abs=1e-14)
        if region != "east":
            zero = np.zeros(rows.sum())
            ate = average_treatment_effect(
                SCORES[rows] / 2, zero + 1, propensity=0.5, Y_hat=zero, tau_hat=zero,
                sample_weights=WEIGHTS[rows], groups=GROUPS[rows],
            )  # fmt: skip
            assert found.std_err[k] == pytest.approx(ate.std_err, rel=1e-12)
    assert np.isnan(found.std_err[0])  # one group


def test_direct_std_err_equals_statsmodels():
    rows = REGIONS == "north"
    fit = sm.WLS(SCORES[rows], np.ones(60), weights=WEIGHTS[rows]).fit()
    robust = fit.get_robustcov_results("cluster", groups=GROUPS[rows], use_correction=False)
    found = direct_estimates(SCORES, REGIONS, groups=GROUPS, sample_weights=WEIGHTS)
    assert found.std_err[1] == pytest.approx(robust.bse[0] * np.sqrt(12 / 11), rel=1e-12)


def test_small_regions_leave_no_trace():
    found = direct_estimates(SCORES, REGIONS, groups=GROUPS, min_units=5)
    np.testing.assert_array_equal(found.suppressed, [True, False, False])
    assert np.isnan([found.estimate[0], found.std_err[0]]).all()
    assert found.num_units[0] == found.num_groups[0] == 0
    weights = np.where(np.arange(104) < 57, 0.0, 1.0)  # 3 of the north's units count
    np.testing.assert_array_equal(
        direct_estimates(SCORES, REGIONS, sample_weights=weights, min_units=4).suppressed, [False, True, False]
    )


def test_permuting_units_and_renaming_groups_change_nothing():
    order = RNG.permutation(104)
    found = direct_estimates(SCORES[order], REGIONS[order], groups=[f"v{g}" for g in GROUPS[order]])
    plain = direct_estimates(SCORES, REGIONS, groups=GROUPS)
    np.testing.assert_allclose(found.estimate, plain.estimate, rtol=1e-12)
    np.testing.assert_allclose(found.std_err, plain.std_err, rtol=1e-12)


def test_synthetic_weighs_people_and_says_what_is_missing():
    tau = np.array([1.0, 3.0, np.nan, 5.0, np.nan])
    found = synthetic_estimates(
        tau, [1, 1, 1, 2, 3], weights=[1, 3, 4, 2, 1], supported=np.array([True, False, True, True, False])
    )
    np.testing.assert_allclose(found.estimate, [(1 + 9) / 4, 5, np.nan])
    np.testing.assert_allclose(found.share_predicted, [4 / 8, 1, 0])
    np.testing.assert_allclose(found.share_supported, [1 / 8, 1, 0])
    np.testing.assert_array_equal(found.num_cells, [3, 1, 1])
    plain = synthetic_estimates(tau, [1, 1, 1, 2, 3])
    assert plain.estimate[0] == 2
    assert np.isnan(plain.share_supported).all()


def test_a_region_without_people_has_no_estimate():
    found = synthetic_estimates([1.0, 2.0], ["a", "b"], weights=[0, 5])
    np.testing.assert_array_equal(found.estimate, [np.nan, 2])


# --- Fay-Herriot ---


def draw_areas(m, *, A=0.25, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=m)
    truth = 1 + 0.5 * x + np.sqrt(A) * rng.normal(size=m)
    std_err = rng.uniform(0.2, 1.2, m)
    return truth, truth + std_err * rng.normal(size=m), std_err, x


def restricted_likelihood(A, y, D, X):
    V = np.diag(A + D)
    inner = X.T @ np.linalg.inv(V) @ X
    P = np.linalg.inv(V) - np.linalg.inv(V) @ X @ np.linalg.inv(inner) @ X.T @ np.linalg.inv(V)
    return -0.5 * (np.linalg.slogdet(V)[1] + np.linalg.slogdet(inner)[1] + y @ P @ y)


@pytest.mark.parametrize("seed", range(6))
def test_variance_maximises_the_restricted_likelihood(seed):
    """No point of a fine grid is better, and the score is zero where the maximum is inside."""
    _, y, se, x = draw_areas(25, A=0.1 if seed % 2 else 0.0, seed=seed)
    found = fay_herriot(y, se, x)
    X = np.column_stack([np.ones(25), x])
    best = restricted_likelihood(found.between_variance, y, se**2, X)
    assert best >= max(restricted_likelihood(A, y, se**2, X) for A in np.linspace(0, 3, 1500)) - 1e-12
    if found.between_variance > 0:
        h = 1e-5 * found.between_variance
        up, down = (restricted_likelihood(found.between_variance + s * h, y, se**2, X) for s in (1, -1))
        assert abs(up - down) / 2 < 1e-9


def test_composite_is_the_henderson_predictor():
    """Random effects as a ridge: the mixed-model equations, solved at once."""
    _, y, se, x = draw_areas(30, seed=3)
    found = fay_herriot(y, se, x)
    X, R = np.column_stack([np.ones(30), x]), np.diag(1 / se**2)
    system = np.block([[X.T @ R @ X, X.T @ R], [R @ X, R + np.eye(30) / found.between_variance]])
    solved = np.linalg.solve(system, np.concatenate([X.T @ R @ y, R @ y]))
    np.testing.assert_allclose(found.beta, solved[:2], rtol=1e-9)
    np.testing.assert_allclose(found.composite, X @ solved[:2] + solved[2:], rtol=1e-9)


def test_unsampled_areas_get_the_regression_and_do_not_enter_the_fit():
    _, y, se, x = draw_areas(30, seed=4)
    gone = np.arange(30) >= 26
    whole = fay_herriot(np.where(gone, np.nan, y), np.where(gone, np.nan, se), x)
    part = fay_herriot(y[~gone], se[~gone], x[~gone])
    np.testing.assert_allclose(whole.beta, part.beta, rtol=1e-12)
    np.testing.assert_allclose(whole.composite[~gone], part.composite, rtol=1e-12)
    np.testing.assert_allclose(whole.mse[~gone], part.mse, rtol=1e-12)
    np.testing.assert_allclose(whole.composite[gone], whole.regression[gone])
    assert (whole.mse[gone] > whole.between_variance).all()
    assert whole.num_direct == 26


def test_mse_is_the_error_over_repeated_trials():
    """600 draws, seed 8: mean squared error of sampled areas and of one unsampled area, against the mean estimated MSE.
    Monte-Carlo error of the ratio is about 1 % over 39 areas (5 % allowed) and 6 % for one (20 %). Direct estimates err far more."""
    rng = np.random.default_rng(8)
    m, A = 40, 0.25
    x, se = rng.normal(size=m), rng.uniform(0.3, 1.0, m)
    errors, estimated = np.zeros(m), np.zeros(m)
    for _ in range(600):
        truth = 1 + 0.5 * x + np.sqrt(A) * rng.normal(size=m)
        y = truth + se * rng.normal(size=m)
        y[-1] = np.nan
        found = fay_herriot(y, se, x)
        errors += (found.composite - truth) ** 2 / 600
        estimated += found.mse / 600
    assert errors[:-1].mean() == pytest.approx(estimated[:-1].mean(), rel=0.05)
    assert errors[-1] == pytest.approx(estimated[-1], rel=0.2)
    assert errors[:-1].mean() < 0.6 * np.mean(se[:-1] ** 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: direct_estimates([1.0, np.nan], ["a", "b"]), "`dr_scores` has 1 NaN"),
        (lambda: direct_estimates([1.0, 2.0], ["a"]), "`regions` has shape"),
        (lambda: direct_estimates([1.0, 2.0], [0.5, 1.5]), "integer or string"),
        (lambda: direct_estimates([1.0, 2.0], ["a", "b"], min_units=0), "`min_units` is 0"),
        (lambda: synthetic_estimates([1.0, np.inf], ["a", "b"]), "`tau_hat` has 1"),
        (lambda: synthetic_estimates([1.0, 2.0], ["a", "b"], weights=[1, -1]), "1 negative"),
        (lambda: synthetic_estimates([1.0, 2.0], ["a", "b"], supported=[1, 0]), "give True or False"),
        (
            lambda: fay_herriot(np.arange(9.0), np.zeros(9)),
            "`std_err` is missing, infinite, zero or negative in 9 of 9",
        ),
        (lambda: fay_herriot(np.arange(9.0), np.ones(8)), "`std_err` has shape"),
        (lambda: fay_herriot([1.0, 2.0, 3.0], np.ones(3), [1.0, 2, 4]), "3 areas with a direct estimate"),
        (lambda: fay_herriot(np.arange(9.0), np.ones(9), np.ones(9)), "rank 1"),
        (lambda: fay_herriot(np.arange(9.0), np.ones(9), np.full(9, np.nan)), "`covariates` has 9 NaN"),
        (lambda: fay_herriot(np.arange(9.0), np.ones(9), intercept=False), "nothing to shrink to"),
        (lambda: fay_herriot(np.where(np.arange(9) < 1, np.inf, 1.0), np.ones(9)), "`direct` has 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
