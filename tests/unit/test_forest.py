"""The causal forest: groups, determinism, leakage, symmetry, bad input."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers_forest import village_trial
from scipy.sparse import csr_array

from eo_cate.errors import EstimationError
from eo_cate.estimators import CausalForest
from eo_cate.estimators.forest.estimates import debiased_variance, solve_effect
from eo_cate.estimators.forest.grow import default_mtry
from eo_cate.types import CateEstimator


def fit(X, Y, W, groups, **options):
    extra = {
        key: options.pop(key)
        for key in ("propensity", "Y_hat", "W_hat", "sample_weights", "site_index")
        if key in options
    }
    forest = CausalForest(**{"num_trees": 40, "seed": 3} | options)
    known = {} if "W_hat" in extra else {"propensity": 0.5}
    return forest.fit(X, Y, W, groups=groups, **known | extra)


def trees_of(forest):
    trees = forest._fitted.trees
    return trees.nodes, trees.cuts, trees.node_start, trees.in_bag


def test_is_a_cate_estimator_and_learns():
    X, Y, W, site, tau = village_trial()
    forest = fit(X, Y, W, site, num_trees=200)
    assert isinstance(forest, CateEstimator)
    oob = forest.oob()
    assert oob.tau_hat.shape == oob.std_err.shape == (480,)
    assert np.corrcoef(oob.tau_hat, tau)[0, 1] > 0.6
    assert np.all(oob.std_err > 0)


def test_import_does_not_load_the_engine():
    code = "import sys, eo_cate.estimators; sys.exit('numba' in sys.modules or 'econml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_fit_loads_neither_scikit_learn_nor_pandas():
    """They would take more memory than the features of 10,000 units and 1,600 columns."""
    code = """if True:
        import sys
        import numpy as np
        from eo_cate.estimators import CausalForest
        X, W = np.random.default_rng(0).standard_normal((200, 4)), np.arange(200) % 2
        forest = CausalForest(10).fit(X, X[:, 0] * W, W, propensity=0.5)
        forest.oob(), forest.predict(X, std_err=True), forest.variable_importance()
        print(sorted({"sklearn", "pandas", "pyarrow", "geopandas", "scipy.stats"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("p_unit", [0, 2])
def test_threads_and_repetition_change_no_bit(p_unit):
    X, Y, W, site, _ = village_trial(p_unit=p_unit)
    first, *others = (fit(X, Y, W, site, num_threads=k) for k in (1, 1, 2, 8))
    for other in others:
        assert np.array_equal(first.predict(X), other.predict(X))
        assert np.array_equal(first.oob().std_err, other.oob().std_err)
    assert not np.array_equal(first.predict(X), fit(X, Y, W, site, seed=4).predict(X))


def test_estimates_do_not_depend_on_the_rows_that_come_along():
    X, Y, W, site, _ = village_trial(villages=200, households=8)  # 1,600 rows: two blocks of rows
    forest = fit(X, Y, W, site)
    tau_hat, std_err = forest.predict(X, std_err=True)
    some = np.random.default_rng(1).permutation(len(X))[:37]
    part, part_err = forest.predict(X.take(some), std_err=True)
    assert np.array_equal(part, tau_hat[some])
    assert np.array_equal(part_err, std_err[some])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("villages", [60, 400])  # 400: more distinct values than bins
def test_site_rows_grow_exactly_the_trees_of_unit_rows(villages, weighted):
    X, Y, W, site, _ = village_trial(p_unit=0, villages=villages, households=4 if villages == 400 else 8)
    omega = np.random.default_rng(1).uniform(0.2, 3.0, len(Y)) if weighted else None
    keep = np.random.default_rng(2).random(len(Y)) < 0.8  # villages of unequal size
    X, Y, W, site, omega = X.take(keep), Y[keep], W[keep], site[keep], None if omega is None else omega[keep]
    by_site, by_unit = (fit(x, Y, W, site, sample_weights=omega) for x in (X, X.gather()))
    by_index = fit(X.site, Y, W, site, sample_weights=omega, site_index=site)
    assert len(by_site._fitted.row_codes) == len(np.unique(site))
    assert len(by_unit._fitted.row_codes) == len(Y)
    assert by_site._fitted.trees.node_start[-1] > 5 * by_site.num_trees
    for other in (by_unit, by_index):
        assert all(np.array_equal(a, b) for a, b in zip(trees_of(by_site), trees_of(other), strict=True))
        np.testing.assert_allclose(by_site.oob().tau_hat, other.oob().tau_hat, rtol=1e-9)
        np.testing.assert_allclose(by_site.oob().std_err, other.oob().std_err, rtol=1e-6)
        np.testing.assert_allclose(by_site.predict(X), other.predict(X.gather()), rtol=1e-9)


def test_relabelled_groups_change_nothing():
    X, Y, W, site, _ = village_trial()
    labels = np.random.default_rng(5).permutation(1000)[: site.max() + 1]
    numbers, words = labels[site], np.array([f"village {k}" for k in labels])[site]
    expected = fit(X, Y, W, site).oob().tau_hat
    assert np.array_equal(fit(X, Y, W, numbers).oob().tau_hat, expected)
    assert np.array_equal(fit(X, Y, W, words).oob().tau_hat, expected)


def test_no_group_sees_its_own_outcomes():
    X, Y, W, site, _ = village_trial()
    own = site == 7
    changed = Y + np.where(own, 100.0, 0.0)
    before, after = (fit(X, outcome, W, site, Y_hat=0.0).oob() for outcome in (Y, changed))
    assert np.array_equal(before.tau_hat[own], after.tau_hat[own])
    assert np.array_equal(before.std_err[own], after.std_err[own])
    assert np.abs(before.tau_hat[~own] - after.tau_hat[~own]).max() > 0.1


def test_bags_hold_half_of_the_groups():
    X, Y, W, site, _ = village_trial()
    in_bag = fit(X, Y, W, site, num_trees=400)._fitted.trees.in_bag
    assert in_bag.shape == (200, 60)
    assert np.all(in_bag.sum(axis=1) == 30)
    # each group is in a bag with probability 1/2, so its share over 200 bags has standard deviation .035
    assert np.abs(in_bag.mean(axis=0) - 0.5).max() < 5 * 0.035
    assert len(np.unique(in_bag, axis=0)) == 200


@pytest.mark.parametrize("e", [0.5, 0.2])
def test_swapped_arms_swap_the_sign(e):
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((600, 4)), rng.integers(0, 2, 600).astype(float)
    Y, groups = X[:, 0] * W + rng.standard_normal(600), np.arange(600)
    tau_hat = fit(X, Y, W, groups, propensity=e).oob().tau_hat
    swapped = fit(X, Y, 1 - W, groups, propensity=1 - e).oob().tau_hat
    np.testing.assert_allclose(swapped, -tau_hat, atol=1e-12)


def test_swapped_arms_swap_the_sign_where_features_tie():
    """Among few villages several features give the same partition; rounding must not choose among them."""
    X, Y, W, site, _ = village_trial()
    tau_hat, swapped = fit(X, Y, W, site).oob().tau_hat, fit(X, Y, 1 - W, site).oob().tau_hat
    np.testing.assert_allclose(swapped, -tau_hat, rtol=1e-9)


def test_equal_weights_of_any_size_change_nothing_and_zero_weight_removes_a_unit():
    X, Y, W, site, _ = village_trial()
    plain = fit(X, Y, W, site).oob().tau_hat
    assert np.array_equal(fit(X, Y, W, site, sample_weights=np.full(len(Y), 4.0)).oob().tau_hat, plain)
    weights = np.where(np.arange(len(Y)) % 5, 1.0, 0.0)
    spoiled = np.where(weights > 0, Y, 1e6)
    expected = fit(X, Y, W, site, sample_weights=weights, Y_hat=0.0).oob().tau_hat
    assert np.array_equal(fit(X, spoiled, W, site, sample_weights=weights, Y_hat=0.0).oob().tau_hat, expected)
    assert np.isfinite(expected).all()


def test_weights_move_the_effect_to_the_heavy_units():
    rng = np.random.default_rng(0)
    X, W, heavy = rng.standard_normal((2000, 1)), rng.integers(0, 2, 2000).astype(float), rng.random(2000) < 0.5
    Y = W * np.where(heavy, 2.0, 0.0) + 0.1 * rng.standard_normal(2000)
    forest = CausalForest(num_trees=100).fit(X, Y, W, propensity=0.5, sample_weights=np.where(heavy, 9.0, 1.0))
    assert forest.predict(X).mean() == pytest.approx(1.8, abs=0.1)  # 2 * 9 / (9 + 1)


def test_varying_propensities_are_adjusted_for():
    """Stratum 1 is treated more often and has larger outcomes: without e the effect of 1 would look larger."""
    rng = np.random.default_rng(2)
    stratum = rng.integers(0, 2, 4000)
    e = np.where(stratum, 0.8, 0.2)
    W = (rng.random(4000) < e).astype(float)
    Y = 3.0 * stratum + W + 0.5 * rng.standard_normal(4000)
    X = rng.standard_normal((4000, 2))
    Y_hat = 3.0 * stratum + e
    known = CausalForest(num_trees=100).fit(X, Y, W, propensity=e, Y_hat=Y_hat).predict(X)
    ignored = CausalForest(num_trees=100).fit(X, Y, W, propensity=0.5).predict(X)
    assert known.mean() == pytest.approx(1.0, abs=0.05)
    assert ignored.mean() > 2


def test_absence_of_a_value_is_something_to_split_on():
    X, Y, W, site, _ = village_trial()
    unit = X.unit.copy()
    absent = np.random.default_rng(6).random(len(Y)) < 0.5
    unit[absent, 1] = np.nan
    gappy = replace(X, unit=unit)
    forest = fit(gappy, Y + 3.0 * absent * W, W, site, num_trees=200)
    tau_hat = forest.predict(gappy)
    assert np.isfinite(tau_hat).all()
    assert tau_hat[absent].mean() - tau_hat[~absent].mean() > 1.5  # of 3; with the mean imputed and no more, 0


def test_monotone_transforms_change_nothing_and_tiny_features_are_not_constants():
    X, Y, W, site, _ = village_trial()
    tiny = replace(X, site=(1e-9 * X.site).astype(np.float32), unit=np.exp(X.unit))
    assert np.array_equal(fit(tiny, Y, W, site).oob().tau_hat, fit(X, Y, W, site).oob().tau_hat)


def walk_tree(trees, t, codes):
    """Leaf means of one row of codes in tree t, step by step."""
    k = first = trees.node_start[t]
    while trees.nodes[k, 0] >= 0:
        feature, left = trees.nodes[k]
        cut, missing_left = trees.cuts[k]
        goes_left = bool(missing_left) if codes[feature] == 255 else codes[feature] <= cut
        k = first + left + (0 if goes_left else 1)
    return trees.means[trees.leaf_start[t] + trees.nodes[k, 1]]


def test_variance_equals_its_definition():
    """Item 9 of METHODS section 8, written out per tree for unweighted units."""
    X, Y, W, site, _ = village_trial()
    forest = fit(X, Y, W, site, num_trees=30)
    fitted, unit = forest._fitted, 11
    row = fitted.row_of_unit[unit]
    use = ~fitted.trees.in_bag[:, fitted.row_group[row]]
    trees = np.array(
        [[walk_tree(fitted.trees, 2 * b + t, fitted.row_codes[row]) for t in range(2)] for b in np.flatnonzero(use)]
    )
    _, y, w, wy, ww = trees.reshape(-1, 5).mean(axis=0)
    tau = (wy - w * y) / (ww - w * w)
    mu = y - w * tau
    y_t, w_t, wy_t, ww_t = np.moveaxis(trees, -1, 0)[1:]
    r = ((wy_t - ww_t * tau - w_t * mu) - w * (y_t - w_t * tau - mu)) / (ww - w * w)
    between, total = (r.mean(axis=1) ** 2).mean(), (r**2).mean()
    oob = forest.oob()
    assert oob.tau_hat[unit] == pytest.approx(tau, rel=1e-12)
    variance = debiased_variance(np.array([between]), np.array([total]), np.array([use.sum()]))
    assert oob.std_err[unit] == pytest.approx(np.sqrt(variance[0]), rel=1e-10)


def test_debiased_variance_is_positive_and_tends_to_the_difference():
    between, total = np.array([1.0, 0.5, 0.1, 0.0]), np.array([1.2, 2.0, 5.0, 0.0])
    few, many = (debiased_variance(between, total, np.full(4, bags)) for bags in (50, 10**8))
    assert np.all(few[:3] > 0)
    assert few[3] == 0
    np.testing.assert_allclose(many[:2], [0.8, 1e-4], atol=2e-4)  # 2 between - total; never below 0


def test_no_variation_of_treatment_is_nan():
    means = np.array([[1.0, 0.2, 0.5, 0.3, 0.25], [1.0, 0.2, 0.1, 0.3, 0.26]])
    tau_hat = solve_effect(means)
    assert np.isnan(tau_hat[0])
    assert tau_hat[1] == pytest.approx((0.3 - 0.02) / 0.25)


def test_pickle_keeps_the_forest():
    X, Y, W, site, _ = village_trial()
    forest = fit(X, Y, W, site)
    copy = pickle.loads(pickle.dumps(forest))
    assert np.array_equal(copy.predict(X), forest.predict(X))


def test_default_mtry_is_that_of_grf():
    assert [default_mtry(p) for p in (1, 10, 32, 1600)] == [1, 10, 26, 60]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Y": np.nan}, "`Y` has 1 NaN"),
        ({"Y": np.inf}, "`Y` has 1 NaN or infinite"),
        ({"W": np.nan}, "`W` has 1 NaN"),
        ({"W": 2.0}, "`W` has 1 values other than 0 and 1"),
        ({"propensity": 0.0}, "`propensity` has 1 values outside"),
        ({"propensity": 1.0}, "`propensity` has 1 values outside"),
        ({"propensity": 1.2}, "`propensity` has 1 values outside"),
        ({"sample_weights": -1.0}, "`sample_weights` has 1 negative"),
    ],
)
def test_one_bad_value_is_refused(change, message):
    X, Y, W, site, _ = village_trial()
    values = {"Y": Y, "W": W, "propensity": np.full(len(Y), 0.5), "sample_weights": np.ones(len(Y))}
    for name, value in change.items():
        values[name] = values[name].copy()
        values[name][5] = value
    with pytest.raises(EstimationError, match=message):
        CausalForest(num_trees=2).fit(X, groups=site, **values)


def test_bad_shapes_and_designs_are_refused():
    X, Y, W, site, _ = village_trial()
    with pytest.raises(EstimationError, match="`Y` has 479 rows, but there are 480 units"):
        fit(X, Y[1:], W, site)
    with pytest.raises(EstimationError, match="`groups` has shape"):
        fit(X, Y, W, site[1:])
    with pytest.raises(EstimationError, match="9 groups"):
        fit(X, Y, W, site % 9)
    with pytest.raises(EstimationError, match="480 treated units of 480"):
        fit(X, Y, np.ones(len(Y)), site)
    with pytest.raises(EstimationError, match="0 treated"):
        fit(X, Y, np.zeros(len(Y)), site)
    with pytest.raises(EstimationError, match="no columns"):
        fit(np.empty((480, 0)), Y, W, site)
    with pytest.raises(EstimationError, match="no columns"):
        fit(replace(X, site=X.site[:, :0], unit=X.unit[:, :0], names=(), blocks=()), Y, W, site)
    with pytest.raises(EstimationError, match="`Y_hat` has 3 rows"):
        fit(X, Y, W, site, Y_hat=np.zeros(3))
    with pytest.raises(EstimationError, match="`W_hat` has 480 NaN"):
        fit(X, Y, W, site, W_hat=np.nan)
    infinite = X.gather()
    infinite[3, 2] = np.inf
    with pytest.raises(EstimationError, match=r"1 infinite values .*x_2"):
        fit(infinite, Y, W, site)


def test_matrices_that_are_none_are_refused():
    X, Y, W, site, _ = village_trial(p_unit=0)
    matrix = X.gather()
    for wrong, message in [
        (matrix[:, 0], r"1 dimension\(s\), 2 are needed. Reshape"),
        (csr_array(matrix), "sparse, which is not supported"),
        (matrix + 1j, "Complex data not supported"),
    ]:
        with pytest.raises(EstimationError, match=message):
            fit(wrong, Y, W, site)
        with pytest.raises(EstimationError, match=message):
            fit(X, Y, W, site).predict(wrong)
    with pytest.raises(EstimationError, match="holds its own site_index"):
        fit(X, Y, W, site, site_index=site)
    with pytest.raises(EstimationError, match=r"`site_index` must lie in \[0, 60\)"):
        fit(X.site, Y, W, site, site_index=site + 1)
    assert issubclass(EstimationError, ValueError)  # what scikit-learn's searches and checks expect of bad input


@pytest.mark.parametrize(
    "options",
    [
        {"num_trees": 7},
        {"num_trees": 0},
        {"sample_fraction": 1.0},
        {"honesty_fraction": 0.0},
        {"alpha": 0.5},
        {"mtry": 0},
        {"min_node_size": 0},
        {"num_threads": 0},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(EstimationError, match=f"`{next(iter(options))}` is"):
        CausalForest(**options)


def test_other_features_at_predict_are_refused():
    X, Y, W, site, _ = village_trial()
    forest = fit(X, Y, W, site)
    with pytest.raises(EstimationError, match="7 columns that are not the 8"):
        forest.predict(X.gather()[:, 1:])
    with pytest.raises(EstimationError, match="order differs"):
        forest.predict(replace(X, names=X.names[1::-1] + X.names[2:]))
    with pytest.raises(EstimationError, match="not fitted"):
        CausalForest(num_trees=2).oob()
