"""Refits on the same features: each column is, bit for bit, a forest fitted alone."""

import numpy as np
import pytest
from helpers_forest import village_trial

from eo_cate.errors import EstimationError
from eo_cate.estimators import CausalForest, RegressionForest
from eo_cate.estimators.forest import grow


def redraw(W, site, number, seed=7):
    """Treatment drawn anew by village, (n, number)."""
    rng, by_village = np.random.default_rng(seed), W[np.unique(site, return_index=True)[1]]
    return np.column_stack([rng.permutation(by_village)[site] for _ in range(number)])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["sites", "mixed", "units"])
def test_each_column_is_the_out_of_bag_effect_of_a_fit_alone(form, weighted):
    X, Y, W, site, _ = village_trial(villages=90, p_site=20, p_unit=2 if form == "mixed" else 0)
    X = X.gather() if form == "units" else X
    rng = np.random.default_rng(2)
    omega = rng.uniform(0.2, 3.0, len(Y)) * (rng.random(len(Y)) < 0.9) if weighted else None  # some of weight 0
    e, m = np.full(len(Y), 0.5), 0.3 * Y.mean()
    outcomes, arms = Y[:, None] + rng.standard_normal((len(Y), 3)), redraw(W, site, 3)
    options = {"propensity": e, "sample_weights": omega, "groups": site}
    forest = CausalForest(60, seed=4).fit(X, Y, W, Y_hat=m, **options)
    found = forest.refit_many(outcomes - m, arms - 0.5, W_raw=arms)
    assert found.shape == (len(Y), 3)
    for b in range(3):
        alone = CausalForest(60, seed=4).fit(X, outcomes[:, b], arms[:, b], Y_hat=m, **options).oob().tau_hat
        assert np.array_equal(found[:, b], alone)
    own = forest.refit_many(Y - m, W - e, W_raw=W)
    assert own.shape == (len(Y), 1)
    assert np.array_equal(own[:, 0], forest.oob().tau_hat)


def test_columns_do_not_know_of_each_other_of_threads_or_of_blocks(monkeypatch):
    X, Y, W, site, _ = village_trial(p_unit=0)
    outcomes, arms = Y[:, None] + np.random.default_rng(3).standard_normal((len(Y), 7)), redraw(W, site, 7)
    forest = CausalForest(40, seed=1).fit(X, Y, W, propensity=0.5, groups=site)
    together = forest.refit_many(outcomes, arms - 0.5, W_raw=arms)
    assert np.array_equal(together[:, [5]], forest.refit_many(outcomes[:, 5], arms[:, 5] - 0.5, W_raw=arms[:, 5]))
    threaded = CausalForest(40, seed=1, num_threads=2).fit(X, Y, W, propensity=0.5, groups=site)
    assert np.array_equal(threaded.refit_many(outcomes, arms - 0.5, W_raw=arms), together)
    monkeypatch.setattr(grow, "_MOST_MOMENTS", 2 * 60)  # two refits at a time
    assert np.array_equal(forest.refit_many(outcomes, arms - 0.5, W_raw=arms), together)
    shared = forest.refit_many(outcomes, W - 0.5, W_raw=W)
    repeated = np.repeat(W[:, None], 7, axis=1)
    assert np.array_equal(shared, forest.refit_many(outcomes, repeated - 0.5, W_raw=repeated))


def test_sign_flips_of_the_centred_treatment_and_no_leak_to_the_own_group():
    """METHODS.md, section 4: (W - e)* = xi (W - e), Y_res* = R + xi (W - e) ATE_hat, arms counted in the raw W."""
    X, Y, W, site, _ = village_trial(p_unit=0)
    T, forest = W - 0.5, CausalForest(60, seed=2).fit(X, Y, W, propensity=0.5, groups=site)
    xi = np.random.default_rng(4).choice([-1.0, 1.0], (60, 5))[site]
    residual = Y - Y.mean() - T * 0.5
    draws, flipped = residual[:, None] + 0.5 * xi * T[:, None], xi * T[:, None]
    found = forest.refit_many(draws, flipped, W_raw=W)
    assert np.isfinite(found).all()
    own = site == 7
    changed = forest.refit_many(draws + 50.0 * own[:, None], flipped, W_raw=W)
    assert np.array_equal(changed[own], found[own])
    assert np.abs(changed - found).max() > 1.0
    np.testing.assert_allclose(forest.refit_many(draws, -flipped, W_raw=W), -found, rtol=1e-9)
    np.testing.assert_allclose(forest.refit_many(draws, 2 * flipped, W_raw=W), found / 2, rtol=1e-9)


