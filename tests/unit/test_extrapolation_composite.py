"""Composite estimates of few areas: the posterior by quadrature, coverage over repeated trials, and what pools errors."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from eo_cate.errors import EvaluationError
from eo_cate.extrapolation import RegionCells, composite_estimates, direct_estimates, fay_herriot, pool_errors
from eo_cate.steps.region_composite import MapError, add_composite, share_places, unseen_synthetic
from eo_cate.types import Grid

DIRECT = np.array([0.38, 0.10, 0.42, -0.21, 0.60, np.nan])
STD_ERR = np.array([0.14, 0.19, 0.10, 0.41, 0.36, np.nan])
SYNTHETIC = np.array([0.27, 0.33, 0.30, 0.25, 0.38, 0.18])
OWN = np.array([0.001, 0.004, 0.0, 0.02, 0.01, 0.05])


def test_equals_quadrature_over_the_standard_deviation():
    """Uniform on the sd: the same integrals by adaptive quadrature, which knows nothing of the logarithm."""
    found = composite_estimates(DIRECT, STD_ERR, SYNTHETIC, own_variance=OWN)
    kept = slice(0, 5)

    def integrate(g):
        def weighted(sd):
            total = sd**2 + OWN[kept] + STD_ERR[kept] ** 2
            return g(sd) * np.prod(norm.pdf(DIRECT[kept], SYNTHETIC[kept], np.sqrt(total)))

        parts = [quad(weighted, low, high, epsrel=1e-11)[0] for low, high in ((0, 0.3), (0.3, 2), (2, np.inf))]
        return sum(parts)

    unit = integrate(lambda sd: 1.0)
    for i in range(6):
        D = STD_ERR[i] ** 2

        def weight(sd, i=i, D=D):
            return 0.0 if i == 5 else (sd**2 + OWN[i]) / (sd**2 + OWN[i] + D)

        def mean(sd, i=i, weight=weight):
            return SYNTHETIC[i] + (0.0 if i == 5 else weight(sd) * (DIRECT[i] - SYNTHETIC[i]))

        def variance(sd, i=i, D=D, weight=weight):
            return sd**2 + OWN[i] if i == 5 else weight(sd) * D

        expected = integrate(mean) / unit
        second = integrate(lambda sd, m=mean, v=variance: v(sd) + m(sd) ** 2) / unit
        assert found.estimate[i] == pytest.approx(expected, abs=1e-8)
        assert found.std_err[i] == pytest.approx(np.sqrt(second - expected**2), rel=2e-3 if i == 5 else 1e-6)
        for end, p in ((found.low[i], 0.025), (found.high[i], 0.975)):
            below = integrate(lambda sd, m=mean, v=variance, x=end: norm.cdf(x, m(sd), np.sqrt(v(sd)))) / unit
            assert below == pytest.approx(p, abs=1e-6)
    assert found.weight[5] == 0
    assert found.num_direct == 5


@pytest.mark.parametrize("A", [0.0, 0.02, 0.1])
def test_intervals_of_few_areas_hold(A):
    """400 draws of six areas of 8 to 140 groups and one without: .95 less three Monte-Carlo errors of each area (.011).
    The most precise area's interval is no wider than its direct one; by Prasad and Rao's expansion it is
    wider by a fifth and more, before any quantile of Student's t.
    """
    rng = np.random.default_rng(5)
    D = 1.5 / np.array([68, 36, 140, 9, 11, 8])
    held, width, by_expansion = np.zeros(7), 0.0, 0.0
    for _ in range(400):
        synthetic = 0.3 + 0.1 * rng.normal(size=7)
        truth = synthetic + np.sqrt(A) * rng.normal(size=7)
        direct = np.append(truth[:6] + np.sqrt(D) * rng.normal(size=6), np.nan)
        std_err = np.append(np.sqrt(D), np.nan)
        found = composite_estimates(direct, std_err, synthetic)
        held += (found.low <= truth) & (truth <= found.high)
        width += (found.high - found.low)[2] / 400
        by_expansion += 2 * norm.ppf(0.975) * fay_herriot(direct, std_err, synthetic).std_err[2] / 400
    assert (held / 400 >= 0.95 - 3 * 0.011).all(), held / 400
    of_direct = 2 * norm.ppf(0.975) * np.sqrt(D[2])
    assert width < of_direct
    assert by_expansion > 1.2 * of_direct


def test_limits_are_the_direct_and_the_synthetic_estimate():
    trusted = composite_estimates(DIRECT, STD_ERR, SYNTHETIC, own_variance=np.full(6, 1e6))
    np.testing.assert_allclose(trusted.estimate[:5], DIRECT[:5], rtol=1e-5)
    np.testing.assert_allclose(trusted.std_err[:5], STD_ERR[:5], rtol=1e-5)
    np.testing.assert_allclose(trusted.high[:5] - trusted.low[:5], 2 * 1.959964 * STD_ERR[:5], rtol=1e-5)
    vague = composite_estimates(DIRECT, np.append(STD_ERR[:4], [50.0, np.nan]), SYNTHETIC)
    assert vague.estimate[4] == pytest.approx(SYNTHETIC[4], abs=1e-3)
    assert vague.weight[4] < 0.01


def test_units_of_the_outcome_carry_through():
    plain = composite_estimates(DIRECT, STD_ERR, SYNTHETIC, own_variance=OWN)
    scaled = composite_estimates(7 + 100 * DIRECT, 100 * STD_ERR, 7 + 100 * SYNTHETIC, own_variance=1e4 * OWN)
    np.testing.assert_allclose(scaled.low, 7 + 100 * plain.low, rtol=1e-7)
    np.testing.assert_allclose(scaled.std_err, 100 * plain.std_err, rtol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direct": [*DIRECT[:3], np.nan, np.nan, np.nan]}, "3 areas with a direct estimate, at least 4"),
        ({"std_err": [*STD_ERR[:4], 0.0, np.nan]}, "`std_err` is missing, infinite, zero or negative in 1 of 5"),
        ({"std_err": STD_ERR[:5]}, "`std_err` \\(5,\\): give one value for each of 6"),
        ({"synthetic": np.append(SYNTHETIC[:5], np.nan)}, "`synthetic` has 1 NaN"),
        ({"direct": np.append(DIRECT[:5], np.inf)}, "`direct` has 1 NaN or infinite"),
        ({"own_variance": -OWN}, "`own_variance` has 5 negative"),
        ({"level": 95}, "`level` is 95"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"direct": DIRECT, "std_err": STD_ERR, "synthetic": SYNTHETIC} | change
    with pytest.raises(EvaluationError, match=message):
        composite_estimates(**given)


# --- Errors, and a map that has not seen what it is weighed against ---


def test_pooled_errors_share_one_variance_of_groups():
    """Equal groups: the error is the root of the pooled variance of group means over their number."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(21), 4)
    regions = np.repeat(["a", "b", "c"], [48, 32, 4])
    scores = rng.normal(size=84) + rng.normal(size=21)[groups]
    found = direct_estimates(scores, regions, groups=groups, min_units=4)
    means = scores.reshape(21, 4).mean(axis=1)
    pooled = (11 * means[:12].var(ddof=1) + 7 * means[12:20].var(ddof=1)) / 18
    np.testing.assert_allclose(pool_errors(found), np.sqrt(pooled / np.array([12, 8, 1])), rtol=1e-12)
    hidden = direct_estimates(scores, regions, groups=groups, min_units=5)
    assert np.isnan(pool_errors(hidden)[2])
    with pytest.raises(EvaluationError, match="0 of 84 regions have two groups"):
        pool_errors(direct_estimates(scores, np.arange(84), groups=groups, min_units=1))


