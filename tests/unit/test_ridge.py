"""RidgeR: what it leaves out, what it may see, and that it finds an effect."""

import numpy as np
import pytest
from sklearn.base import clone

from eo_cate.errors import EstimationError
from eo_cate.estimators import RidgeR
from eo_cate.stats.site_rows import average_rows, find_rows, fit_row_scaling
from eo_cate.types import CateEstimator, FeatureBlocks


def _trial(seed=0, villages=120, households=6, p=8, covariates=0, effect=0.5):
    """Villages share a site's features; effects are linear in the first feature; e = 1/2 by village."""
    rng = np.random.default_rng(seed)
    site = rng.normal(size=(villages, p))
    village = np.repeat(np.arange(villages), households)
    W = rng.permutation(np.arange(villages) % 2)[village].astype(float)
    tau = 0.3 + effect * site[village, 0]
    Y = (W - 0.5) * tau + rng.normal(0, 0.25, villages)[village] + rng.normal(0, 0.5, len(village))
    unit = rng.normal(size=(len(village), covariates)).astype(np.float32)
    X = FeatureBlocks(
        site=site.astype(np.float32),
        unit=unit,
        site_index=village,
        names=tuple(f"s{j}" for j in range(p)) + tuple(f"x{j}" for j in range(covariates)),
        blocks=("image_16",) * p + ("tabular",) * covariates,
    )
    return X, Y, W, village, tau


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_it_finds_a_linear_effect(kernel):
    X, Y, W, village, tau = _trial()
    fit = RidgeR(kernel=kernel).fit(X, Y, W, propensity=0.5, groups=village)
    new, _, _, _, truth = _trial(seed=1)
    # A rule of 10 degrees of freedom on 120 villages; a useless one has correlation 0 +- .04.
    assert np.corrcoef(fit.predict(new), truth)[0, 1] > 0.7
    assert np.corrcoef(fit.oob().tau_hat, tau)[0, 1] > 0.6
    assert abs(fit.predict(new).mean() - 0.3) < 0.15
    assert isinstance(fit, CateEstimator)


@pytest.mark.parametrize("gamma", ["df", "r_risk"])
def test_oob_does_not_see_the_outcomes_of_its_own_group(gamma):
    X, Y, W, village, _ = _trial(covariates=2)
    groups = village // 2
    fit = RidgeR(gamma="df").fit(X, Y, W, propensity=0.5, groups=groups)
    changed = Y.copy()
    changed[groups == 3] += 5 * (W[groups == 3] - 0.5)
    again = RidgeR(gamma="df").fit(X, changed, W, propensity=0.5, groups=groups)
    inside = groups == 3
    shift = again.oob().tau_hat - fit.oob().tau_hat
    # Only ATE_hat, which belongs to all training units, may move the group's own estimates.
    np.testing.assert_allclose(np.ptp(shift[inside]), 0, atol=1e-10)
    assert np.ptp(shift[~inside]) > 1e-3
    assert np.isfinite(RidgeR(gamma=gamma).fit(X, Y, W, propensity=0.5, groups=groups).predict(X)).all()


def test_a_fit_without_groups_or_sites_equals_one_with_site_rows():
    X, Y, W, village, _ = _trial()
    by_site = RidgeR().fit(X, Y, W, propensity=0.5, groups=village)
    by_array = RidgeR().fit(X.gather(), Y, W, propensity=0.5, groups=village)
    np.testing.assert_allclose(by_array.predict(X.gather()), by_site.predict(X), atol=1e-6)


def test_permuting_units_permutes_predictions():
    X, Y, W, village, _ = _trial(covariates=2)
    order = np.random.default_rng(5).permutation(len(Y))
    plain = RidgeR().fit(X, Y, W, propensity=0.5, groups=village)
    moved = RidgeR().fit(X.take(order), Y[order], W[order], propensity=0.5, groups=village[order])
    np.testing.assert_allclose(moved.predict(X), plain.predict(X), atol=1e-8)
    np.testing.assert_allclose(moved.oob().tau_hat, plain.oob().tau_hat[order], atol=1e-8)


