"""Cluster-robust least squares against its definition."""

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power

from eo_cate.errors import EvaluationError
from eo_cate.stats.vcov import fit_least_squares, mean_variance

RNG = np.random.default_rng(3)
CODES = np.sort(RNG.integers(0, 15, 90))
X = np.column_stack([np.ones(90), RNG.normal(size=90), RNG.normal(size=15)[CODES]])
Y = RNG.normal(size=90) + X[:, 1] * RNG.normal(size=15)[CODES]
WEIGHTS = RNG.uniform(0.2, 3, 90)
TERMS = ("a", "b", "c")


def solve(rows):
    root = np.sqrt(WEIGHTS[rows])
    return np.linalg.lstsq(X[rows] * root[:, None], Y[rows] * root, rcond=None)[0]


@pytest.mark.parametrize(("vcov", "power"), [("HC0", 0), ("HC1", 0), ("HC2", 0.5), ("HC3", 1)])
def test_covariance_equals_the_block_formula(vcov, power):
    """Unequal weights inside groups, which the fixtures of grf do not have."""
    fit = fit_least_squares(X, Y, WEIGHTS, CODES, terms=TERMS, vcov=vcov)
    bread = np.linalg.inv(X.T @ (WEIGHTS[:, None] * X))
    meat = np.zeros((3, 3))
    for g in range(15):
        rows = g == CODES
        leverage = X[rows] @ bread @ X[rows].T * WEIGHTS[rows]
        correction = fractional_matrix_power(np.eye(rows.sum()) - leverage, -power).real
        corrected = correction @ (Y - X @ solve(CODES >= 0))[rows]
        score = X[rows].T @ (WEIGHTS[rows] * corrected)
        meat += np.outer(score, score)
    factor = {"HC0": 15 / 14, "HC1": 15 / 14 * 89 / 87}.get(vcov, 1.0)
    np.testing.assert_allclose(fit.coefficients, solve(CODES >= 0), rtol=1e-11)
    np.testing.assert_allclose(fit.covariance, factor * bread @ meat @ bread, rtol=1e-9)
    assert fit.df == 87


def test_hc3_is_the_jackknife_over_groups():
    fit = fit_least_squares(X, Y, WEIGHTS, CODES, terms=TERMS, vcov="HC3")
    change = np.array([solve(g != CODES) - fit.coefficients for g in range(15)])
    np.testing.assert_allclose(fit.covariance, change.T @ change, rtol=1e-10)


@pytest.mark.parametrize("vcov", ["HC0", "HC1", "HC2", "HC3"])
def test_labels_order_and_absent_units_do_not_matter(vcov):
    kept = RNG.random(90) < 0.8
    kept[np.unique(CODES, return_index=True)[1]] = True
    part = fit_least_squares(X[kept], Y[kept], WEIGHTS[kept], CODES[kept], terms=TERMS, vcov=vcov)
    order, relabelled = RNG.permutation(90), RNG.permutation(15)[CODES]
    whole = fit_least_squares(X[order], Y[order], (WEIGHTS * kept)[order], relabelled[order], terms=TERMS, vcov=vcov)
    np.testing.assert_allclose(whole.covariance, part.covariance, rtol=1e-10)
    assert whole.df == part.df


def test_mean_variance_is_hc0_of_a_constant():
    fit = fit_least_squares(np.ones((90, 1)), Y, WEIGHTS, CODES, terms=("mean",), vcov="HC0")
    assert mean_variance(Y - fit.coefficients[0], WEIGHTS, CODES) == pytest.approx(fit.covariance[0, 0], rel=1e-12)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_singular_columns_are_named_whatever_their_units(scale):
    doubled = np.column_stack([X, scale * (X[:, 1] - 2 * X[:, 2]), np.zeros(90)])
    with pytest.raises(EvaluationError, match=r"2 of 5 columns .*\['sum', 'zero'\]"):
        fit_least_squares(doubled, Y, WEIGHTS, CODES, terms=(*TERMS, "sum", "zero"))
    fit_least_squares(X * np.array([scale, 1, 1]), Y, WEIGHTS, CODES, terms=TERMS)


def test_a_group_that_is_a_column_is_refused_where_undefined():
    design = np.column_stack([X, CODES == 4])
    with pytest.raises(EvaluationError, match=r"1 of 15 group\(s\) determine a coefficient alone.*HC1"):
        fit_least_squares(design, Y, WEIGHTS, CODES, terms=(*TERMS, "d"), vcov="HC3")
    assert np.isfinite(fit_least_squares(design, Y, WEIGHTS, CODES, terms=(*TERMS, "d"), vcov="HC1").std_err).all()


def test_more_units_than_terms_are_needed():
    with pytest.raises(EvaluationError, match=r"3 units for 3 terms \(a, b, c\)"):
        fit_least_squares(X[:3] + np.eye(3), Y[:3], WEIGHTS[:3], np.arange(3), terms=TERMS, vcov="HC1")
