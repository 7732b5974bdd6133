"""GATES and CLAN are regressions on dummies: statsmodels with the same covariance."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from eo_cate.evaluation.gates import clan, gates

RNG = np.random.default_rng(7)
GROUPS = np.repeat(np.arange(40), RNG.integers(5, 11, 40))
N = len(GROUPS)
TAU = RNG.normal(size=40)[GROUPS] + RNG.normal(size=N)
SCORES = 0.5 * TAU + RNG.normal(size=40)[GROUPS] + 2 * RNG.normal(size=N)
WEIGHTS = RNG.uniform(0.3, 2, N)
COVARIATES = pd.DataFrame({"age": RNG.normal(40, 9, N) + TAU, "land": RNG.gamma(2, size=N), "flat": np.ones(N)})
COVARIATES.loc[RNG.random(N) < 0.2, "land"] = np.nan


def fit_dummies(y, labels, weights, groups=None, vcov="HC1"):
    dummies = (labels[:, None] == np.unique(labels)).astype(float)
    model = sm.WLS(y, dummies, weights=weights)
    return (
        model.fit(cov_type="cluster", cov_kwds={"groups": groups}) if groups is not None else model.fit(cov_type=vcov)
    )


def test_gates_by_group_equal_statsmodels():
    result = gates(SCORES, TAU, sample_weights=WEIGHTS, groups=GROUPS, vcov="HC1")
    fit = fit_dummies(SCORES, result.quantile, WEIGHTS, GROUPS)
    np.testing.assert_allclose(result.estimate, fit.params, rtol=1e-12)
    np.testing.assert_allclose(result.std_err, fit.bse, rtol=1e-12)
    contrast = fit.t_test([-1, 0, 0, 0, 1])
    assert result.difference == pytest.approx(contrast.effect[0], rel=1e-12)
    assert result.difference_std_err == pytest.approx(contrast.sd[0, 0], rel=1e-12)


@pytest.mark.parametrize("vcov", ["HC0", "HC1", "HC2", "HC3"])
def test_gates_of_single_units_equal_statsmodels(vcov):
    result = gates(SCORES, TAU, vcov=vcov)
    fit = fit_dummies(SCORES, result.quantile, np.ones(N), vcov=vcov)
    # R's sandwich, and so grf, multiplies HC0 by n / (n - 1); statsmodels does not.
    factor = np.sqrt(N / (N - 1)) if vcov == "HC0" else 1.0
    np.testing.assert_allclose(result.std_err, fit.bse * factor, rtol=1e-12)


def test_clan_equals_statsmodels():
    result = clan(COVARIATES, TAU, sample_weights=WEIGHTS, groups=GROUPS, vcov="HC1")
    quintile = gates(SCORES, TAU, sample_weights=WEIGHTS, groups=GROUPS).quantile
    for j, name in enumerate(["age", "land"]):
        x = COVARIATES[name].to_numpy()
        rows = np.isin(quintile, (0, 4)) & np.isfinite(x)
        fit = fit_dummies(x[rows], quintile[rows], WEIGHTS[rows], GROUPS[rows])
        contrast = fit.t_test([-1, 1])
        assert [result.bottom[j], result.top[j]] == pytest.approx(list(fit.params), rel=1e-12)
        assert result.difference[j] == pytest.approx(contrast.effect[0], rel=1e-12)
        assert result.std_err[j] == pytest.approx(contrast.sd[0, 0], rel=1e-12)
        assert [result.num_bottom[j], result.num_top[j]] == [(quintile[rows] == 0).sum(), (quintile[rows] == 4).sum()]


def test_clan_of_villages_is_welchs_t_test():
    """One unit per group: HC2 of two dummies is Welch's variance, and the degrees of freedom are his."""
    tau, x = RNG.normal(size=30), RNG.normal(size=30) * np.arange(1, 31)
    order = np.argsort(tau)
    result = clan(x[:, None], tau, share=0.3, groups=np.arange(30))
    expected = stats.ttest_ind(x[order[-9:]], x[order[:9]], equal_var=False)
    assert result.difference[0] / result.std_err[0] == pytest.approx(expected.statistic, rel=1e-12)
    assert result.p[0] == pytest.approx(expected.pvalue, rel=1e-10)