def test_a_weight_of_two_is_a_row_twice():
    X, Y, W, village, _ = _trial()
    twice = np.concatenate([np.arange(len(Y)), np.flatnonzero(village < 30)])
    weights = np.where(village < 30, 2.0, 1.0)
    weighted = RidgeR().fit(X, Y, W, propensity=0.5, groups=village, sample_weights=weights)
    doubled = RidgeR().fit(X.take(twice), Y[twice], W[twice], propensity=0.5, groups=village[twice])
    np.testing.assert_allclose(doubled.predict(X), weighted.predict(X), atol=1e-10)


def test_leave_out_predictions_are_linear_and_leave_the_flip_unit_out():
    X, *_ = _trial()
    rows = average_rows(X, find_rows(X))
    rng = np.random.default_rng(0)
    u, flip = rng.normal(size=(len(rows), 3)), np.arange(len(rows)) // 4
    found = RidgeR().leave_out_predictions(rows, u, flip_unit=flip)
    shifted = u.copy()
    shifted[flip == 5] += 10
    again = RidgeR().leave_out_predictions(rows, shifted, flip_unit=flip)
    np.testing.assert_allclose(again[flip == 5], found[flip == 5], atol=1e-10)
    assert np.abs(again[flip != 5] - found[flip != 5]).max() > 1e-2
    np.testing.assert_allclose(
        RidgeR().leave_out_predictions(rows, u @ [1.0, 2, 3], flip_unit=flip), found @ [1.0, 2, 3], atol=1e-10
    )


def test_blocks_weigh_the_same_whatever_their_width_and_units():
    rng = np.random.default_rng(0)
    site = np.hstack([1e4 * rng.normal(size=(50, 30)), rng.normal(size=(50, 3))]).astype(np.float32)
    X = FeatureBlocks(
        site=site,
        unit=rng.normal(5, 3, size=(200, 2)).astype(np.float32),
        site_index=np.repeat(np.arange(50), 4),
        names=tuple(f"c{j}" for j in range(35)),
        blocks=("image_16",) * 30 + ("image_64",) * 3 + ("tabular",) * 2,
    )
    rows = find_rows(X)
    A = fit_row_scaling(average_rows(X, rows)).apply(average_rows(X, rows))
    for columns in (slice(0, 30), slice(30, 33), slice(33, 35)):
        assert (A[:, columns] ** 2).sum(axis=1).mean() == pytest.approx(1, abs=1e-9)


def test_missing_features_are_imputed_and_flagged():
    X, Y, W, village, _ = _trial(covariates=2)
    X.unit[::7, 1] = np.nan
    fit = RidgeR().fit(X, Y, W, propensity=0.5, groups=village)
    assert np.isfinite(fit.predict(X)).all()


def test_parameters_clone_and_wrong_ones_are_named():
    copy = clone(RidgeR(kernel="linear", icc=0.1))
    assert copy.get_params() == {"kernel": "linear", "degrees_of_freedom": 10.0, "gamma": "df", "icc": 0.1}
    X, Y, W, *_ = _trial()
    for wrong, message in [
        ({"kernel": "cubic"}, "`kernel` is 'cubic'"),
        ({"gamma": "cv"}, "`gamma` is 'cv'"),
        ({"degrees_of_freedom": 0}, "`degrees_of_freedom` is 0"),
        ({"icc": 1.0}, "`icc` is 1.0"),
    ]:
        with pytest.raises(EstimationError, match=message):
            RidgeR(**wrong).fit(X, Y, W, propensity=0.5)
    with pytest.raises(EstimationError, match="no parameter"):
        RidgeR().set_params(depth=3)
    with pytest.raises(EstimationError, match="one arm"):
        RidgeR().fit(X, Y, np.ones_like(W), propensity=0.5)
    with pytest.raises(EstimationError, match="shared by several"):
        RidgeR().fit(X, Y, W, propensity=0.5, groups=np.arange(len(Y)))
    with pytest.raises(EstimationError, match="not fitted"):
        RidgeR().predict(X)
    with pytest.raises(EstimationError, match="columns"):
        RidgeR().fit(X, Y, W, propensity=0.5).predict(X.gather())