def districts(shift=0.0):
    """Five districts of four villages; a map that follows each district's villages by half of their luck ``shift``."""
    names = list("abcde")
    rng = np.random.default_rng(4)
    owner = pd.Series(np.repeat(names, 12))
    left_out = rng.normal(0.3, 0.1, 60)
    luck = np.where(owner == "b", shift, 0.0)
    table = pd.DataFrame({"region": names, "direct": rng.normal(0.3, 0.3, 5), "pooled_std_err": 0.2})
    table["synthetic"] = 0.3 + 0.5 * np.where(table["region"] == "b", shift, 0.0)
    for column in ("composite", "composite_std_err", "composite_low", "composite_high"):
        table[column] = np.nan
    return table, MapError(left_out, 0.1), 0.3 + 0.5 * luck, owner


def test_a_district_s_luck_leaves_its_own_synthetic_estimate():
    """The map follows the district's villages; the estimate that the direct one is weighed against must not."""
    filled = []
    for shift in (0.0, 2.0):
        table, error, tau_hat, owner = districts(shift)
        reasons = {name: [] for name in table["region"]}
        share = pd.Series(0.1, index=table["region"])
        add_composite(table, error, tau_hat, owner, np.ones(60), share, reasons, level=0.95)
        assert not any(reasons.values())
        filled.append(table)
    columns = ["composite", "composite_std_err", "composite_low", "composite_high"]
    np.testing.assert_allclose(filled[0][columns], filled[1][columns], rtol=1e-12)
    assert filled[1].loc[1, "synthetic"] == 1.3


def test_without_left_out_effects_there_is_no_composite():
    table, _, tau_hat, owner = districts()
    reasons = {name: [] for name in table["region"]}
    error = MapError(None, 0.1)
    share = pd.Series(0.1, index=table["region"])
    add_composite(table, error, tau_hat, owner, np.ones(60), share, reasons, level=0.95)
    assert table["composite"].isna().all()
    assert all(["0 areas with a direct estimate" in why[0] for why in reasons.values()])
    assert np.isnan(unseen_synthetic(table, error, tau_hat, owner, np.ones(60))).all()


@pytest.mark.parametrize("resolution_m", [160, 320, 640])
def test_finer_cells_make_no_more_places(resolution_m):
    """A district of 2.56 km by 1.28 km holds two places of 1.28 km, in cells of any size; people count in squares."""
    rows, columns = 1280 // resolution_m, 2560 // resolution_m
    row, col = (axis.ravel() for axis in np.indices((rows, columns)))
    cells = pd.DataFrame({"row": row, "col": col, "region": "a"})
    grid = Grid("EPSG:32636", (resolution_m, 0.0, 0.0, 0.0, -resolution_m, 0.0), (rows, columns))
    region = RegionCells(cells, grid, resolution_m)
    inside = np.ones(len(cells), dtype=bool)
    assert share_places(region, inside, None, 1280.0)["a"] == pytest.approx(1 / 2)
    west = (col < columns // 2).astype(float)
    assert share_places(region, inside, 3 * west + (1 - west), 1280.0)["a"] == pytest.approx((9 + 1) / 16)
    assert share_places(region, west > 0, None, 1280.0)["a"] == pytest.approx(1.0)
    assert share_places(region, inside, None, 0.0)["a"] == pytest.approx(1 / len(cells))