def test_the_raw_arms_limit_the_splits():
    """With few treated units a node of min_node_size 5 can hardly split, whatever the centred treatment is."""
    X, Y, W, site, _ = village_trial(p_unit=0)
    forest = CausalForest(60, seed=2).fit(X, Y, W, propensity=0.5, groups=site)
    few = (site < 2).astype(float)
    usual, limited = (forest.refit_many(Y, W - 0.5, W_raw=arms) for arms in (W, few))
    assert np.ptp(limited) < 0.5 * np.ptp(usual)


@pytest.mark.parametrize("weighted", [False, True])
def test_regression_columns_are_out_of_bag_predictions_of_fits_alone(weighted):
    X, Y, _, site, _ = village_trial(p_site=20)
    rng = np.random.default_rng(2)
    omega = rng.uniform(0.2, 3.0, len(Y)) * (rng.random(len(Y)) < 0.9) if weighted else None
    outcomes = 3.0 + Y[:, None] + rng.standard_normal((len(Y), 3))
    forest = RegressionForest(60, seed=4).fit(X, Y, sample_weights=omega, groups=site)
    found = forest.refit_many(outcomes)
    for b in range(3):
        alone = RegressionForest(60, seed=4).fit(X, outcomes[:, b], sample_weights=omega, groups=site).oob()
        assert np.array_equal(found[:, b], alone)
    assert np.array_equal(forest.refit_many(Y), forest.oob())
    left_out = RegressionForest(60, seed=4).leave_out_predictions(X, outcomes, flip_unit=site, weights=omega)
    np.testing.assert_allclose(left_out, found, rtol=1e-9)  # the same trees; its outcomes are not centred
    threaded = RegressionForest(60, seed=4, num_threads=2).fit(X, Y, sample_weights=omega, groups=site)
    assert np.array_equal(threaded.refit_many(outcomes), found)


def test_bad_refits_are_refused(tmp_path):
    X, Y, W, site, _ = village_trial()
    with pytest.raises(EstimationError, match="not fitted"):
        CausalForest(10).refit_many(Y, W, W_raw=W)
    with pytest.raises(EstimationError, match="not fitted"):
        RegressionForest(10).refit_many(Y)
    forest = CausalForest(10).fit(X, Y, W, propensity=0.5, groups=site)
    T = W - 0.5
    with pytest.raises(EstimationError, match=r"`Y_res` has shape \(479,\)"):
        forest.refit_many(Y[1:], T, W_raw=W)
    with pytest.raises(EstimationError, match="`W_res` has 1 NaN"):
        forest.refit_many(Y, np.where(np.arange(480) == 3, np.nan, T), W_raw=W)
    with pytest.raises(EstimationError, match="`W_raw` has 480 values other than 0 and 1"):
        forest.refit_many(Y, T, W_raw=T)
    with pytest.raises(EstimationError, match="1 columns of one arm"):
        forest.refit_many(Y, T, W_raw=np.column_stack([W, np.ones(480)]))
    with pytest.raises(EstimationError, match="one per refit in each"):
        forest.refit_many(np.column_stack([Y, Y, Y]), np.column_stack([T, T]), W_raw=W)
    with pytest.raises(EstimationError, match="`u` has shape"):
        RegressionForest(10).fit(X, Y, groups=site).refit_many(np.empty((480, 0)))
    forest.save(tmp_path / "forest.npz")
    with pytest.raises(EstimationError, match="comes from a file"):
        CausalForest.load(tmp_path / "forest.npz").refit_many(Y, T, W_raw=W)
